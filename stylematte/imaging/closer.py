"""A closer look: the network sees the subject again, enlarged, with the first alpha as its prior.

If the subject covers a part of the image only, it then has more of the network's grid. Without a hint, the
second alpha is blended into the uncertain band alone, so that flat places do not change; with a hint, into
all of the subject's surroundings. A mean of both alphas has fewer large errors than either, and the network
sees the subject mirrored, so that the errors of both are less alike.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.imaging.geometry import ImageArray, Window, resize, to_float
from stylematte.imaging.guided_filter import apply_coefficients
from stylematte.imaging.refinement import FADE_PX, Patch, apply_patches, band_of, upsample

LEAST_ALPHA = 0.05  # of what belongs to the subject
LEAST_SUBJECT_PX = 50  # opaque pixels of the first alpha, at working size
MARGIN = 0.12  # on each side of the subject, as a fraction of its own side
MOST_SHARE = 0.85  # of the image's area: a window above this is hardly an enlargement
BAND_RADIUS = 1 / 40  # of the working size's side
BAND_WEIGHT = 0.85  # of the second alpha, in the band
HINTED_WEIGHT = 0.5  # of the second alpha, in the window, after a hint
BLOCK_PX = 512

Plane = NDArray[np.float32]


class Closer(NamedTuple):
    """The result of a closer look.

    Attributes:
        window: Rows and columns of the image, as fractions of its sides: (top, bottom, left, right).
        coefficients: (2, h', w') float32 of the image's window.
        share: (h, w) uint8, the weight of the closer look over the whole image, 255 = 1.
    """

    window: tuple[float, float, float, float]
    coefficients: NDArray[np.float32]
    share: NDArray[np.uint8]


def find_window(alpha: Plane) -> Window | None:
    """Return the surroundings of the subject.

    Args:
        alpha: (h, w) in [0, 1].

    Returns:
        Rows and columns; None if there is no subject, or if it fills the image.
    """
    if np.count_nonzero(alpha > 0.5) < LEAST_SUBJECT_PX:
        return None
    found = alpha > LEAST_ALPHA
    sides = []
    for axis, length in enumerate(alpha.shape):
        places = np.flatnonzero(found.any(1 - axis))
        first, last = int(places[0]), int(places[-1]) + 1
        margin = round(MARGIN * (last - first)) + 1
        sides.append(slice(max(0, first - margin), min(length, last + margin)))
    rows, columns = sides
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return (rows, columns) if area < MOST_SHARE * alpha.size else None


def in_band(alpha: Plane) -> NDArray[np.uint8]:
    """Return the share of a closer look without a hint: high in the band of uncertain alpha, (h, w) uint8."""
    band = band_of(alpha, max(2 * FADE_PX, round(BAND_RADIUS * np.sqrt(alpha.size))), FADE_PX)
    return np.asarray(cv2.convertScaleAbs(band, alpha=BAND_WEIGHT), np.uint8)


def prior_of(alpha: Plane, hint: NDArray[Any]) -> Plane:
    """Return the prior of a closer look after a hint: what the hint says counts double.

    Args:
        alpha: (h, w) first alpha.
        hint: (H, W) the user's prior, uint8, uint16 or float32.
    """
    return np.clip(np.maximum(alpha / 2, to_float(resize(hint, alpha.shape))), 0, 1)


def in_window(window: Window, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the share of a closer look after a hint: high in the window, fading out, (h, w) uint8."""
    share = np.zeros(size, np.uint8)
    share[window] = round(255 * HINTED_WEIGHT)
    fade = 2 * FADE_PX + 1
    inside = cv2.erode(share, np.ones((fade, fade), np.uint8))  # the image's own border does not fade
    return np.asarray(cv2.blur(inside, (fade, fade), borderType=cv2.BORDER_REPLICATE), np.uint8)


def as_fractions(window: Window, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Convert a window in pixels of an image of a size to `Closer.window`."""
    (rows, columns), (height, width) = window, size
    return rows.start / height, rows.stop / height, columns.start / width, columns.stop / width


def in_pixels(window: tuple[float, float, float, float], size: tuple[int, int]) -> Window:
    """Convert `Closer.window` to pixels of an image of a size."""
    top, bottom, left, right = window
    height, width = size
    return slice(round(top * height), round(bottom * height)), slice(
        round(left * width), round(right * width)
    )


def apply_closer(
    alpha: NDArray[Any],
    image: ImageArray,
    closer: Closer,
    grey_weights: tuple[float, float, float],
    grey_offset: float,
    window: Window | None = None,
) -> NDArray[Any]:
    """Blend a closer look into the first alpha, in place.

    Args:
        alpha: (h, w) uint8, uint16 or float32 first alpha of the image or of the window.
        image: (H, W, 3) RGB of any size.
        closer: The closer look.
        grey_weights: As for `apply_coefficients`.
        grey_offset: As for `apply_coefficients`.
        window: Rows and columns of the image that alpha covers; all if not given.

    Returns:
        The alpha.
    """
    size = image.shape[:2]
    whole = slice(0, size[0]), slice(0, size[1])
    origin = window or whole
    seen = in_pixels(closer.window, size)
    part = image[seen]
    scale = closer.share.shape[0] / size[0], closer.share.shape[1] / size[1]
    for block in _blocks(_overlap(seen, origin)):
        share = np.divide(upsample(closer.share, scale, block), 255, dtype=np.float32)
        if not share.any():
            continue
        there = _moved(block, seen)
        second = to_float(
            apply_coefficients(closer.coefficients, part, grey_weights, grey_offset, np.float32, there)
        )
        apply_patches(alpha, [Patch(_moved(block, origin), second, share)])
    return alpha


def _overlap(one: Window, other: Window) -> Window:
    rows, columns = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return rows, columns


def _moved(window: Window, origin: Window) -> Window:
    """Return a window relative to another's first row and column."""
    rows, columns = (slice(w.start - o.start, w.stop - o.start) for w, o in zip(window, origin, strict=True))
    return rows, columns


def _blocks(window: Window) -> Iterator[Window]:
    rows, columns = window
    for top, left in product(
        range(rows.start, rows.stop, BLOCK_PX), range(columns.start, columns.stop, BLOCK_PX)
    ):
        yield slice(top, min(top + BLOCK_PX, rows.stop)), slice(left, min(left + BLOCK_PX, columns.stop))
