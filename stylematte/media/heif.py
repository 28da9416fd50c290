"""Read HEIC with pi-heif, and the colour information of AVIF and HEIC containers."""

import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError, MissingError
from stylematte.media import colour

_HEADER = 1 << 16  # bytes to search for the boxes with an image's properties


class Heic(NamedTuple):
    """A decoded, upright image; fields as in `stored.Stored`."""

    pixels: NDArray[Any]
    meaning: str
    icc: bytes | None
    codes: tuple[int, int]
    exif: bytes | None
    is_premultiplied: bool


def codes_of(data: bytes) -> tuple[int, int]:
    """Read the H.273 code points of primaries and transfer function from the `nclx` box of an AVIF or HEIC.

    Reference:
        ISO/IEC 14496-12, 12.1.5 (colour information box).
    """
    at = data.find(b"colrnclx", 0, _HEADER)
    if at < 0:
        return colour.UNSPECIFIED, colour.UNSPECIFIED
    return int.from_bytes(data[at + 8 : at + 10], "big"), int.from_bytes(data[at + 10 : at + 12], "big")


def measure(data: bytes) -> tuple[int, int, int] | None:
    """Read height, width and bytes per channel."""
    image = _open(data)
    width, height = image.size
    return height, width, 2 if image.info["bit_depth"] > 8 else 1


def read(data: bytes, name: str) -> Heic:
    """Decode a HEIC.

    Raises:
        MissingError: pi-heif is not installed.
        InputError: The file is damaged, or pi-heif does not support it.
    """
    try:
        image = _open(data)
        pixels = np.array(image)[:, : image.size[0]]  # a copy: pi-heif frees its memory with `image`
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        is_deep = pixels.dtype == np.uint16
        if is_deep:  # values are those of the file, with 10 or 12 bits
            most = (1 << image.info["bit_depth"]) - 1
            pixels = (pixels.astype(np.float32) * np.float32(65535 / most) + np.float32(0.5)).astype(
                np.uint16
            )
        meaning = ("grey16" if is_deep else "b-w") if pixels.shape[2] < 3 else "rgb16" if is_deep else "srgb"
        icc = image.info.get("icc_profile")
        codes = (colour.UNSPECIFIED, colour.UNSPECIFIED) if icc else codes_of(data)
        icc = icc or colour.profile_of_codes(*codes)
        premultiplied = bool(getattr(image, "premultiplied_alpha", False))
        return Heic(pixels, meaning, icc, codes, image.info.get("exif"), premultiplied)
    except ModuleNotFoundError:
        raise MissingError(
            f"{name}: HEIC needs pi-heif, which is not installed", "pip install 'stylematte[heic]'"
        ) from None
    except (OSError, ValueError, EOFError, RuntimeError, SyntaxError, IndexError):
        raise InputError(f"{name}: damaged or truncated", "Get the file again from its source") from None


def _open(data: bytes) -> Any:
    pi_heif: Any = importlib.import_module("pi_heif")
    return pi_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
