"""Scores of alphas against ground truth, by the published protocol of P3M and StyleMatte, and of clips.

This module needs only NumPy and OpenCV, so `stylematte evaluate` works without torch. Alphas are (H, W)
float32 in [0, 1], trimaps (H, W) uint8 in {0, 128, 255}. Any other trimap value counts as unknown.

Reference:
    Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009 (Grad, Conn);
    Li et al., "Privacy-Preserving Portrait Matting", ACM MM 2021 (the constants and the trimap versions);
    Erofeev et al., "Perceptually Motivated Benchmark for Video Matting", BMVC 2015 (dtSSD, MESSDdt).
"""

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Alpha = NDArray[np.float32]
Trimap = NDArray[np.uint8]

GRAD_SIGMA_PX = 1.4
FLOW_MIN_PX = 16  # minimum side, because DIS works on blocks
CONN_THRESHOLDS = tuple(np.float32(k / 10) for k in range(11))
CONN_THETA = np.float32(0.15)

# What each column means; d is prediction minus truth. Published values called "MSE" can differ tenfold for
# the same image, so region and divisor are always given with the number.
CONVENTIONS = {
    "SAD": "sum |d| / 1000, whole image",
    "MSE": "sum d^2 / (H W), whole image, a fraction (x1000 is the common x1e-3)",
    "MAD": "sum |d| / (H W), whole image, a fraction",
    "Grad": "sum of squared differences of gradient magnitude / 10, Gaussian derivatives of sigma 1.4 px, "
    "whole image",
    "Conn": "sum of differences of connectivity / 1000, steps of 0.1, 4-connectivity, theta 0.15, "
    "whole image",
    "IoU": "intersection over union of alpha >= 0.5, whole image; none where both are empty",
    "SAD-tri": "unknown band: sum |d| / 1000, prediction set to 1 and 0 where the trimap is 255 and 0",
    "MSE-tri": "unknown band: sum d^2 / unknown pixels, known pixels as for SAD-tri, a fraction",
    "MAD-tri": "unknown band: sum |d| / unknown pixels, known pixels as for SAD-tri, a fraction",
    "SAD-FG": "foreground: sum |d| / 1000 where the trimap is 255",
    "SAD-BG": "background: sum |d| / 1000 where the trimap is 0",
    "dtSSD": "clip: 100 sqrt(sum (d_t - d_t-1)^2 / (H W)), mean over pairs of frames",
    "MESSDdt": "clip: 1000 sum |d_t(p)^2 - d_t+1(p + v)^2| / (H W), mean over pairs; v is the optical flow "
    "of the true alphas (DIS)",
    "flicker": "clip: 1000 sum |d_t - (d_t-1 + d_t+1) / 2| / (H W), mean over triples; errors that come "
    "and go",
}
WHOLE_IMAGE = ("SAD", "MSE", "MAD", "Grad", "Conn", "IoU")
OF_CLIPS = ("dtSSD", "MESSDdt", "flicker")
WITH_TRIMAP = ("SAD-tri", "MSE-tri", "MAD-tri", "SAD-FG", "SAD-BG")


def measure(prediction: Alpha, truth: Alpha, trimap: Trimap | None = None) -> dict[str, float]:
    """Compute all scores of one image.

    Args:
        prediction: (H, W) float32 in [0, 1].
        truth: (H, W) float32 in [0, 1].
        trimap: (H, W) uint8; adds the scores of `WITH_TRIMAP`.

    Returns:
        Score by name, with the conventions in `CONVENTIONS`. MSE-tri and MAD-tri are NaN if the trimap has no
        unknown pixel, and IoU is NaN if neither alpha contains a subject.

    Raises:
        ValueError: The sizes differ.
    """
    scores = {
        "SAD": sad(prediction, truth),
        "MSE": mse(prediction, truth),
        "MAD": mad(prediction, truth),
        "Grad": grad(prediction, truth),
        "Conn": conn(prediction, truth),
        "IoU": iou(prediction, truth),
    }
    return scores if trimap is None else scores | trimap_scores(prediction, truth, trimap)


