"""Float64 NumPy and SciPy versions of what the networks compute, written from the papers alone."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Map = NDArray[np.float64]


def box_mean(x: Map, radius_px: int) -> Map:
    """Mean over a window cut at the border, (h, w): sums with zeros outside, divided by what is left."""
    window = np.ones(2 * radius_px + 1)

    def total(values: Map) -> Map:
        for axis in (0, 1):
            values = ndimage.convolve1d(values, window, axis, mode="constant")
        return values

    return total(x) / total(np.ones_like(x))


def guided_coefficients(
    guide: Map, logits: Map, radius_px: int, eps: float, averaged: bool = True
) -> tuple[Map, Map]:
    """A and b, each (h, w); He, Sun, "Fast Guided Filter", 2015, algorithm 2."""
    mean_guide, mean_logits = box_mean(guide, radius_px), box_mean(logits, radius_px)
    variance = box_mean(guide**2, radius_px) - mean_guide**2
    covariance = box_mean(guide * logits, radius_px) - mean_guide * mean_logits
    a = covariance / (variance + eps)
    b = mean_logits - a * mean_guide
    return (box_mean(a, radius_px), box_mean(b, radius_px)) if averaged else (a, b)


def upsample(x: Map, size: tuple[int, int]) -> Map:
    """Bilinear with the corner pixels aligned, (h, w) → size: one axis after the other."""
    for axis, fine in enumerate(size):
        positions = np.linspace(0, x.shape[axis] - 1, fine) if fine > 1 else np.zeros(1)
        x = np.apply_along_axis(
            lambda row, at=positions: np.interp(at, np.arange(len(row)), row), axis, x
        )  # fmt: skip
    return x


def guided_logits(
    coarse_guide: Map, logits: Map, guide: Map, radius_px: int, eps: float, averaged: bool = True
) -> Map:
    """The whole filter: (h, w), (h, w), (H, W) → (H, W)."""
    a, b = guided_coefficients(coarse_guide, logits, radius_px, eps, averaged)
    return upsample(a, guide.shape) * guide + upsample(b, guide.shape)


def sigmoid(x: Map) -> Map:
    return 1 / (1 + np.exp(-x))
