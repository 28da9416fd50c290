"""The second half of the fast guided filter: alpha from coarse coefficients and the full-size image."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte.imaging.geometry import STRIP_PX, ImageArray, Window, white_of


def apply_coefficients(
    coefficients: NDArray[np.float32],
    image: ImageArray,
    grey_weights: tuple[float, float, float],
    grey_offset: float,
    dtype: DTypeLike = np.float32,
    window: Window | None = None,
) -> NDArray[np.generic]:
    """Compute alpha = sigmoid(A↑ · grey + b↑) at the image's size, strip by strip.

    ↑ is bilinear upsampling with aligned corner pixels, as `align_corners=True` in torch; OpenCV's resize
    aligns pixel edges instead. Little more memory is needed than for the result.

    Args:
        coefficients: (2, h, w) float32: A and b.
        image: (H, W, 3) RGB uint8, uint16, or float32 in [0, 1].
        grey_weights: Channel weights of the guide, for colours in [0, 1].
        grey_offset: Offset of the guide.
        dtype: Dtype of the result: float32 in [0, 1], or uint8 or uint16 with 255 or 65535 for 1.
        window: Rows and columns of the image to compute; all if not given.

    Returns:
        (H, W) alpha of the image or of the window.

    Reference:
        He, Sun, "Fast Guided Filter", 2015, algorithm 2, steps 5-6.
    """
    rows, window_columns = window or (slice(None), slice(None))
    left, fraction = _aligned_positions(coefficients.shape[2], image.shape[1], window_columns)
    above, fractions = _aligned_positions(coefficients.shape[1], image.shape[0], rows)
    image = image[rows, window_columns]
    height, width = image.shape[:2]
    alpha_white = white_of(dtype)
    grey_row = np.array([[*grey_weights, 0]], np.float32) / np.float32(white_of(image.dtype))
    grey_row[0, 3] = grey_offset

    # Negative, because the sigmoid needs exp(-logits).
    negative = np.negative(coefficients)
    columns = negative.take(left, axis=2, mode="clip")
    right = negative.take(left + 1, axis=2, mode="clip")
    right -= columns
    right *= fraction
    columns += right  # (2, h, W)
    slopes = np.diff(columns, axis=1, append=columns[:, -1:])

    alpha = np.empty((height, width), dtype)
    rounding = 0.0 if alpha_white == 1 else 0.5
    most = max(1, STRIP_PX // width)
    for first in range(0, height, most):
        strip = slice(first, first + most)
        grey = cv2.transform(np.ascontiguousarray(image[strip], np.float32), grey_row)
        grey = grey.reshape(-1, width)
        logits = np.empty(grey.shape, np.float32)
        for row, part in _between_rows(above[strip]):
            (A, b), (slope_A, slope_b) = columns[:, row], slopes[:, row]
            down, some, light = fractions[strip][part, None], logits[part], grey[part]
            np.multiply(down, slope_A, out=some)
            some += A
            some *= light
            np.multiply(down, slope_b, out=light)
            some += light
            some += b
        cv2.exp(logits, logits)  # may be inf where alpha is 0; 1 / inf is correct
        logits += 1
        np.divide(alpha_white, logits, out=logits)
        logits += rounding
        alpha[strip] = logits
    return alpha


def _aligned_positions(coarse: int, fine: int, part: slice) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the positions of part of the fine pixels on the coarse grid, with aligned corner pixels.

    Returns:
        (n,) index of the coarse pixel before each, and (n,) float32 distance from it.
    """
    scale = (coarse - 1) / (fine - 1) if fine > 1 else 0.0
    positions = np.arange(fine)[part] * scale
    before = np.minimum(positions.astype(np.intp), coarse - 1)
    return before, (positions - before).astype(np.float32)


def _between_rows(above: NDArray[np.intp]) -> Iterator[tuple[int, slice]]:
    """Group consecutive fine rows by the coarse row above them; `above` is sorted.

    Yields:
        A coarse row, and the fine rows between it and the next.
    """
    ends = np.flatnonzero(np.diff(above, append=-1)) + 1
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        yield above[begin], slice(begin, end)
