"""Turn a teacher's alphas into labels: decide which to believe, and combine them with masks drawn by hand.

A large network draws edges well, but it may keep a poster, lose one person of a group, or leave dark clothes
half transparent. So a mask drawn by hand says what the subject is, or several networks that agree, and marked
joints. The teacher says how soft its edge is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.label_cleanup import dilated, eroded, subject_size_px

Alpha = NDArray[np.float32]
Mask = NDArray[np.bool_]

SURE, LIKELY, DOUBTFUL = 0.9, 0.75, 0.5  # IoU of the teacher and another network
THIRD_AGREES = 0.8
SMALLEST, SMALL, LARGEST = 0.004, 0.3, 0.93  # subject's share of the photo
MOST_SOFT = 0.6  # soft pixels per pixel of the subject: more is a half-transparent body
LITTLE_SOFT = 0.2
FEWEST_MARKED = 0.7
BODY_ALPHA = 0.3  # pixels of at least this opacity belong to the body
BODY_MARGIN = 0.03  # fractions of the subject's size (the square root of its area)
EDGE = 0.04
LOCAL_DIFFERENCE = 0.35
EDGE_CONFIDENCE = 0.2
CONTRADICTION = 0.5  # difference of alpha
CONTRADICTION_MARGIN = 0.01  # fractions of the subject's size, as the next two
MISSED_REACH = 0.12
JOINT_RADIUS = 0.008


@dataclass(frozen=True)
class LabelAgreement:
    """How far the teacher's alpha of a photo can be believed.

    Attributes:
        area: Share of the photo with alpha above ½.
        soft: Share of the photo with alpha in (0.05, 0.95).
        second: IoU with the alpha of a second network, at ½.
        third: IoU with the alpha of a third one.
        marked: Share of what people marked, visible joints or a part such as hair, that is inside the alpha;
            None if nobody marked anything.
    """

    area: float
    soft: float
    second: float
    third: float
    marked: float | None = None


def measure(teacher: Alpha, second: Alpha, third: Alpha, marked: Mask | None = None) -> LabelAgreement:
    """Compare three alphas of a photo, and what people marked on it.

    Args:
        teacher: (H, W) in [0, 1].
        second: (H, W) in [0, 1], of another network.
        third: (H, W) in [0, 1], likewise.
        marked: (H, W) pixels that belong to the subject, such as its joints; None or empty if there are none.
    """
    inside = None
    if marked is not None and marked.any():
        inside = float((~_missed(teacher, marked)[marked]).mean())
    return LabelAgreement(
        area=float((teacher > 0.5).mean()),
        soft=float(((teacher > 0.05) & (teacher < 0.95)).mean()),
        second=_iou(teacher, second),
        third=_iou(teacher, third),
        marked=inside,
    )


def confidence(seen: LabelAgreement) -> float:
    """Return the confidence in a teacher's alpha, in [0, 1]; 0: leave the photo out."""
    if not SMALLEST <= seen.area <= LARGEST or seen.soft > MOST_SOFT * seen.area:
        return 0.0
    if seen.marked is not None and seen.marked < FEWEST_MARKED:
        return 0.0
    # Networks often disagree about small people in large scenes; joints show that the teacher is right. But a
    # large subject that only the teacher sees may hold all joints and the wall behind them.
    holds_all = seen.marked == 1 and (seen.second >= DOUBTFUL or seen.area <= SMALL)
    if seen.second >= SURE or holds_all:
        return 1.0
    has_clear_body = seen.soft < LITTLE_SOFT * seen.area
    third_agrees = seen.third >= THIRD_AGREES
    if seen.second >= LIKELY:
        return 1.0 if has_clear_body or third_agrees else 0.7
    if seen.second >= DOUBTFUL:
        return 0.9 if third_agrees else 0.6 if has_clear_body else 0.4
    return 0.8 if third_agrees else 0.0


