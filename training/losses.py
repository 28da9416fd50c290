"""Losses of the stages: functions of tensors, with a weight per pixel.

All take `weight` (B, 1, H, W) in [0, 1], the confidence in the label, and return a scalar. All are means over
images with equal weights, so the mean over the parts of a batch (in several processes or passes) is the loss
of the whole batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@functools.cache
def _erosions(device: torch.device) -> Any:
    """Return ten erosions, weighted by their index squared; only this loss needs kornia."""
    from kornia.losses import HausdorffERLoss

    return HausdorffERLoss().to(device)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of values · weight over all pixels.

    The mean is not divided by the sum of the weights: that sum is only known for the whole batch, and an
    image with low confidence would count as much as one with full confidence.
    """
    return (values * weight).mean()


def bce(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of logits against a soft alpha, both (B, 1, H, W)."""
    return _mean(F.binary_cross_entropy_with_logits(logits, alpha, reduction="none"), weight)


def dice(logits: Tensor, alpha: Tensor, weight: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − Dice coefficient of each image, averaged over the batch.

    Reference:
        Milletari et al., "V-Net", 2016, section 3, without squares in the denominator; smooth = 1 as
        published with StyleMatte.
    """
    predicted = torch.sigmoid(logits) * weight
    target = alpha * weight
    overlap = (predicted * target).sum((1, 2, 3))
    total = predicted.sum((1, 2, 3)) + target.sum((1, 2, 3))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def multiscale_dice(logits: Tensor, alpha: Tensor, weight: Tensor, levels: int = 4) -> Tensor:
    """1 − Dice coefficient at full size and after averaging 2×2, 4×4 … pixels, averaged over scales.

    The coarse scales reward finding the whole subject, regardless of its outline. The denominator uses
    squares: averages are soft, and a correct soft prediction must have no loss.

    Reference:
        Zhang, Liang, Shi, "KD-SCFNet: Towards More Accurate and Efficient Salient Object Detection via
        Knowledge Distillation", 2022: Dice between student and teacher at scales 1, 1/2, 1/4 and 1/8.
    """
    predicted, total = torch.sigmoid(logits), logits.new_zeros(())
    for level in range(levels):
        if level:
            # Average only labelled pixels: otherwise the network would be penalised for unlabelled ones.
            heavier = F.avg_pool2d(weight, 2).clamp(min=1e-6)
            predicted, alpha = (F.avg_pool2d(x * weight, 2) / heavier for x in (predicted, alpha))
            weight = F.avg_pool2d(weight, 2)
        overlap = (weight * predicted * alpha).sum((1, 2, 3))
        size = (weight * (predicted.square() + alpha.square())).sum((1, 2, 3))
        total = total + (1 - (2 * overlap + 1) / (size + 1)).mean()
    return total / levels


def l1(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute error of alpha (MAD)."""
    return _mean((torch.sigmoid(logits) - alpha).abs(), weight)


def l2(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of alpha."""
    return _mean((torch.sigmoid(logits) - alpha).square(), weight)


def laplacian(logits: Tensor, alpha: Tensor, weight: Tensor, levels: int = 3) -> Tensor:
    """L1 between the Laplacian pyramids of two alphas, summed over levels without level weights.

    Args:
        logits: (B, 1, H, W).
        alpha: (B, 1, H, W) in [0, 1].
        weight: (B, 1, H, W) in [0, 1]; downsampled with the pyramid.
        levels: Band-pass levels; the low-pass residual is left to the other losses.

    Reference:
        Hou, Liu, "Context-Aware Image Matting", 2019, eq. 2; three levels of a 5×5 binomial kernel with
        reflected borders as published with StyleMatte.
    """
    difference = torch.sigmoid(logits) - alpha  # the pyramid is linear, so that of the difference suffices
    difference = difference * (weight > 0)  # so that blurring does not spread unlabelled pixels
    total = difference.new_zeros(())
    for _ in range(levels):
        blurred = _binomial(difference)
        total = total + _mean((difference - blurred).abs(), weight)
        difference, weight = blurred[..., ::2, ::2], weight[..., ::2, ::2]
    return total


def hausdorff(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Thickness of the regions in which two mattes differ: an approximation of the Hausdorff distance.

    The squared difference is eroded ten times, and regions that survive more erosions cost more. The loss
    therefore grows with the distance between two outlines, up to about twenty pixels. Regions apart from the
    subject cost according to their thickness, regardless of their distance.

    Args:
        logits: (B, 1, H, W).
        alpha: (B, 1, H, W) in [0, 1].
        weight: (B, 1, H, W) in [0, 1]; the squared difference is multiplied by it.

    Reference:
        Karimi, Salcudean, "Reducing the Hausdorff Distance in Medical Image Segmentation with Convolutional
        Neural Networks", 2019, eq. 8, with alpha = 2 and ten erosions, in kornia's version: every erosion is
        normalised to [0, 1] per image.
    """
    weighted = alpha + weight.sqrt() * (torch.sigmoid(logits) - alpha)
    # kornia's forward() expects class indices and one channel per class, so a single channel would be
    # compared with class 0, the background. It calls this function for every channel.
    return _erosions(weighted.device).perform_erosion(weighted, alpha).mean()


def composition(logits: Tensor, alpha: Tensor, weight: Tensor, contrast: Tensor) -> Tensor:
    """Difference between the image and the composite with the predicted alpha: |Δalpha| · |F − B|.

    Args:
        logits: (B, 1, H, W).
        alpha: (B, 1, H, W) in [0, 1].
        weight: (B, 1, H, W) in [0, 1].
        contrast: (B, 3, H, W) in [-1, 1], foreground minus background colour; 0 where they are unknown.

    Reference:
        Xu et al., "Deep Image Matting", 2017, eq. 2, with the absolute difference, averaged over the three
        colours, instead of the square root of the squared difference plus 1e-12.
    """
    difference = (torch.sigmoid(logits) - alpha).abs()
    return _mean(difference * contrast.abs().mean(1, keepdim=True), weight)


def _binomial(x: Tensor) -> Tensor:
    """Blur (B, 1, H, W) with a 5×5 binomial kernel and reflected borders.

    Sums of slices are several times faster on a CPU than a convolution of one channel.
    """
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    for axis in (-1, -2):
        length = x.shape[axis] - 4
        a, b, c, d, e = (x.narrow(axis, start, length) for start in range(5))
        x = (a + e + 4 * (b + d) + 6 * c) / 16
    return x


# Losses that a recipe may name. To add one, write a function as above and add a line here. A loss that needs
# more of a batch than logits, alpha and weight takes it as a keyword argument listed in NEEDS.
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
FINE_ONLY = tuple(NEEDS)  # the loader only considers fine losses
