"""Slips that labels are known to have, found so that training does not believe them."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def clean_mask(mask: Mask, speck: float = 0.0005) -> Mask:
    """Close hairline seams, and drop islands and holes smaller than `speck` of the picture."""
    cleaned = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc(1))
    for value in (1, 0):
        count, regions, stats, _ = cv2.connectedComponentsWithStats((cleaned == value).astype(np.uint8))
        for region in range(1, count):
            if stats[region, cv2.CC_STAT_AREA] < speck * mask.size:
                cleaned[regions == region] = 1 - value
    return cleaned.astype(bool)


def unlabelled_skin(image: NDArray[np.uint8], mask: Mask, hair: Mask) -> tuple[Mask, Mask]:
    """Find skin beside a portrait that its mask leaves out: bare shoulders, hands, arms.

    Parsing sets label face, hair, neck and cloth; what is none of these counts as background there. Pixels of
    the face's colour that touch the mask below the face's middle are such skin, if they all lie below it; a
    region that goes on higher up may as well be a wall.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) the subject as labelled.
        hair: (H, W) hair alone.

    Returns:
        (H, W) skin that belongs to the subject, and (H, W) pixels of which nobody knows.
    """
    nothing = np.zeros_like(mask)
    size = subject_size_px(mask)
    face = eroded(mask & ~dilated(hair, 2), max(2, round(0.03 * size)))
    rows = np.where(face.any(1))[0]
    if not len(rows):
        return nothing, nothing
    face[rows[0] + round(0.6 * (rows[-1] - rows[0])) :] = False  # below are neck and clothes
    if face.sum() < 50:
        return nothing, nothing
    middle = int(np.median(np.where(face)[0]))
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
    lab = np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB), np.float32)
    distance = np.abs(lab - np.median(lab[face], axis=0))
    alike = (np.hypot(distance[..., 1], distance[..., 2]) < 13) & (distance[..., 0] < 70) & ~mask
    count, regions = cv2.connectedComponents(alike.astype(np.uint8))
    beside = dilated(mask & ~dilated(hair, 4), 4) & alike
    beside[:middle] = False
    touching = np.bincount(regions[beside], minlength=count)
    areas = np.bincount(regions.ravel(), minlength=count)
    above = np.bincount(regions[:middle].ravel(), minlength=count)
    found = (touching > 0.02 * size) & (areas > 0.001 * mask.size)
    found[0] = False
    is_skin = found & (above < 0.1 * areas)
    margin = max(2, round(0.02 * size))
    skin = eroded(dilated(is_skin[regions] | mask, margin), margin) & ~mask if is_skin.any() else nothing
    skin[:middle] = False
    doubtful = dilated((found & ~is_skin)[regions], margin) & ~mask & ~skin
    doubtful[:middle] = False
    return skin, doubtful


def subject_size_px(mask: Mask) -> float:
    """The subject's size: the square root of its area."""
    return float(np.sqrt(max(1, int(mask.sum()))))


def dilated(mask: Mask, radius_px: int) -> Mask:
    """Grow a mask by a disc."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc(radius_px)), bool)


def eroded(mask: Mask, radius_px: int) -> Mask:
    """Shrink a mask by a disc."""
    return np.asarray(cv2.erode(mask.astype(np.uint8), disc(radius_px)), bool)


def disc(radius_px: int) -> NDArray[np.uint8]:
    """A round structuring element."""
    size = 2 * radius_px + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)
