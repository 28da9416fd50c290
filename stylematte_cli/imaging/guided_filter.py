"""The second half of the fast guided filter: coarse coefficients and the full-size picture give alpha."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte_cli.imaging.geometry import STRIP_PX, Picture, white_of


def apply_coefficients(
    coefficients: NDArray[np.float32],
    image: Picture,
    grey_weights: tuple[float, float, float],
    grey_offset: float,
    dtype: DTypeLike = np.float32,
) -> NDArray[np.generic]:
    """Compute alpha = sigmoid(A↑ · grey + b↑) at the picture's size, strip by strip.

    ↑ is bilinear with the corner pixels aligned, as `align_corners=True` in torch; OpenCV's resize aligns
    pixel edges instead. Little more memory is taken than the result.

    Args:
        coefficients: (2, h, w) float32: A and b.
        image: (H, W, 3) RGB uint8, uint16, or float32 in [0, 1].
        grey_weights: Channel weights of the guide, for colours in [0, 1].
        grey_offset: Offset of the guide.
        dtype: Of the result: float32 in [0, 1], or uint8 or uint16 with 255 or 65535 for 1.

    Returns:
        (H, W) alpha.

    Reference:
        He, Sun, "Fast Guided Filter", 2015, algorithm 2, steps 5-6.
    """
    height, width = image.shape[:2]
    alpha_white = white_of(dtype)
    grey_row = np.array([[*grey_weights, 0]], np.float32) / np.float32(white_of(image.dtype))
    grey_row[0, 3] = grey_offset

    left, fraction = _aligned_positions(coefficients.shape[2], width)
    # Minus, because the sigmoid wants exp(-logits).
    columns = np.negative(coefficients)
    right = columns[:, :, np.minimum(left + 1, coefficients.shape[2] - 1)]
    columns = columns[:, :, left]
    columns += fraction * (right - columns)  # (2, h, W)

    alpha = np.empty((height, width), dtype)
    rounding = 0.0 if alpha_white == 1 else 0.5
    for first, last, above, fractions in _row_strips(coefficients.shape[1], height, width):
        A, b = columns[:, above]
        slope_A, slope_b = columns[:, min(above + 1, coefficients.shape[1] - 1)] - columns[:, above]
        grey = cv2.transform(np.ascontiguousarray(image[first:last], np.float32), grey_row)
        logits = fractions * slope_A
        logits += A
        logits *= grey.reshape(logits.shape)
        np.multiply(fractions, slope_b, out=grey.reshape(logits.shape))
        logits += grey.reshape(logits.shape)
        logits += b
        strip = cv2.exp(logits).reshape(logits.shape)  # inf where alpha is 0: 1 / inf is right
        strip += 1
        np.divide(alpha_white, strip, out=strip)
        strip += rounding
        alpha[first:last] = strip
    return alpha


def _aligned_positions(coarse: int, fine: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where each fine pixel lies on the coarse grid when the corner pixels of both coincide.

    Returns:
        (fine,) index of the coarse pixel before it, and (fine,) float32 distance from that one.
    """
    scale = (coarse - 1) / (fine - 1) if fine > 1 else 0.0
    positions = np.arange(fine) * scale
    before = np.minimum(positions.astype(np.intp), coarse - 1)
    return before, (positions - before).astype(np.float32)


def _row_strips(coarse: int, fine: int, width: int) -> Iterator[tuple[int, int, int, NDArray[np.float32]]]:
    """Cut the fine rows into strips that lie between two coarse rows and fit the cache.

    Yields:
        First row, row after the last, coarse row above them, (rows, 1) distance from that one.
    """
    above, fractions = _aligned_positions(coarse, fine)
    most = max(1, STRIP_PX // width)
    for row in range(coarse):
        begin, end = np.searchsorted(above, (row, row + 1))
        for first in range(int(begin), int(end), most):
            last = min(first + most, int(end))
            yield first, last, row, fractions[first:last, None]
