"""Losses of the stages: small functions of tensors, each with a weight per pixel.

All take `weight` (B, 1, H, W) in [0, 1], how far the label is to be believed there, and return a scalar.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1)


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


def _binomial(x: Tensor) -> Tensor:
    row = x.new_tensor([1.0, 4, 6, 4, 1]) / 16
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    x = F.conv2d(x, row.view(1, 1, 1, 5))
    return F.conv2d(x, row.view(1, 1, 5, 1))


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bce": bce,
    "dice": dice,
    "l2": l2,
    "laplacian": laplacian,
}