class ClipScores:
    """Scores the temporal stability of a clip, frame by frame; keeps three frames in memory."""

    def __init__(self) -> None:
        self._before: list[tuple[Alpha, Alpha]] = []  # difference and truth of the last frames
        self._values: dict[str, list[float]] = {key: [] for key in OF_CLIPS}
        self.frames = 0

    def add(self, prediction: Alpha, truth: Alpha) -> None:
        """Add the next frame; arguments as in `measure`.

        Raises:
            ValueError: The sizes differ from each other or from the previous frame.
        """
        difference = _difference(prediction, truth)
        self.frames += 1
        if self._before:
            last_difference, last_truth = self._before[-1]
            _check_sizes(difference, last_difference)
            squared = _sum((difference - last_difference) ** 2) / truth.size
            self._values["dtSSD"].append(100 * squared**0.5)
            moved = _follow(difference**2, last_truth, truth)
            self._values["MESSDdt"].append(1000 * _sum(np.abs(last_difference**2 - moved)) / truth.size)
        if len(self._before) == 2:
            middle = self._before[1][0] - (self._before[0][0] + difference) / 2
            self._values["flicker"].append(1000 * _sum(np.abs(middle)) / truth.size)
        self._before = [*self._before[-1:], (difference, truth)]

    def scores(self) -> dict[str, float]:
        """Return the mean of each score, with the conventions in `CONVENTIONS`; NaN with too few frames."""
        means = {key: np.mean(values) if values else np.nan for key, values in self._values.items()}
        return {key: float(mean) for key, mean in means.items()}


def sad(prediction: Alpha, truth: Alpha) -> float:
    """Sum of absolute differences, in thousands of pixels; arguments as in `measure`."""
    return _sum(np.abs(_difference(prediction, truth))) / 1000


def mse(prediction: Alpha, truth: Alpha) -> float:
    """Mean squared difference over the whole image; arguments as in `measure`."""
    return _sum(_difference(prediction, truth) ** 2) / truth.size


def mad(prediction: Alpha, truth: Alpha) -> float:
    """Mean absolute difference over the whole image; arguments as in `measure`."""
    return _sum(np.abs(_difference(prediction, truth))) / truth.size


def iou(prediction: Alpha, truth: Alpha) -> float:
    """Intersection over union of both alphas thresholded at 0.5; NaN if both are empty."""
    _check_sizes(prediction, truth)
    a, b = prediction >= 0.5, truth >= 0.5
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else float("nan")  # nothing to score is no score


def grad(prediction: Alpha, truth: Alpha) -> float:
    """Gradient error: how much softer or harder the edges are. Arguments as in `measure`.

    Reference:
        Rhemann et al. 2009, section 4.2, with sigma 1.4 and the sum divided by 10.
    """
    _check_sizes(prediction, truth)
    return _sum((_gradient_magnitude(prediction) - _gradient_magnitude(truth)) ** 2) / 10


def conn(prediction: Alpha, truth: Alpha) -> float:
    """Connectivity error: parts disconnected from the subject, and islands. Arguments as in `measure`.

    The source region is the largest 4-connected region in which both alphas exceed a threshold. As in the
    published protocol, thresholds without a common pixel are skipped, so a completely empty prediction scores
    0. Read Conn together with SAD.

    Reference:
        Rhemann et al. 2009, section 4.3, with theta 0.15 and steps of 0.1.
    """
    _check_sizes(prediction, truth)
    least = np.minimum(prediction, truth)
    # The highest threshold at which a pixel is still connected to the source region.
    connected_to = np.ones(truth.shape, np.float32)
    is_open = np.ones(truth.shape, bool)
    for below, threshold in pairwise(CONN_THRESHOLDS):
        source = _largest_component(least >= threshold)
        if source is None:
            continue
        lost = is_open & ~source
        connected_to[lost] = below
        is_open &= source
    return _sum(np.abs(_connectivity(prediction, connected_to) - _connectivity(truth, connected_to))) / 1000


