"""Stabilise mattes over time: average each with its neighbours, warped along the subject's motion.

An image model mattes each frame independently, so alpha in the soft band flickers with the background. The
average keeps what moves with the subject, and removes what does not.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.imaging.geometry import ImageArray, resize, to_dtype, to_float

HISTORY = 3.0  # weight of all previous frames; the frame itself has 1
LOOKAHEAD = 1.0  # weight of the next frame
TOLERANCE = 0.45  # sigma of a neighbour's weight over the alpha difference; prevents ghosts of fast motion
FLOW_SIDE = 384  # longest side of the images for optical flow
CUT_SIZE, CUT_CHANGE = (9, 16), 0.12  # (height, width) and mean colour change that indicates a cut
CLEAR = 1 / 255
OUTSIDE = 64  # offset of the subject's grey over the black background in the images for optical flow


@dataclass(eq=False)
class FrameState:
    """The stabiliser's data of a frame.

    Attributes:
        alpha: (H, W) float32 in [0, 1], from the network.
        subject: Small grey image for optical flow.
        overview: Smaller RGB image for cut detection.
        band: First and last row, first and last column with soft alpha; None if there is none.
    """

    alpha: NDArray[np.float32]
    subject: NDArray[np.uint8]
    overview: NDArray[np.float32]
    band: tuple[int, int, int, int] | None


class Stabiliser:
    """Stabilises the frames of a clip in order; returns each frame's alpha once it has the next frame.

    It needs memory for a few alphas. It detects cuts, and restarts the average there.
    """

    def __init__(self) -> None:
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: NDArray[np.float32] | None = None  # stabilised alpha of the previous frame
        self._before_subject: NDArray[np.uint8] | None = None
        self._before_band: tuple[int, int, int, int] | None = None
        self._current: FrameState | None = None
        self.cuts = 0

    def push(self, coming: FrameState) -> NDArray[np.uint16] | None:
        """Add a frame.

        Returns:
            (H, W) stabilised alpha of the previous frame; None for the first.
        """
        current = self._current
        if current is None:
            self._current = coming
            return None
        is_cut = float(np.abs(coming.overview - current.overview).mean()) > CUT_CHANGE
        result = self._steady(current, None if is_cut else coming)
        self._current = coming
        if is_cut:
            self.cuts += 1
            self._before = self._before_subject = None
        else:
            self._before, self._before_subject, self._before_band = result, current.subject, current.band
        return to_dtype(result, np.uint16)

    def flush(self) -> NDArray[np.uint16] | None:
        """Return the stabilised alpha of the last frame, and reset for another clip."""
        current, self._current = self._current, None
        if current is None:
            return None
        result = to_dtype(self._steady(current, None), np.uint16)
        self._before = self._before_subject = None
        return result

    def _steady(self, current: FrameState, after: FrameState | None) -> NDArray[np.float32]:
        """Average; a neighbour has the weight w · exp(-(difference of alpha)² / (2 · tolerance²))."""
        neighbours = []
        if self._before is not None and self._before_subject is not None:
            neighbours.append((self._before, self._before_subject, self._before_band, HISTORY))
        if after is not None:
            neighbours.append((after.alpha, after.subject, after.band, LOOKAHEAD))
        if not neighbours:
            return current.alpha
        flows = [self._flow.calc(current.subject, subject, None) for _, subject, _, _ in neighbours]
        window = _window(current, [band for _, _, band, _ in neighbours], flows)
        if window is None:
            return current.alpha
        own = np.ascontiguousarray(current.alpha[window])
        total, weight = own.copy(), np.ones_like(own)
        for (alpha, _, _, say), flow in zip(neighbours, flows, strict=True):
            moved = _moved(alpha, flow, window)
            difference = np.square(moved - own)
            share = np.asarray(cv2.exp(difference * (-0.5 / TOLERANCE**2)), np.float32).reshape(own.shape)
            share *= say
            weight += share
            moved *= share
            total += moved
        result = current.alpha.copy()
        np.divide(total, weight, out=result[window])
        return result


def look_at(image: ImageArray, alpha: NDArray[Any]) -> FrameState:
    """Return the stabiliser's data of a frame; thread-safe.

    Args:
        image: (H, W, 3) RGB uint8 or uint16.
        alpha: (H, W) uint8, uint16, or float32 in [0, 1].
    """
    height, width = alpha.shape
    scale = min(1.0, FLOW_SIDE / max(height, width))
    size = max(16, round(height * scale)), max(16, round(width * scale))  # DIS needs a minimum size
    small = to_float(resize(image, size))
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).reshape(size)
    opacity = to_float(resize(alpha, size))
    # The background is removed, because its own motion must not affect the matte.
    subject = np.clip((191 * grey + OUTSIDE) * np.clip(opacity, 0, 1), 0, 255).astype(np.uint8)
    values = to_float(alpha)
    soft = (values > CLEAR) & (values < 1 - CLEAR)
    rows, columns = np.flatnonzero(soft.any(axis=1)), np.flatnonzero(soft.any(axis=0))
    band = None if not rows.size else (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))
    return FrameState(values, subject, resize(small, CUT_SIZE), band)


def _window(
    current: FrameState, others: list[tuple[int, int, int, int] | None], flows: list[NDArray[np.float32]]
) -> tuple[slice, slice] | None:
    """Return the window that averaging can change: all bands, extended by their largest motion."""
    bands = np.array([band for band in (current.band, *others) if band is not None])
    if not bands.size:
        return None
    height, width = current.alpha.shape
    scale = max(height / flows[0].shape[0], width / flows[0].shape[1])
    reach = 2 + int(scale * max(float(np.abs(flow).max()) for flow in flows))
    top, left = max(0, bands[:, 0].min() - reach), max(0, bands[:, 2].min() - reach)
    bottom, right = bands[:, 1].max() + reach + 1, bands[:, 3].max() + reach + 1
    return slice(top, min(height, bottom)), slice(left, min(width, right))


def _moved(
    alpha: NDArray[np.float32], flow: NDArray[np.float32], window: tuple[slice, slice]
) -> NDArray[np.float32]:
    """Warp a neighbour's alpha to the current frame along the flow from it to the neighbour, in a window."""
    height, width = alpha.shape
    rows, columns = window
    scale_y, scale_x = flow.shape[0] / height, flow.shape[1] / width
    inverse_map = np.array(
        [
            [scale_x, 0, (columns.start + 0.5) * scale_x - 0.5],
            [0, scale_y, (rows.start + 0.5) * scale_y - 0.5],
        ]
    )
    shape = columns.stop - columns.start, rows.stop - rows.start
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    at = cv2.warpAffine(flow, inverse_map, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    at[:, :, 0] *= 1 / scale_x
    at[:, :, 1] *= 1 / scale_y
    at[:, :, 0] += np.arange(columns.start, columns.stop, dtype=np.float32)[None, :]
    at[:, :, 1] += np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    moved = cv2.remap(alpha, at[:, :, 0], at[:, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32).reshape(shape[1], shape[0])
