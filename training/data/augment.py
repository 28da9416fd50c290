"""Random geometry and colour, with the same geometry for an image and its labels."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator


def random_view(rng: Rng, source: tuple[int, int], target: tuple[int, int]) -> NDArray[np.float64]:
    """Draw a random crop, rotation and flip.

    Args:
        rng: Random generator.
        source: (height, width) of the image.
        target: (height, width) of the network's input.

    Returns:
        (2, 3) affine matrix from source to target pixels, with at most 5 % stretch.
    """
    height, width = source
    aspect = target[1] / target[0]
    crop_width = min(width, height * aspect)
    # Users bring whole images; crops teach detail, and zooming out a little teaches small subjects.
    crop_width *= rng.choice([1.0, rng.uniform(0.5, 1.0), rng.uniform(1.0, 1.25)], p=[0.35, 0.5, 0.15])
    crop_height = crop_width / aspect
    centre_x = rng.uniform(min(crop_width / 2, width / 2), max(width - crop_width / 2, width / 2))
    centre_y = rng.uniform(min(crop_height / 2, height / 2), max(height - crop_height / 2, height / 2))
    angle = rng.normal(0, 6) if rng.random() < 0.4 else 0.0
    stretch = rng.uniform(0.95, 1.05)
    flip = -1 if rng.random() < 0.5 else 1
    return _affine(
        (centre_x, centre_y), (target[1] / 2, target[0] / 2), target[0] / crop_height, angle, stretch, flip
    )


def place(
    rng: Rng, source: tuple[int, int], box: tuple[int, int, int, int], target: tuple[int, int], on_floor: bool
) -> NDArray[np.float64]:
    """Draw a random placement of a cut-out on a background.

    Args:
        rng: Random generator.
        source: (height, width) of the cut-out's image.
        box: (top, left, bottom, right) of the subject in it.
        target: (height, width) of the background.
        on_floor: The subject is cut off at the bottom, so it must touch the bottom of the background.

    Returns:
        (2, 3) affine matrix from source to target pixels.
    """
    top, left, bottom, right = box
    subject_height, subject_width = max(1, bottom - top), max(1, right - left)
    fit = min(target[0] / subject_height, target[1] / subject_width)
    scale = fit * rng.uniform(0.35, 1.15)
    half_height, half_width = scale * subject_height / 2, scale * subject_width / 2
    x = rng.uniform(min(half_width * 0.7, target[1] / 2), max(target[1] - half_width * 0.7, target[1] / 2))
    y = rng.uniform(min(half_height, target[0] / 2), max(target[0] - half_height, target[0] / 2))
    if on_floor:
        y = target[0] - half_height + 1
    angle = 0.0 if on_floor else rng.normal(0, 5)
    flip = -1 if rng.random() < 0.5 else 1
    return _affine(((left + right) / 2, (top + bottom) / 2), (x, y), scale, angle, 1.0, flip)


def warp(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], target: tuple[int, int], border: int
) -> NDArray[np.uint8]:
    """Resample (H, W[, C]) uint8 to `target` (height, width); area-averages first when shrinking."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.67:  # bilinear sampling alone would alias
        image = np.asarray(
            cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
        )
        matrix = matrix @ np.diag([1 / scale, 1 / scale, 1])
    warped = cv2.warpAffine(image, matrix, target[::-1], flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(warped, np.uint8)


def _affine(
    source_point: Sequence[float],
    target_point: Sequence[float],
    scale: float,
    angle: float,
    stretch: float,
    flip: int,
) -> NDArray[np.float64]:
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.diag([scale * stretch * flip, scale / stretch])
    shift = np.asarray(target_point) - linear @ np.asarray(source_point)
    return np.column_stack([linear, shift])


def random_light(rng: Rng, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Change exposure, contrast, gamma, white balance and saturation of (H, W, 3) uint8 RGB."""
    levels = np.arange(256) / 255.0
    gamma = np.exp(rng.normal(0, 0.2))
    contrast, brightness = np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.06)
    gains = np.exp(rng.normal(0, 0.05, 3))
    table = np.stack([((levels**gamma) * gain - 0.5) * contrast + 0.5 + brightness for gain in gains], -1)
    lit = cv2.LUT(image, np.clip(table * 255, 0, 255).astype(np.uint8)[None])
    saturation = 0.0 if rng.random() < 0.06 else np.exp(rng.normal(0, 0.25))
    grey = np.full((3, 3), 1 / 3)
    return np.asarray(cv2.transform(lit, saturation * np.eye(3) + (1 - saturation) * grey), np.uint8)


def random_camera(rng: Rng, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Degrade (H, W, 3) uint8 RGB like cameras and web sites: blur, noise, JPEG."""
    if rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2)), np.uint8)
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = int(rng.uniform(35, 90))
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return image
