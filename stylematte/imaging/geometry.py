"""Convert images between shapes and dtypes."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte.errors import InputError

ImageArray = NDArray[Any]  # (H, W, 3) uint8, uint16 or float32
Window = tuple[slice, slice]  # rows and columns

WHITE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
STRIP_PX = 1 << 17  # pixels processed at a time: a few float planes of this size fit in a core's L2 cache
FLOAT_SLACK = 0.01  # tolerance for float colours outside [0, 1], which a sharpening resize produces


def white_of(dtype: DTypeLike) -> float:
    """Return the value that represents 1.0 in a dtype.

    Raises:
        InputError: The dtype is not uint8, uint16 or float32.
    """
    try:
        return WHITE[np.dtype(dtype)]
    except KeyError:
        raise InputError(
            f"images of {np.dtype(dtype)} are not supported",
            "Convert to uint8, uint16 or float32 in [0, 1]",
        ) from None


def as_array(image: Any) -> ImageArray:
    """Return an array as it is, or a Pillow image as RGB; its EXIF orientation and profile are not applied.

    16-bit grey Pillow images become (H, W) uint16.

    Raises:
        TypeError: The image is neither.
    """
    if isinstance(image, np.ndarray):
        return image
    if type(image).__module__.partition(".")[0] == "PIL":
        deep = image.mode.startswith("I;16")
        return np.asarray(image).astype(np.uint16) if deep else np.asarray(image.convert("RGB"))
    raise TypeError(f"an image is a NumPy array or a Pillow image, not {type(image).__name__}")


def as_rgb(image: ImageArray) -> ImageArray:
    """Check an image and convert it to three channels.

    Args:
        image: (H, W, 3) RGB, (H, W) or (H, W, 1) grey, or (H, W, 4), whose fourth channel is dropped;
            uint8, uint16, or float32 in [0, 1].

    Returns:
        (H, W, 3), same dtype; a view if possible.

    Raises:
        InputError: Unsupported shape or dtype, no pixels, or float colours outside [0, 1].
    """
    white = white_of(image.dtype)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise InputError(f"an image of shape {image.shape} is not supported", "Give (H, W, 3) RGB")
    if white == 1:
        _check_range(image, "colours")
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return image[:, :, :3]


def as_alpha(alpha: NDArray[Any]) -> NDArray[Any]:
    """Check an alpha given by the caller, and return it.

    Args:
        alpha: (h, w) uint8, uint16, or float32 in [0, 1].

    Raises:
        InputError: Unsupported shape or dtype, no pixels, or values outside [0, 1].
    """
    white = white_of(alpha.dtype)
    if alpha.ndim != 2 or 0 in alpha.shape:
        raise InputError(f"an alpha of shape {alpha.shape} is not supported", "Give (h, w)")
    if white == 1:
        _check_range(alpha, "alphas")
    return alpha


def _check_range(values: NDArray[Any], what: str) -> None:
    low, high = float(values.min()), float(values.max())
    if not (-FLOAT_SLACK <= low and high <= 1 + FLOAT_SLACK):  # also false for NaN
        raise InputError(f"float {what} from {low:g} to {high:g}", "Scale the values to [0, 1]")


def to_dtype(values: NDArray[np.float32], dtype: DTypeLike) -> NDArray[Any]:
    """Convert values in [0, 1] to a dtype, clipped and rounded.

    Args:
        values: float32, any shape.
        dtype: uint8, uint16 or float32.
    """
    white = white_of(dtype)
    scaled = np.clip(values, 0, 1)
    if white == 1:
        return scaled
    scaled *= white
    scaled += 0.5
    return scaled.astype(dtype)


def to_float(image: NDArray[Any]) -> NDArray[np.float32]:
    """Convert an image to contiguous float32 in [0, 1]; float32 values do not change."""
    white = white_of(image.dtype)
    values = np.ascontiguousarray(image, np.float32)
    return values if white == 1 else np.multiply(values, np.float32(1 / white), out=values)


def convert(image: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Convert an image or alpha to a dtype, scaled so that 1.0 stays 1.0, without a full-size float copy."""
    if image.dtype == np.dtype(dtype):
        return image
    result = np.empty(image.shape, dtype)
    rows = max(1, STRIP_PX * len(image) // image.size)
    for top in range(0, len(image), rows):
        result[top : top + rows] = to_dtype(to_float(image[top : top + rows]), dtype)
    return result


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize with an area filter along axes that shrink and a cubic filter along axes that grow.

    Args:
        image: (H, W) or (H, W, C), any dtype that OpenCV can resize. Cubic overshoot of float32 is not
            clipped.
        size: (height, width).

    Returns:
        (height, width[, C]), same dtype.
    """
    height, width = size
    image = np.ascontiguousarray(image)
    # In one call, OpenCV uses the area filter only if both axes shrink: a long strip would be aliased.
    small = min(height, image.shape[0]), min(width, image.shape[1])
    if small != image.shape[:2]:
        image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    if small != size:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return image


def resize_to_working(image: ImageArray, size: tuple[int, int]) -> NDArray[np.float32]:
    """Make the network's input: the whole image at working size, without padding or cropping.

    Args:
        image: (H, W, 3) RGB uint8, uint16, or float32 in [0, 1].
        size: Working (height, width).

    Returns:
        (3, height, width) float32 RGB in [0, 1].
    """
    planes = to_float(resize(image, size)).transpose(2, 0, 1)
    return np.clip(planes, 0, 1, order="C")
