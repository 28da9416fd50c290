"""Losses of the stages: small functions of tensors, each with a weight per pixel.

All take `weight` (B, 1, H, W) in [0, 1], how far the label is to be believed there, and return a scalar. All
are means over pictures of equal say: so the mean over the parts of a batch, on several processes or one after
another, is the loss of the whole batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@functools.cache
def _erosions(device: torch.device) -> Any:
    """Ten of them, weighted by their number squared; kornia is wanted by this loss alone."""
    from kornia.losses import HausdorffERLoss

    return HausdorffERLoss().to(device)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values · weight over all pixels.

    Not divided by the sum of the weights: that is known only once the whole batch is seen, and a picture of
    little belief would count as much as one of full belief.
    """
    return (values * weight).mean()


def bce(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of logits against a soft alpha, both (B, 1, H, W)."""
    return _mean(F.binary_cross_entropy_with_logits(logits, alpha, reduction="none"), weight)


def dice(logits: Tensor, alpha: Tensor, weight: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − Dice coefficient, a picture at a time, then the mean over the batch.

    Reference:
        Milletari et al., "V-Net", 2016, section 3, without squares in the denominator; smooth = 1 as
        published with StyleMatte.
    """
    predicted = torch.sigmoid(logits) * weight
    wanted = alpha * weight
    overlap = (predicted * wanted).sum((1, 2, 3))
    total = predicted.sum((1, 2, 3)) + wanted.sum((1, 2, 3))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def multiscale_dice(logits: Tensor, alpha: Tensor, weight: Tensor, levels: int = 4) -> Tensor:
    """1 − Dice coefficient of the picture and of averages of 2×2, 4×4 … of its pixels, the mean over scales.

    The coarse scales ask for whole subjects, whatever their outlines are. Squares stand in the denominator:
    averages are soft, and a soft answer that is right must cost nothing.

    Reference:
        Zhang, Liang, Shi, "KD-SCFNet: Towards More Accurate and Efficient Salient Object Detection via
        Knowledge Distillation", 2022: Dice between student and teacher at scales 1, 1/2, 1/4 and 1/8.
    """
    predicted, total = torch.sigmoid(logits), logits.new_zeros(())
    for level in range(levels):
        if level:
            # Of what is believed: an average of both would blame the network for pixels without a label.
            heavier = F.avg_pool2d(weight, 2).clamp(min=1e-6)
            predicted, alpha = (F.avg_pool2d(x * weight, 2) / heavier for x in (predicted, alpha))
            weight = F.avg_pool2d(weight, 2)
        overlap = (weight * predicted * alpha).sum((1, 2, 3))
        size = (weight * (predicted.square() + alpha.square())).sum((1, 2, 3))
        total = total + (1 - (2 * overlap + 1) / (size + 1)).mean()
    return total / levels


def l1(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute error of alpha: MAD, as mattes are scored."""
    return _mean((torch.sigmoid(logits) - alpha).abs(), weight)


def l2(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of alpha."""
    return _mean((torch.sigmoid(logits) - alpha).square(), weight)


def laplacian(logits: Tensor, alpha: Tensor, weight: Tensor, levels: int = 3) -> Tensor:
    """L1 between the Laplacian pyramids of two alphas, summed over levels without level weights.

    Args:
        logits: (B, 1, H, W).
        alpha: (B, 1, H, W) in [0, 1].
        weight: (B, 1, H, W) in [0, 1]; shrunk with the pyramid.
        levels: Band-pass levels; the low-pass rest is left to the other losses.

    Reference:
        Hou, Liu, "Context-Aware Image Matting", 2019, eq. 2; three levels of a 5×5 binomial kernel with
        reflected borders as published with StyleMatte.
    """
    difference = torch.sigmoid(logits) - alpha  # the pyramid is linear: that of the difference does
    difference = difference * (weight > 0)  # or blurring would carry what is not believed to its neighbours
    total = difference.new_zeros(())
    for _ in range(levels):
        blurred = _binomial(difference)
        total = total + _mean((difference - blurred).abs(), weight)
        difference, weight = blurred[..., ::2, ::2], weight[..., ::2, ::2]
    return total


def hausdorff(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """How thick the regions are in which two mattes differ: a stand-in for the Hausdorff distance.

    The squared difference is eroded ten times, and what outlasts more erosions costs more. So it grows with
    the distance between two outlines, up to some twenty pixels, while bits apart from the subject cost by
    their own thickness, however far away they lie.

    Args:
        logits: (B, 1, H, W).
        alpha: (B, 1, H, W) in [0, 1].
        weight: (B, 1, H, W) in [0, 1]; the squared difference is multiplied by it.

    Reference:
        Karimi, Salcudean, "Reducing the Hausdorff Distance in Medical Image Segmentation with Convolutional
        Neural Networks", 2019, eq. 8, with alpha = 2 and ten erosions, in kornia's version: every erosion is
        stretched to [0, 1], a picture at a time.
    """
    believed = alpha + weight.sqrt() * (torch.sigmoid(logits) - alpha)
    # Not its forward(): that takes class numbers, one channel a class, so that a lone channel would be
    # compared with class 0, the background. This is what it does with every channel.
    return _erosions(believed.device).perform_erosion(believed, alpha).mean()


def composition(logits: Tensor, alpha: Tensor, weight: Tensor, contrast: Tensor) -> Tensor:
    """How far the composite of the predicted alpha is from the picture: |Δalpha| · |F − B|.

    Args:
        logits: (B, 1, H, W).
        alpha: (B, 1, H, W) in [0, 1].
        weight: (B, 1, H, W) in [0, 1].
        contrast: (B, 3, H, W) in [-1, 1], foreground minus background colour; 0 where they are not known.

    Reference:
        Xu et al., "Deep Image Matting", 2017, eq. 2: there the root of the squared difference plus 1e-12,
        here its absolute value, averaged over the three colours.
    """
    difference = (torch.sigmoid(logits) - alpha).abs()
    return _mean(difference * contrast.abs().mean(1, keepdim=True), weight)


def _binomial(x: Tensor) -> Tensor:
    """Blur (B, 1, H, W) with a 5×5 binomial kernel, borders reflected.

    Sums of slices: a processor takes several times as long for a convolution of one channel.
    """
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    for axis in (-1, -2):
        length = x.shape[axis] - 4
        a, b, c, d, e = (x.narrow(axis, start, length) for start in range(5))
        x = (a + e + 4 * (b + d) + 6 * c) / 16
    return x


# What a recipe may name. To add one: a function as above, and a line here. A loss that needs more of a batch
# than logits, alpha and weight takes it by the name it has there and says so in NEEDS; the loader brings it.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "dice": dice,
    "hausdorff": hausdorff,
    "l1": l1,
    "l2": l2,
    "laplacian": laplacian,
    "composition": composition,
    "multiscale_dice": multiscale_dice,
}
NEEDS: dict[str, tuple[str, ...]] = {"composition": ("contrast",)}
FINE_ONLY = tuple(NEEDS)  # the loader looks at the fine losses alone
