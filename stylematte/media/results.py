"""Encode a resulting image, or a frame of a resulting clip, as a file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.media import colour, exr, metadata
from stylematte.media.images import FORMATS, encode_image
from stylematte.media.photo import Photo

SUFFIXES = {**FORMATS, "exr": ".exr"}


def encode_result(
    photo: Photo,
    pixels: NDArray[Any],
    kind: str,
    *,
    is_alpha: bool,
    premultiplied: bool = False,
    policy: metadata.Policy = "public",
    transfer: int = colour.SRGB,
    primaries: int = colour.BT709,
    facts: Mapping[str, str] | None = None,
    pixel_shape: float = 1.0,
    compression: exr.Compression = "zip",
) -> bytes:
    """Encode a result; colours keep the photo's profile, and the EXIF data that the policy allows.

    An alpha is data and gets neither.

    Args:
        photo: The source image.
        pixels: (H, W) grey, (H, W, 3) RGB or (H, W, 4) straight RGBA, optionally with layers for an exr;
            uint8, uint16, or float32 light.
        kind: A key of `SUFFIXES`.
        is_alpha: The image is an alpha, whose values must not change.
        premultiplied: Multiply colours by alpha; in an exr, after they have been made linear.
        policy: Which of the photo's EXIF data to keep.
        transfer: Transfer function of the colours for an exr, as in H.273.
        primaries: Primaries of the colours for an exr, as in H.273.
        facts: Text attributes of an exr.
        pixel_shape: Width of a pixel over its height for an exr, if the photo does not declare it.
        compression: Compression method of an exr.

    Raises:
        InputError: As for `exr.encode_exr`.
    """
    if kind == "exr":
        facts = facts or {}
        shape = pixel_shape if photo.light is None else photo.light.pixel_shape
        if pixels.ndim == 3 and photo.light is not None:
            light = photo.light
            return exr.encode_exr(
                pixels,
                colour.LINEAR,
                light.primaries,
                premultiplied,
                facts,
                light.is_single,
                shape,
                compression,
            )
        if pixels.ndim == 3 and not colour.is_srgb(photo.icc):
            pixels = pixels.copy()
            for first in exr.colour_groups(pixels.shape[2]):
                colours = np.ascontiguousarray(pixels[:, :, first : first + 3])
                pixels[:, :, first : first + 3] = colour.to_srgb(colours, photo.icc)
        return exr.encode_exr(
            pixels, transfer, primaries, premultiplied, facts, pixel_shape=shape, compression=compression
        )
    if is_alpha:
        return encode_image(pixels, kind, lossless=True)
    exif = metadata.chosen(photo.exif, policy)
    return encode_image(pixels, kind, icc=photo.icc, exif=exif, premultiplied=premultiplied)
