"""Find known label errors, so that training does not learn them."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def clean_mask(mask: Mask, speck: float = 0.0005) -> Mask:
    """Close hairline gaps, and remove islands and holes smaller than `speck` of the image."""
    cleaned = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc(1))
    for value in (1, 0):
        count, regions, stats, _ = cv2.connectedComponentsWithStats((cleaned == value).astype(np.uint8))
        for region in range(1, count):
            if stats[region, cv2.CC_STAT_AREA] < speck * mask.size:
                cleaned[regions == region] = 1 - value
    return cleaned.astype(bool)


def unlabelled_skin(image: NDArray[np.uint8], mask: Mask, hair: Mask) -> tuple[Mask, Mask]:
    """Find skin of a portrait that its mask leaves out: bare shoulders, hands, arms.

    Face parsing sets label face, hair, neck and cloth; everything else is background there. A region with the
    face's colour that touches the mask below the middle of the face is skin if it lies entirely below that
    line; a region that extends above it may be a wall.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) the subject as labelled.
        hair: (H, W) hair mask.

    Returns:
        (H, W) skin that belongs to the subject, and (H, W) uncertain pixels.
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
    """Return the subject's size, the square root of its area."""
    return float(np.sqrt(max(1, int(mask.sum()))))


def dilated(mask: Mask, radius_px: int) -> Mask:
    """Dilate a mask by a disc."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc(radius_px)), bool)


def eroded(mask: Mask, radius_px: int) -> Mask:
    """Erode a mask by a disc."""
    return np.asarray(cv2.erode(mask.astype(np.uint8), disc(radius_px)), bool)


def disc(radius_px: int) -> NDArray[np.uint8]:
    """Return a round structuring element."""
    size = 2 * radius_px + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)
