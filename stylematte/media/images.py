"""Read image files as upright RGB, and encode images."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media import metadata, vips
from stylematte.media.decode import decode_image
from stylematte.media.photo import Photo

Array = NDArray[Any]

FORMATS = {"png": ".png", "webp": ".webp", "tiff": ".tif", "jpg": ".jpg"}
DEEP_FORMATS = ("png", "tiff")  # support 16 bits per channel
LONGEST_SIDE = {"webp": 16383, "jpg": 65500}
_LARGE_TIFF_BYTES = 3 << 30  # above this, a TIFF needs 64-bit offsets

# Filter "up" with level 2 is as fast as level 1 with run-length encoding; cut-outs are 5 to 35 % smaller.
_SETTINGS: dict[str, dict[str, Any]] = {
    "png": {"compression": 2, "filter": "up"},
    "jpg": {"Q": 95},
    "webp": {"Q": 95},
    "tiff": {"compression": "lzw", "predictor": "horizontal"},
}
_USUAL_PER_MM = 72 / 25.4  # pixels per millimetre by default; libvips would write 1
_KEEP_EXIF, _KEEP_ICC = 1, 8  # libvips flags
_SAVERS = {"png": "pngsave", "jpg": "jpegsave", "webp": "webpsave", "tiff": "tiffsave"}


def read_image(path: Path, is_data: bool = False) -> Photo:
    """Read an image file; arguments and errors as for `read_bytes` and `decode_image`."""
    return decode_image(read_bytes(path), str(path), is_data=is_data)


def read_alpha(path: Path) -> NDArray[np.float32]:
    """Read an alpha, mask or trimap.

    Returns:
        (H, W) float32 in [0, 1]: the alpha channel if the file has one, else the first channel.

    Raises:
        InputError: As for `read_image`.
    """
    return alpha_of(read_image(path, is_data=True))


def alpha_of(photo: Photo) -> NDArray[np.float32]:
    """Return the alpha of an image that has been read, as `read_alpha` does."""
    values = photo.pixels[:, :, 0] if photo.alpha is None else photo.alpha
    if values.dtype == np.float32:
        return np.clip(values, 0, 1)
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def is_coloured(photo: Photo) -> bool:
    """Return whether an image has colours but no alpha channel, so that it cannot be an alpha."""
    if photo.alpha is not None:
        return False
    pixels = photo.srgb
    limit = np.iinfo(pixels.dtype).max // 16  # tolerance for JPEG artifacts in grey
    first = pixels[:, :, 0].astype(np.int32)
    return any(float((np.abs(pixels[:, :, other] - first) > limit).mean()) > 0.01 for other in (1, 2))


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        InputError: The file does not exist, is a folder, is empty or cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not an image") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise InputError(f"{path}: empty, 0 bytes")
    return data


def encode_image(
    pixels: Array,
    kind: str,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    lossless: bool = False,
    premultiplied: bool = False,
) -> bytes:
    """Encode an image.

    Args:
        pixels: (H, W) grey, (H, W, 3) RGB or (H, W, 4) straight RGBA; uint8, or uint16 for png and tiff.
        kind: `png`, `webp`, `tiff` or `jpg`.
        icc: Colour profile to embed.
        exif: EXIF bytes to embed; not for TIFF.
        lossless: Make webp lossless instead of quality 95. JPEG always has quality 95.
        premultiplied: Multiply the colours of a tiff by alpha, and tag it so.

    Raises:
        InputError: The image is too large for the format, or libvips cannot encode it.
    """
    longest = LONGEST_SIDE.get(kind)
    if longest is not None and max(pixels.shape[:2]) > longest:
        raise InputError(
            f"{kind} holds at most {longest} pixels a side, this image is {_size(pixels.shape)}",
            "Use --format png",
        )
    settings = dict(_SETTINGS[kind])
    if kind == "webp" and lossless:
        settings = {"lossless": True}
    if premultiplied:
        settings["premultiply"] = True
    if kind == "tiff" and pixels.nbytes > _LARGE_TIFF_BYTES:
        settings["bigtiff"] = True
    pyvips = vips.library()
    image = vips.image_of(pixels, icc)
    per_mm = metadata.resolution_of(exif) or _USUAL_PER_MM
    image = image.copy(xres=per_mm, yres=per_mm)
    settings["keep"] = _KEEP_ICC if icc else 0  # otherwise libvips adds its own EXIF
    if exif and kind != "tiff":
        settings["keep"] |= _KEEP_EXIF
        image.set_type(pyvips.GValue.blob_type, "exif-data", exif)
    try:
        return bytes(getattr(image, f"{_SAVERS[kind]}_buffer")(**settings))
    except pyvips.Error as error:
        reason = " ".join(str(error).split())
        raise InputError(f"libvips cannot write {_size(pixels.shape)} as {kind}: {reason}") from None


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} (height x width)"
