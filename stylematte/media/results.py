"""One picture, or one frame of a clip, as the bytes of its file."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from stylematte.imaging import compose
from stylematte.media import exr
from stylematte.media.images import FORMATS, Photo, encode_image

SUFFIXES = {**FORMATS, "exr": ".exr"}


def encode_result(
    photo: Photo,
    pixels: NDArray[Any],
    kind: str,
    *,
    is_alpha: bool,
    premultiplied: bool = False,
    transfer: int = exr.SRGB,
    primaries: int = exr.BT709,
    facts: Mapping[str, str] | None = None,
) -> bytes:
    """Encode a result; colours carry the photo's profile and EXIF, an alpha is data and carries none.

    Args:
        photo: What it was made from.
        pixels: (H, W) grey, (H, W, 3) RGB or (H, W, 4) straight RGBA; uint8 or uint16.
        kind: One of `SUFFIXES`.
        is_alpha: It is an alpha, whose values must not change.
        premultiplied: Multiply colours by alpha; in an exr, once they are linear.
        transfer: Of the colours, for an exr; as in H.273.
        primaries: Likewise.
        facts: Text for an exr.

    Raises:
        InputError: As for `exr.encode_exr`.
    """
    if kind == "exr":
        return exr.encode_exr(pixels, transfer, primaries, premultiplied, facts or {})
    if is_alpha:
        return encode_image(pixels, kind, lossless=True)
    if premultiplied:
        pixels = compose.premultiply(pixels)
    return encode_image(pixels, kind, icc=photo.icc, exif=photo.exif, premultiplied=premultiplied)
