"""Interpret the values of a label: an alpha from 0 to 255, a mask with other values, or a class map."""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Kind = Literal["alpha", "mask", "map"]

_MAX_CLASSES = 32  # with more values it is a soft alpha, or a mask with soft edges
_WHITE = 200  # labels with larger values range up to 255, allowing for JPEG noise
_BLACK = 1
_FLAT_PX = 5  # squares of this side with one value occur in class maps, but not in soft edges
_FLAT_SHARE = 0.1  # of all pixels that are not background


class Meaning(NamedTuple):
    """How to interpret a label.

    Attributes:
        kind: "alpha" has values up to 255 and is used unchanged; "mask" has two other values, or only 1;
            "map" is a class map, whose values are not opacities.
        values: All values in the label, ascending.
    """

    kind: Kind
    values: tuple[int, ...]


def meaning_of(label: Pixels) -> Meaning:
    """Classify a label, (H, W), by its values."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
    values = tuple(np.flatnonzero(counts).tolist())
    if len(values) <= 2:
        is_mask = values == (1,) or (len(values) == 2 and values != (0, 255))
        return Meaning("mask" if is_mask else "alpha", values)
    return Meaning("map" if len(values) <= _MAX_CLASSES and _has_classes(label, values) else "alpha", values)


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
    """Scale a mask's two values to 0 and 255; return an alpha unchanged."""
    if meaning.kind != "mask":
        return label
    return np.where(label == meaning.values[-1], 255, 0).astype(np.uint8)


def coverage(label: Pixels) -> float:
    """Return the fraction of a label's pixels that belong to the subject."""
    return float((label > 127).mean())


def border_coverage(label: Pixels) -> float:
    """Return the fraction of the border pixels that belong to the subject."""
    border = np.concatenate([label[0], label[-1], label[1:-1, 0], label[1:-1, -1]])
    return float((border > 127).mean())
