"""What the values of a label mean: an alpha of 0 to 255, a mask in other numbers, or a map of classes."""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Kind = Literal["alpha", "mask", "map"]

_MOST_CLASSES = 32  # more values than one photo has classes: a soft alpha, or a mask with soft edges
_WHITE = 200  # the largest value of what goes up to 255, noise of a JPEG counted in
_BLACK = 1
_FLAT_PX = 5  # soft edges have no squares of this side in one value, objects of a class have
_FLAT_SHARE = 0.1  # of all that is not background


class Meaning(NamedTuple):
    """How to read a label.

    Attributes:
        kind: "alpha" has values up to 255 and stays as it is; "mask" has two in other numbers, or 1 alone;
            "map" is neither: classes, whose numbers are no opacities.
        values: All values that it has, ascending.
    """

    kind: Kind
    values: tuple[int, ...]


def meaning_of(label: Pixels) -> Meaning:
    """Find out what the values of a label, (H, W), mean."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
    values = tuple(np.flatnonzero(counts).tolist())
    if len(values) <= 2:
        is_mask = values == (1,) or (len(values) == 2 and values != (0, 255))
        return Meaning("mask" if is_mask else "alpha", values)
    return Meaning("map" if len(values) <= _MOST_CLASSES and _has_classes(label, values) else "alpha", values)


def _has_classes(label: Pixels, values: tuple[int, ...]) -> bool:
    if values[0] > _BLACK:  # classes begin at 0 or 1
        return False
    if values[-1] < _WHITE:
        return True
    square = np.ones((_FLAT_PX, _FLAT_PX), np.uint8)
    flat = cv2.erode(label, square) == cv2.dilate(label, square)
    between = (label > values[0]) & (label < _WHITE)
    return bool((flat & between).sum() > _FLAT_SHARE * (label > values[0]).sum())


def to_full_range(label: Pixels, meaning: Meaning) -> Pixels:
    """A mask in 0 and 255, whatever its two numbers were; an alpha as it is."""
    if meaning.kind != "mask":
        return label
    return np.where(label == meaning.values[-1], 255, 0).astype(np.uint8)


def coverage(label: Pixels) -> float:
    """Share of a label's pixels that belong to the subject."""
    return float((label > 127).mean())


def border_coverage(label: Pixels) -> float:
    """Share of the outermost pixels that belong to the subject."""
    border = np.concatenate([label[0], label[-1], label[1:-1, 0], label[1:-1, -1]])
    return float((border > 127).mean())
