"""Priors for training: a user's hint about the subject, or the alpha of a clip's previous frame.

A prior is one plane at working size: a mask or an earlier alpha, a box filled with 1/2, or a point as a blob
with maximum 1. Networks learn to follow a prior on one subject or on all, to correct a shifted or incomplete
one, and to ignore one that lies on no subject.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Plane = NDArray[np.uint8]

BOX_VALUE = 128
POINT_RADIUS = 0.025  # standard deviation of a point's blob, as a fraction of the square root of the area
_KINDS = ("moved", "half", "box", "point", "wrong", "all")
_SHARES = (0.14, 0.28, 0.08, 0.26, 0.08, 0.16)


def draw_prior(rng: Rng, target: Plane, everything: Plane) -> tuple[Plane, bool]:
    """Draw a random prior for an image.

    Args:
        rng: Random generator.
        target: (H, W) uint8 alpha of the subject that the prior selects.
        everything: (H, W) uint8 alpha of all subjects, including `target`.

    Returns:
        The prior (H, W) uint8, and whether it selects `target`. A wrong prior and one of all subjects do not:
        the correct answer is then `everything`.
    """
    kind = str(rng.choice(_KINDS, p=_SHARES))
    if kind == "wrong" or (target > 127).sum() < 16:
        return _wrong(rng, everything), False
    if kind == "all":
        return _moved(rng, everything), False
    if kind == "moved":
        return _moved(rng, target), True
    if kind == "half":
        return _half(rng, target), True
    if kind == "box":
        return _box(rng, target), True
    rows, columns = np.nonzero(cv2.erode(target, np.ones((5, 5), np.uint8)) > 200)
    if not len(rows):
        return _box(rng, target), True
    index = rng.integers(len(rows))
    return draw_point(target.shape, (int(rows[index]), int(columns[index]))), True


def draw_point(size: tuple[int, int], point: tuple[int, int]) -> Plane:
    """Render a point as a prior.

    Args:
        size: (height, width) of the plane.
        point: (row, column).

    Returns:
        (H, W) uint8, a Gaussian blob of height 255.
    """
    deviation_px = POINT_RADIUS * np.sqrt(size[0] * size[1])
    rows, columns = (np.arange(n, dtype=np.float32) - at for n, at in zip(size, point, strict=True))
    blob = np.outer(*(np.exp(-(x**2) / (2 * deviation_px**2)) for x in (rows, columns)))
    return (255 * blob + 0.5).astype(np.uint8)


def draw_box(size: tuple[int, int], box: tuple[int, int, int, int]) -> Plane:
    """Render a box (top, left, bottom, right; the last two exclusive) as a prior, (H, W) uint8."""
    plane = np.zeros(size, np.uint8)
    top, left, bottom, right = box
    plane[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = BOX_VALUE
    return plane


def _moved(rng: Rng, target: Plane) -> Plane:
    """Imitate a previous frame's alpha: shifted, scaled, and softer or harder than the true alpha."""
    height, width = target.shape
    scale, angle = rng.uniform(0.92, 1.08), rng.normal(0, 3)
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale), np.float64)
    matrix[:, 2] += rng.normal(0, 0.03, 2) * (width, height)
    moved = cv2.warpAffine(target, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.4:
        moved = cv2.GaussianBlur(moved, (0, 0), rng.uniform(1, 6))
    elif rng.random() < 0.5:  # a mask
        moved = np.where(moved > 127, 255, 0)
    return np.asarray(moved, np.uint8)


def _half(rng: Rng, target: Plane) -> Plane:
    """Return the part on one side of a line through the subject, 0.3 to 0.8 of it."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(target.shape)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    cut = np.quantile(along[target > 127], rng.uniform(0.3, 0.8))
    return np.where(along < cut, target, 0).astype(np.uint8)


def _box(rng: Rng, target: Plane) -> Plane:
    """Return the subject's bounding box, with sides off by up to a tenth."""
    rows, columns = np.nonzero(target.max(1) > 127)[0], np.nonzero(target.max(0) > 127)[0]
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    off = rng.uniform(-0.1, 0.1, 4) * (bottom - top, right - left, bottom - top, right - left)
    sides = np.round(np.array([top, left, bottom, right]) + off).astype(int)
    return draw_box(target.shape, (int(sides[0]), int(sides[1]), int(sides[2]), int(sides[3])))


def _wrong(rng: Rng, everything: Plane) -> Plane:
    """Return a point or box outside all subjects; zeros if the subjects fill the image."""
    height, width = everything.shape
    rows, columns = np.nonzero(cv2.dilate(everything, np.ones((9, 9), np.uint8)) < 8)
    if not len(rows):
        return np.zeros_like(everything)
    index = rng.integers(len(rows))
    row, column = int(rows[index]), int(columns[index])
    if rng.random() < 0.5:
        return draw_point(everything.shape, (row, column))
    reach = (int(height * rng.uniform(0.05, 0.2)), int(width * rng.uniform(0.05, 0.2)))
    box = draw_box(everything.shape, (row - reach[0], column - reach[1], row + reach[0], column + reach[1]))
    value = 255 if rng.random() < 0.5 else BOX_VALUE
    return np.where((everything < 8) & (box > 0), value, 0).astype(np.uint8)
