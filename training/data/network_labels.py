"""Labels from networks that agree: what is the subject, how soft is its edge, and how far to believe both.

One network, the teacher, draws alphas. Whether it found the right subject is judged by what saw the photo
besides: a second network, the model that is to learn, and joints or other points that people marked. A photo
on which they do not agree is left out: a wrong label costs more than a missing one. docs/training.md,
"Labels", says what the thresholds come from.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.label_cleanup import disc
from training.metrics import iou

Alpha = NDArray[np.float32]

SMALLEST, LARGEST = 0.004, 0.93  # share of the photo that a subject covers
MOST_SOFT = 0.12  # share of the photo that is half transparent; more of it is a teacher that did not decide
FEWEST_POINTS = 0.8  # of the marked points that lie inside
SOLID = 0.3  # opacity from which a body is made whole
SOLID_INSET = 0.02  # as a share of the longer side: how far inside its outline
WELL, FAIRLY, BARELY = 0.9, 0.75, 0.5  # IoU of two networks


class Doubtful(NamedTuple):
    """In place of a label: why there is none."""

    reason: str


class NetworkLabel(NamedTuple):
    """A label made by networks.

    Attributes:
        alpha: (H, W) float32 in [0, 1].
        confidence: (H, W) float32 in [0, 1], how far to believe `alpha`.
    """

    alpha: Alpha
    confidence: Alpha


def label_from_networks(
    teacher: Alpha, second: Alpha, student: Alpha, points: NDArray[np.float64] | None = None
) -> NetworkLabel | Doubtful:
    """Make a label of a photo from three networks' alphas.

    Args:
        teacher: (H, W) float32 in [0, 1], of the network with the best edges.
        second: (H, W), of another network.
        student: (H, W), of the model that is to learn, as it is now.
        points: (N, 2) x and y in pixels of joints that people marked, all on the subject.

    Returns:
        The teacher's alpha, its half-transparent bodies made whole, and the confidence in it; or why there is
        no label: nothing, everything or something else is the subject.
    """
    share = float((teacher > 0.5).mean())
    if not SMALLEST <= share <= LARGEST:
        return Doubtful(f"the subject covers {share:.1%}")
    soft = float(((teacher > 0.05) & (teacher < 0.95)).mean())
    if soft > max(MOST_SOFT, 0.9 * share):
        return Doubtful(f"{soft:.0%} is half transparent")
    inside = None if points is None or not len(points) else points_inside(teacher, points)
    if inside is not None and inside < FEWEST_POINTS:
        return Doubtful(f"{1 - inside:.0%} of the marked points lie outside")
    belief = _belief(iou(second, teacher), iou(student, teacher), inside, soft)
    if belief is None:
        return Doubtful("the networks see different subjects")
    confidence = np.full(teacher.shape, belief, np.float32)
    if belief < 1:
        # Where the second network sees something else over more than a few pixels, hardly anything is known.
        other = cv2.erode((np.abs(second - teacher) > 0.5).astype(np.uint8), disc(3))
        confidence[cv2.dilate(other, disc(6)) > 0] /= 4
    return NetworkLabel(made_whole(teacher), confidence)


def _belief(second: float, student: float, inside: float | None, soft: float) -> float | None:
    """Confidence from agreement (IoU) with the second network and the student; None for none at all."""
    if second >= WELL or inside == 1:
        return 1.0
    if second >= FAIRLY:
        return 1.0 if soft < 0.06 or student > 0.85 else 0.67 if soft < 0.1 else None
    if second >= BARELY:
        if student > 0.8:
            return 0.9
        return 0.67 if (inside or 0) >= 0.9 else 0.43 if soft < 0.035 else None
    return 0.9 if student > 0.85 else None


def points_inside(alpha: Alpha, points: NDArray[np.float64]) -> float:
    """Share of points (N, 2), x and y, with alpha over ½ in the 5×5 pixels around them."""
    near = cv2.dilate(alpha, np.ones((5, 5), np.uint8))
    height, width = alpha.shape
    columns = np.clip(points[:, 0].astype(int), 0, width - 1)
    rows = np.clip(points[:, 1].astype(int), 0, height - 1)
    return float((near[rows, columns] > 0.5).mean())


def made_whole(alpha: Alpha) -> Alpha:
    """Make bodies opaque that a network left half transparent: dark clothes and hair, most often.

    Returns:
        (H, W), 1 where alpha is over 0.3 everywhere within 2 % of the longer side, else as it was.
    """
    inset_px = max(3, round(SOLID_INSET * max(alpha.shape)))
    body = cv2.erode((alpha > SOLID).astype(np.uint8), disc(inset_px))
    return np.where(body > 0, np.float32(1), alpha)


def label_from_mask(mask: NDArray[np.bool_], teacher: Alpha, band: NDArray[np.bool_]) -> NetworkLabel:
    """Join a mask drawn by hand, which knows the subject, with a teacher's alpha, which knows its edge.

    Args:
        mask: (H, W) bool.
        teacher: (H, W) float32 in [0, 1].
        band: (H, W) bool, where the edge may lie: 128 of `pseudo_alpha.make_trimap`.

    Returns:
        The teacher's alpha inside the band and the mask outside it. Where they differ by more than the edge,
        both are doubted; where they show different subjects, the mask stands and the band is doubted.
    """
    alpha = mask.astype(np.float32)
    confidence = np.ones_like(alpha)
    if iou(teacher, alpha) <= FAIRLY:
        confidence[band] = 0.24
        return NetworkLabel(alpha, confidence)
    alpha[band] = teacher[band]
    differs = ((teacher > 0.5) != mask) & ~band
    reach_px = max(3, round(0.02 * float(np.sqrt(mask.sum()))))
    beside = cv2.dilate(cv2.erode(differs.astype(np.uint8), disc(1)), disc(reach_px)) > 0
    confidence[band & beside] = 0.16
    return NetworkLabel(alpha, confidence)
