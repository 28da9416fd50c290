"""Composite a foreground over transparency, a colour, an image or its own background blurred."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte.errors import UsageError
from stylematte.imaging.geometry import (
    STRIP_PX,
    ImageArray,
    as_rgb,
    convert,
    resize,
    to_dtype,
    to_float,
    white_of,
)

Screen = Literal["green", "blue"]
Color = tuple[float, float, float]  # RGB, 0..255 for any dtype of the image

# CSS Color Module Level 4, the sixteen basic names.
BASIC_COLORS: dict[str, Color] = {
    "black": (0, 0, 0),
    "silver": (192, 192, 192),
    "gray": (128, 128, 128),
    "grey": (128, 128, 128),
    "white": (255, 255, 255),
    "maroon": (128, 0, 0),
    "red": (255, 0, 0),
    "purple": (128, 0, 128),
    "fuchsia": (255, 0, 255),
    "green": (0, 128, 0),
    "lime": (0, 255, 0),
    "olive": (128, 128, 0),
    "yellow": (255, 255, 0),
    "navy": (0, 0, 128),
    "blue": (0, 0, 255),
    "teal": (0, 128, 128),
    "aqua": (0, 255, 255),
}


@dataclass(frozen=True)
class Blur:
    """The image's own background, blurred; `radius_px` is the standard deviation of the Gaussian."""

    radius_px: float


def parse_color(text: str) -> Color:
    """Parse `#rrggbb`, `#rgb`, `r,g,b` with 0..255, or one of the sixteen basic CSS names.

    Raises:
        UsageError: The text is none of these.
    """
    word = text.strip().lower()
    if word in BASIC_COLORS:
        return BASIC_COLORS[word]
    if re.fullmatch(r"#[0-9a-f]{3}", word):
        word = "#" + "".join(2 * digit for digit in word[1:])
    if re.fullmatch(r"#[0-9a-f]{6}", word):
        return int(word[1:3], 16), int(word[3:5], 16), int(word[5:7], 16)
    if re.fullmatch(r"\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}", word):
        red, green, blue = (int(part) for part in word.split(","))
        if max(red, green, blue) <= 255:
            return red, green, blue
    names = ", ".join(BASIC_COLORS)
    raise UsageError(f"{text!r} is not a colour", f"Give #rrggbb, r,g,b with 0..255, or one of {names}")


def parse_background(text: str) -> Color | Blur:
    """Parse a colour as `parse_color` does, or `blur:R` with a radius in pixels.

    Raises:
        UsageError: The text is neither.
    """
    kind, colon, radius = text.strip().lower().partition(":")
    if kind != "blur" or not colon:
        return parse_color(text)
    if not re.fullmatch(r"\d+(\.\d+)?(px)?", radius) or float(radius.removesuffix("px")) <= 0:
        raise UsageError(f"{text!r}: the blur's radius must be a number of pixels above 0", "Try blur:25")
    return Blur(float(radius.removesuffix("px")))


def cutout(foreground: ImageArray, alpha: NDArray[Any]) -> ImageArray:
    """Combine colours and alpha into straight-alpha RGBA.

    Args:
        foreground: (H, W, 3) un-premultiplied RGB.
        alpha: (H, W) uint8, uint16, or float32 in [0, 1].

    Returns:
        (H, W, 4), dtype of `foreground`.
    """
    alpha = convert(alpha, foreground.dtype)
    result = np.empty((*alpha.shape, 4), foreground.dtype)
    sources = [np.ascontiguousarray(foreground), np.ascontiguousarray(alpha)]
    cv2.mixChannels(sources, [result], [0, 0, 1, 1, 2, 2, 3, 3])
    return result


