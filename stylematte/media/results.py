"""One image, or one frame of a clip, as the bytes of its file."""

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
    """Encode a result; colours carry the photo's profile and of its EXIF what the policy lets pass.

    An alpha is data and carries neither.

    Args:
        photo: What it was made from.
        pixels: (H, W) grey, (H, W, 3) RGB or (H, W, 4) straight RGBA, for an exr with layers; uint8, uint16,
            or float32 light.
        kind: One of `SUFFIXES`.
        is_alpha: It is an alpha, whose values must not change.
        premultiplied: Multiply colours by alpha; in an exr, once they are linear.
        policy: What of the photo's EXIF goes along.
        transfer: Of the colours, for an exr; as in H.273.
        primaries: Likewise.
        facts: Text for an exr.
        pixel_shape: Width of a pixel over its height, for an exr; where the photo does not say it.
        compression: Of an exr.

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
