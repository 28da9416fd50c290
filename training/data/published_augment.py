"""The augmentation published with StyleMatte: the same operations with a single resampling.

The published augmentation is a chain of albumentations on the whole photo: longest side to 1080, flip,
brightness and contrast, shift, scale and rotation, blur, padding, crop to 800, hue and saturation. Here one
matrix maps the photo to the crop, and colours are changed only in the crop. Differences: photos that shrink
below two thirds are area-averaged instead of sampled; brightness is changed after the blur, with which it
commutes except for clipping; the tiles of CLAHE divide the crop. For crop sizes other than 800 the longest
side is scaled accordingly.

Reference:
    Buslaev et al., "Albumentations", 2020, for the definition of each operation.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]

LONGEST_PX, CROP_PX = 1080, 800
SHIFT, ZOOM, TURN_DEGREES = 0.02, 0.05, 5.0
BRIGHTNESS = CONTRAST = 0.2
HUE, SATURATION, VALUE = 20, 30, 20  # in OpenCV's ranges 0-179, 0-255, 0-255


def random_view(rng: Rng, source: tuple[int, int], crop: tuple[int, int]) -> Matrix:
    """Draw a random flip, shift, zoom, rotation and crop.

    Args:
        rng: Random generator.
        source: (height, width) of the image.
        crop: (height, width) of the network's input.

    Returns:
        (2, 3) affine matrix from source to crop pixels.
    """
    flip = rng.random() < 0.5
    shift, zoom, turn = (0.0, 0.0), 1.0, 0.0
    if rng.random() < 0.5:
        shift = (rng.uniform(-SHIFT, SHIFT), rng.uniform(-SHIFT, SHIFT))
        zoom = rng.uniform(1 - ZOOM, 1 + ZOOM)
        turn = rng.uniform(-TURN_DEGREES, TURN_DEGREES)
    corner = (rng.random(), rng.random())
    return view_matrix(source, crop, flip, shift, zoom, turn, corner)


def view_matrix(
    source: tuple[int, int],
    crop: tuple[int, int],
    flip: bool,
    shift: tuple[float, float],
    zoom: float,
    turn_degrees: float,
    corner: tuple[float, float],
) -> Matrix:
    """Combine the operations of a view in one matrix.

    Args:
        source: (height, width) of the image.
        crop: (height, width) of the network's input.
        flip: Mirror horizontally.
        shift: (down, right), as fractions of the resized image's sides.
        zoom: Scale about the centre.
        turn_degrees: Rotation about the centre, counter-clockwise.
        corner: (down, right) position of the crop from 0 to 1, if the image is larger than the crop;
            otherwise the image is centred.

    Returns:
        (2, 3) affine matrix from source to crop pixels, with pixel centres at integers.
    """
    longest = LONGEST_PX * max(crop) / CROP_PX
    scale = longest / max(source)
    height, width = source[0] * scale, source[1] * scale
    flipped = np.array([[-scale, 0, width], [0, scale, 0], [0, 0, 1]])
    upright = np.diag([scale, scale, 1.0])
    turned = np.eye(3)
    turned[:2] = cv2.getRotationMatrix2D((width / 2, height / 2), turn_degrees, zoom)
    turned[:2, 2] += (shift[1] * width, shift[0] * height)
    sides = zip(corner, (height, width), crop, strict=True)
    down, right = (c * (n - m) if n > m else (n - m) / 2 for c, n, m in sides)
    cropped = _moved(-right, -down)
    # The matrices use coordinates from the image's edge, in which the centre of pixel 0 is at 0.5.
    whole = _moved(-0.5, -0.5) @ cropped @ turned @ (flipped if flip else upright) @ _moved(0.5, 0.5)
    return np.asarray(whole[:2], np.float64)


def _moved(right: float, down: float) -> Matrix:
    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1.0]])


def random_light(rng: Rng, image: Pixels) -> Pixels:
    """Change brightness and contrast of one image in five, and hue, saturation and value of one in two.

    The changes are per pixel, so that stacked images change equally.

    Args:
        rng: Random generator.
        image: (H, W, 3) uint8 RGB.
    """
    if rng.random() < 0.2:
        image = change_contrast(image, rng.uniform(-CONTRAST, CONTRAST), rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    if rng.random() < 0.5:
        amounts = (rng.uniform(-limit, limit) for limit in (HUE, SATURATION, VALUE))
        image = change_hue(image, *amounts)
    return image


def change_contrast(image: Pixels, contrast: float, brightness: float) -> Pixels:
    """Scale (H, W, 3) uint8 by 1 + `contrast` and add `brightness` times white."""
    levels = np.arange(256) * (1 + contrast) + 255 * brightness
    return np.asarray(cv2.LUT(image, np.clip(np.round(levels), 0, 255).astype(np.uint8)), np.uint8)


def change_hue(image: Pixels, hue: float, saturation: float, value: float) -> Pixels:
    """Add to hue, saturation and value of (H, W, 3) uint8 RGB, in OpenCV's units; hue wraps around."""
    levels = np.arange(256)
    hues = np.round(levels + hue) % 180
    tables = [hues, *(np.clip(np.round(levels + amount), 0, 255) for amount in (saturation, value))]
    table = np.stack(tables, -1).astype(np.uint8)[None]  # (1, 256, 3)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def random_blur(rng: Rng, image: Pixels, largest_px: int) -> Pixels:
    """Box-blur one image in two, with an odd side from 3 to `largest_px`."""
    if rng.random() >= 0.5:
        return image
    side = int(rng.choice(np.arange(3, largest_px + 1, 2)))
    return np.asarray(cv2.blur(image, (side, side)), np.uint8)


def random_clahe(rng: Rng, image: Pixels) -> Pixels:
    """Apply CLAHE to one image in two, with a clip limit of 1 to 4 and 8×8 tiles."""
    return equalise(image, rng.uniform(1, 4)) if rng.random() < 0.5 else image


def equalise(image: Pixels, clip_limit: float) -> Pixels:
    """Equalise the lightness of (H, W, 3) uint8 RGB in 8×8 tiles.

    Reference:
        Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", 1994, as implemented by OpenCV.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip_limit, (8, 8)).apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def random_background_light(rng: Rng, image: Pixels) -> Pixels:
    """Change a background before compositing: CLAHE, brightness, blur."""
    image = random_clahe(rng, image)
    if rng.random() < 0.5:
        image = change_contrast(image, 0.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    return random_blur(rng, image, 5)