def premultiply(rgba: ImageArray) -> ImageArray:
    """Multiply the stored colours of straight RGBA by its alpha; alpha does not change.

    Args:
        rgba: (H, W, 4) uint8 or uint16.

    Returns:
        (H, W, 4), same dtype.
    """
    white = white_of(rgba.dtype)
    result = np.empty_like(rgba)
    rows = max(1, STRIP_PX // (4 * rgba.shape[1]))
    for top in range(0, len(rgba), rows):
        strip = rgba[top : top + rows].astype(np.float32)
        strip[:, :, :3] *= strip[:, :, 3:] * np.float32(1 / white)
        strip += np.float32(0.5)
        result[top : top + rows] = strip
    return result


def unpremultiply(colours: ImageArray, alpha: NDArray[Any]) -> ImageArray:
    """Divide premultiplied colours by their alpha; they do not change where it is 0.

    Args:
        colours: (H, W, 3) uint8 or uint16, or (H, W, 1) grey.
        alpha: (H, W), same dtype.

    Returns:
        Shape and dtype of `colours`.
    """
    white = white_of(colours.dtype)
    result = np.empty_like(colours)
    rows = max(1, STRIP_PX // (colours.shape[2] * colours.shape[1]))
    for top in range(0, len(colours), rows):
        opacity = alpha[top : top + rows, :, None].astype(np.float32)
        opacity[opacity == 0] = white
        strip = colours[top : top + rows].astype(np.float32) * np.float32(white) / opacity
        result[top : top + rows] = np.minimum(strip + np.float32(0.5), np.float32(white))
    return result


def despill(foreground: ImageArray, screen: Screen, is_light: bool = False) -> ImageArray:
    """Remove the colour cast of a green or blue screen.

    The spill, the excess of the screen's channel over the mean of the other two, is subtracted; its luma is
    added to all three, so that nothing darkens. The subject's own green (or blue) is reduced too, as with all
    such keyers.

    Args:
        foreground: (H, W, 3) RGB uint8, uint16, or float32 in [0, 1].
        screen: Colour of the screen.
        is_light: The float32 colours are scene-linear light, which is not clipped to [0, 1].

    Returns:
        (H, W, 3), same dtype.
    """
    channel = {"green": 1, "blue": 2}[screen]
    luma = {"green": 0.7152, "blue": 0.0722}[screen]  # BT.709
    result = np.empty_like(foreground)
    rows = max(1, STRIP_PX // (3 * foreground.shape[1]))
    for top in range(0, len(foreground), rows):
        colours = to_float(foreground[top : top + rows]).copy()
        others = np.delete(colours, channel, axis=2).mean(axis=2)
        spill = np.maximum(colours[:, :, channel] - others, 0)
        colours[:, :, channel] -= spill
        colours += (np.float32(luma) * spill)[:, :, None]
        result[top : top + rows] = colours if is_light else to_dtype(colours, foreground.dtype)
    return result


def composite(
    foreground: ImageArray, alpha: NDArray[Any], background: Color | ImageArray, light_wrap_px: float = 0.0
) -> ImageArray:
    """Composite a foreground over a background: α · F + (1 - α) · B on the stored colours.

    Args:
        foreground: (H, W, 3) un-premultiplied RGB uint8, uint16, or float32 in [0, 1].
        alpha: (H, W) uint8, uint16, or float32 in [0, 1].
        background: A colour, 0..255 for any dtype; or (h, w, 3) RGB of any size and dtype, scaled to cover
            the image with its aspect ratio kept, then cropped around its centre.
        light_wrap_px: Width in which the background's light shines around the subject's edge.

    Returns:
        (H, W, 3) opaque, dtype of `foreground`.
    """
    height, width = alpha.shape
    rows = max(1, STRIP_PX // (3 * width))
    if light_wrap_px > 0:
        if isinstance(background, tuple):
            background = np.full((1, 1, 3), np.array(background) / 255, np.float32)
        foreground = _wrapped(foreground, alpha, cover(as_rgb(background), alpha.shape), light_wrap_px)
    if isinstance(background, tuple):
        plain = np.full((min(rows, height), width, 3), np.array(background, np.float32) / 255, np.float32)
    else:
        behind = cover(as_rgb(background), (height, width))
    result = np.empty((height, width, 3), foreground.dtype)
    for top in range(0, height, rows):
        strip = slice(top, min(top + rows, height))
        opacity = to_float(alpha[strip])
        back = plain[: len(opacity)] if isinstance(background, tuple) else to_float(behind[strip])
        mixed = to_float(foreground[strip]) - back
        mixed *= cv2.merge([opacity] * 3)
        mixed += back
        result[strip] = to_dtype(mixed, foreground.dtype)
    return result


def _wrapped(
    foreground: ImageArray, alpha: NDArray[Any], background: ImageArray, radius_px: float
) -> ImageArray:
    """Screen-blend the blurred light of the background over the foreground: 1 - (1 - F) · (1 - W)."""
    behind = to_float(background) * cv2.merge([1 - to_float(alpha)] * 3)
    light = _gaussian(behind, radius_px)
    return to_dtype(1 - (1 - to_float(foreground)) * (1 - light), foreground.dtype)


def cover(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Scale an image to cover a size with its aspect ratio kept, and crop it around its centre.

    Args:
        image: (h, w, 3) uint8, uint16 or float32.
        size: (height, width).

    Returns:
        (height, width, 3), same dtype.
    """
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    # Crop to whole pixels before scaling, so that a long strip does not exhaust memory; then crop exactly.
    keep = [
        have - (have - math.ceil(want / scale - 1e-6)) // 2 * 2
        for have, want in zip(image.shape[:2], size, strict=True)
    ]
    image = _middle(image, keep[0], keep[1])
    enlarged = [max(want, round(have * scale)) for have, want in zip(image.shape[:2], size, strict=True)]
    return np.ascontiguousarray(_middle(resize(image, (enlarged[0], enlarged[1])), *size))


def _middle(image: ImageArray, height: int, width: int) -> ImageArray:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def blur_background(image: ImageArray, alpha: NDArray[Any], radius_px: float) -> ImageArray:
    """Blur the background without the subject, whose colours do not bleed into it.

    Args:
        image: (H, W, 3) RGB uint8, uint16, or float32 in [0, 1].
        alpha: (H, W) uint8, uint16, or float32 in [0, 1].
        radius_px: Standard deviation of the Gaussian, in pixels of `image`.

    Returns:
        (H, W, 3), dtype of `image`.
    """
    height, width = alpha.shape
    # A wide Gaussian can run on a smaller image: a standard deviation of four pixels hides the upsampling.
    factor = max(1, int(radius_px / 4))
    small_size = max(1, round(height / factor)), max(1, round(width / factor))
    small, small_alpha = resize(image, small_size), resize(alpha, small_size)
    sigma = radius_px * small_size[0] / height if height >= width else radius_px * small_size[1] / width
    margin = int(np.ceil(4 * sigma))
    rows = max(margin, STRIP_PX // small_size[1])
    white = np.float32(white_of(image.dtype))
    blurred = np.empty_like(small)
    for top in range(0, small_size[0], rows):
        first, last = max(0, top - margin), min(small_size[0], top + rows + margin)
        # The fourth power suppresses mixed pixels, which have part of the subject's colour. The constant
        # avoids 0 / 0 far inside the subject, where any colour will do because it is covered.
        share = (1 - to_float(small_alpha[first:last])) ** 4 + np.float32(1e-5)
        colours = _gaussian(small[first:last] * cv2.merge([share] * 3), sigma)
        colours /= cv2.merge([_gaussian(share, sigma) * white] * 3)
        blurred[top : top + rows] = _stored(colours[top - first : top - first + rows], image.dtype)
    return resize(blurred, (height, width))


def _stored(values: NDArray[np.float32], dtype: DTypeLike) -> NDArray[Any]:
    """Convert colours to a dtype; float32 is not clipped, because it may be scene-linear light."""
    return values if np.dtype(dtype) == np.float32 else to_dtype(values, dtype)


def _gaussian(values: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    blurred = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32).reshape(values.shape)