def with_opaque_body(teacher: Alpha) -> Alpha:
    """Make the body opaque, from some pixels inside its outline.

    Teachers leave dark clothes and hair half transparent.

    Args:
        teacher: (H, W) in [0, 1].

    Returns:
        (H, W) in [0, 1]; unchanged near the outline and outside the body.
    """
    body = teacher >= BODY_ALPHA
    margin = max(3, round(BODY_MARGIN * subject_size_px(body)))
    depth = cv2.distanceTransform(np.pad(body, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    inner = np.clip(depth / margin - 1, 0, 1)  # 0 up to the margin, 1 at twice the margin
    return np.maximum(teacher, inner.astype(np.float32))


def combine(teacher: Alpha, mask: Mask, trusts_mask: bool = True) -> tuple[Alpha, Alpha]:
    """Take the subject from a mask, and the softness of its edge from a teacher.

    Args:
        teacher: (H, W) in [0, 1].
        mask: (H, W) the subject.
        trusts_mask: Whether the mask is right away from its edge. If not, pixels where the teacher
            contradicts it get confidence 0.

    Returns:
        Alpha and confidence, (H, W) in [0, 1] each. Where teacher and mask differ in more than the edge,
        alpha is the blurred mask, with low confidence.
    """
    edge = max(2, round(EDGE * subject_size_px(mask)))
    inner, outer = eroded(mask, edge), dilated(mask, edge)
    hard = mask.astype(np.float32)
    reach = (2 * edge + 1, 2 * edge + 1)
    differs = np.abs(cv2.blur(teacher, reach) - cv2.blur(hard, reach)) > LOCAL_DIFFERENCE
    blurred = cv2.GaussianBlur(hard, (0, 0), max(1.0, edge / 3))
    band = outer & ~inner
    alpha = np.where(band, np.where(differs, blurred, teacher), hard).astype(np.float32)
    weight = np.where(band & differs, EDGE_CONFIDENCE, 1).astype(np.float32)
    if not trusts_mask:
        weight[np.abs(teacher - hard) > 0.5] = 0
    return alpha, weight


def believe(teacher: Alpha, others: Sequence[Alpha], joints: Mask | None = None) -> tuple[Alpha, Alpha]:
    """Say where a teacher's alpha holds, and correct it at marked joints.

    Args:
        teacher: (H, W) in [0, 1].
        others: Other networks' alphas, (H, W) in [0, 1] each. Where all of them contradict the teacher, the
            confidence is 0.
        joints: (H, W) joints that people marked; None if there are none. A joint that the teacher leaves out
            belongs to the subject; how much around it does is unknown, so the confidence there is 0.

    Returns:
        Alpha, with an opaque body, and confidence, (H, W) in [0, 1] each.
    """
    size = subject_size_px(teacher > 0.5)
    alpha, weight = with_opaque_body(teacher), np.ones_like(teacher)
    contradicted = np.all([np.abs(other - teacher) > CONTRADICTION for other in others], axis=0)
    core = dilated(eroded(contradicted, 1), 1)  # thin ones are differences of the edge
    weight[dilated(core, max(1, round(CONTRADICTION_MARGIN * size)))] = 0
    if joints is not None and (missed := _missed(teacher, joints)).any():
        weight[dilated(missed, max(5, round(MISSED_REACH * size))) & (teacher < 0.5)] = 0
        inside = dilated(missed, max(1, round(JOINT_RADIUS * size)))
        alpha[inside] = weight[inside] = 1
    return alpha, weight


def _missed(teacher: Alpha, marked: Mask) -> Mask:
    near = cv2.dilate(teacher, np.ones((5, 5), np.uint8))  # people do not mark to the pixel
    return np.asarray(marked & (near <= 0.5), bool)


def _iou(a: Alpha, b: Alpha) -> float:
    # Unlike `training.metrics.iou`, two empty alphas agree.
    both, either = ((a > 0.5) & (b > 0.5)).sum(), ((a > 0.5) | (b > 0.5)).sum()
    return float(both / either) if either else 1.0