def trimap_scores(prediction: Alpha, truth: Alpha, trimap: Trimap) -> dict[str, float]:
    """SAD, MSE and MAD of the unknown band, and SAD of the two known regions; arguments as in `measure`.

    As published, the prediction is set to the trimap in its known regions, and the errors are then summed
    over all pixels: truth that contradicts the trimap still counts.
    """
    _check_sizes(trimap, truth)
    foreground, background = trimap == 255, trimap == 0
    unknown_count = int(trimap.size - np.count_nonzero(foreground) - np.count_nonzero(background))
    difference = np.abs(_difference(prediction, truth))
    known = np.where(foreground, np.float32(1), np.where(background, np.float32(0), prediction))
    banded = np.abs(known - truth)
    return {
        "SAD-tri": _sum(banded) / 1000,
        "MSE-tri": _sum(banded**2) / unknown_count if unknown_count else float("nan"),
        "MAD-tri": _sum(banded) / unknown_count if unknown_count else float("nan"),
        "SAD-FG": _sum(difference[foreground]) / 1000,
        "SAD-BG": _sum(difference[background]) / 1000,
    }


def trimap_from_alpha(alpha: Alpha, radius_px: int) -> Trimap:
    """Make a trimap whose unknown band covers all pixels within a distance of soft pixels.

    Args:
        alpha: (H, W) float32 in [0, 1], ground truth.
        radius_px: Euclidean distance by which the regions alpha = 1 and alpha = 0 are eroded; with 0 only
            soft pixels are unknown. Regions are not eroded at the image border.

    Returns:
        (H, W) uint8 in {0, 128, 255}.
    """
    trimap = np.full(alpha.shape, 128, np.uint8)
    for value, region in ((0, alpha <= 0), (255, alpha >= 1)):
        distance_px = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        trimap[distance_px > radius_px] = value
    return trimap


def _follow(values: Alpha, truth: Alpha, next_truth: Alpha) -> Alpha:
    """Warp the next frame's values back to this frame, by the optical flow of the true alphas."""
    if min(truth.shape) < FLOW_MIN_PX:
        return values
    method: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = method.calc(_bytes(truth), _bytes(next_truth), None)
    height, width = truth.shape
    x = flow[:, :, 0] + np.arange(width, dtype=np.float32)
    y = flow[:, :, 1] + np.arange(height, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _bytes(alpha: Alpha) -> NDArray[np.uint8]:
    return np.round(alpha * 255).astype(np.uint8)


def _check_sizes(one: NDArray[Any], other: NDArray[Any]) -> None:
    if one.shape != other.shape:
        raise ValueError(f"sizes differ: {one.shape} and {other.shape}")


def _difference(prediction: Alpha, truth: Alpha) -> Alpha:
    _check_sizes(prediction, truth)
    return prediction - truth


def _sum(values: NDArray[Any]) -> float:
    return float(values.sum(dtype=np.float64))


def _gradient_magnitude(alpha: Alpha) -> NDArray[np.float32]:
    # Kernels truncated at four sigma and a mirrored border with repeated edge pixel, as in SciPy's
    # gaussian_filter, which computed the published numbers.
    radius_px = int(4 * GRAD_SIGMA_PX + 0.5)
    x = np.arange(-radius_px, radius_px + 1)
    smooth = np.exp(-0.5 * (x / GRAD_SIGMA_PX) ** 2)
    smooth /= smooth.sum()
    slope = x / GRAD_SIGMA_PX**2 * smooth
    along_x = cv2.sepFilter2D(alpha, cv2.CV_32F, slope, smooth, borderType=cv2.BORDER_REFLECT)
    along_y = cv2.sepFilter2D(alpha, cv2.CV_32F, smooth, slope, borderType=cv2.BORDER_REFLECT)
    return np.hypot(along_x, along_y)


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    if count == 1:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + np.flatnonzero(areas == areas.max())
    # Of components of equal size take the first in row-major order, independent of OpenCV's numbering.
    label = largest[0] if largest.size == 1 else labels.flat[int(np.isin(labels, largest).argmax())]
    component: NDArray[np.bool_] = labels == label
    return component


def _connectivity(alpha: Alpha, connected_to: NDArray[np.float32]) -> NDArray[np.float32]:
    excess = alpha - connected_to
    return np.float32(1) - np.where(excess >= CONN_THETA, excess, np.float32(0))
