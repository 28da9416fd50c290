"""Pictures from files and into files: every kind becomes upright RGB, and what is written appears whole."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media import headers
from stylematte.memory import usable_bytes

Array = NDArray[Any]

FORMATS = {"png": ".png", "webp": ".webp", "tiff": ".tif", "jpg": ".jpg"}
DEEP_FORMATS = ("png", "tiff")  # hold 16 bits
LONGEST_SIDE = {"webp": 16383, "jpg": 65500}
READ_HINT = "JPEG, PNG, WebP, TIFF, BMP and AVIF are read"
SWAP_PX = 1 << 20
OPENCV_MOST_PX = 1 << 30
LEAST_BYTES_A_PIXEL = 6  # of a picture in work: its colours, and what is made of it

# Of all settings of libpng this is as fast as OpenCV's own (level 1, run lengths, filter "left"), and the
# filter "above" makes mattes 10-25 % and photos 6 % smaller.
_PNG = [
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_UP,
]
_WEBP_LOSSLESS = 101

# An EXIF orientation says how the stored pixels lie; these turn them upright.
TURNS: dict[int, Callable[[Array], Array]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(cv2.flip(pixels, 1)), 1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(eq=False)
class Photo:
    """A decoded picture, upright.

    Attributes:
        pixels: (H, W, 3) RGB uint8 or uint16. Grey and palette pictures have been turned into RGB.
        alpha: (H, W), same dtype: the picture's own opacity; None where it is opaque all over. `pixels` are
            its colours as stored, not premultiplied.
        icc: Colour profile of RGB pixels; None where there is none.
        exif: EXIF bytes with the orientation set to 1; None where there are none, and for every TIFF, whose
            tags OpenCV does not hand over.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    exif: bytes | None = None


def read_image(path: Path) -> Photo:
    """Read a picture file; raises as `read_bytes` and `decode_image`."""
    return decode_image(read_bytes(path), str(path))


def read_alpha(path: Path) -> NDArray[np.float32]:
    """Read an alpha, mask or trimap.

    Returns:
        (H, W) float32 in [0, 1]: the alpha channel where the file has one, else the first channel.

    Raises:
        InputError: As for `read_image`.
    """
    return alpha_of(read_image(path))


def alpha_of(photo: Photo) -> NDArray[np.float32]:
    """What `read_alpha` gives of a file that is read already."""
    values = photo.pixels[:, :, 0] if photo.alpha is None else photo.alpha
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def is_coloured(photo: Photo) -> bool:
    """Whether a picture without an alpha channel has colours, as no alpha has."""
    if photo.alpha is not None:
        return False
    limit = np.iinfo(photo.pixels.dtype).max // 16  # of what JPEG makes of grey
    first = photo.pixels[:, :, 0].astype(np.int32)
    return any(float((np.abs(photo.pixels[:, :, other] - first) > limit).mean()) > 0.01 for other in (1, 2))


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        InputError: It is not there, a folder, empty or not to be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a picture") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise InputError(f"{path}: empty, 0 bytes")
    return data


def decode_image(data: bytes, name: str) -> Photo:
    """Decode a picture and turn it upright.

    Args:
        data: The encoded picture.
        name: What messages call it.

    Raises:
        InputError: Not a picture, a damaged or cut one, one beyond OpenCV's limits or this machine's memory,
            or of floating point.
    """
    _check_size(data, name)
    kind = headers.kind_of(data)
    # JPEG is decoded to RGB at once; other kinds may have 16 bits or an alpha, which only UNCHANGED keeps.
    flags = cv2.IMREAD_UNCHANGED
    if kind == "jpeg":
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    elif kind == "tiff":
        data = headers.with_alpha_as_stored(data)
    try:
        # From memory, because from a file OpenCV takes a cut JPEG for whole and fills the rest with grey.
        pixels, kinds, values = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _explain(data, name, kind, error) from None
    if pixels is None:
        raise _explain(data, name, kind)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{name}: a picture of {pixels.dtype} numbers", "Save it with 8 or 16 bits a channel"
        )
    metadata = {int(key): np.asarray(value).tobytes() for key, value in zip(kinds, values, strict=True)}

    exif = metadata.get(cv2.IMAGE_METADATA_EXIF)
    if kind == "avif":
        turn = TURNS.get(headers.avif_orientation(data))
    else:  # TIFF has its orientation in tags, not in EXIF, and OpenCV has applied it
        turn = TURNS.get(headers.orientation_of(exif)) if exif else None
    if turn is not None:
        pixels = turn(pixels)
    colours, alpha = _split(pixels, already_rgb=kind == "jpeg")
    icc = headers.tiff_icc(data) if kind == "tiff" else metadata.get(cv2.IMAGE_METADATA_ICCP)
    if icc is not None and icc[16:20] != b"RGB ":
        icc = None  # it describes the CMYK or grey values that are no more
    return Photo(colours, alpha, icc, headers.with_upright_orientation(exif) if exif else None)


def encode_image(
    pixels: Array,
    kind: str,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    lossless: bool = False,
    premultiplied: bool = False,
) -> bytes:
    """Encode a picture.

    Args:
        pixels: (H, W) grey, (H, W, 3) RGB or (H, W, 4) straight RGBA; uint8, or uint16 for png and tiff.
        kind: `png`, `webp`, `tiff` or `jpg`.
        icc: Colour profile to embed.
        exif: EXIF bytes to embed. TIFF cannot take them.
        lossless: Also for webp, which else has quality 95. JPEG always has quality 95.
        premultiplied: Say in a tiff that the colours have been multiplied by alpha.

    Raises:
        InputError: The picture is too long for the format, or OpenCV cannot encode it.
    """
    longest = LONGEST_SIDE.get(kind)
    if longest is not None and max(pixels.shape[:2]) > longest:
        raise InputError(
            f"{kind} holds at most {longest} pixels a side, this picture is {_size(pixels.shape)}",
            "Use --format png",
        )
    settings = {
        "png": _PNG,
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, _WEBP_LOSSLESS if lossless else 95],
        "tiff": [],
    }[kind]
    metadata = {cv2.IMAGE_METADATA_EXIF: exif, cv2.IMAGE_METADATA_ICCP: icc}
    present = {key: np.frombuffer(value, np.uint8) for key, value in metadata.items() if value}
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    try:
        if present and kind != "tiff":
            done, encoded = cv2.imencodeWithMetadata(
                FORMATS[kind], pixels, list(present), list(present.values()), settings
            )
        else:
            done, encoded = cv2.imencode(FORMATS[kind], pixels, settings)
    except cv2.error as error:
        raise InputError(f"OpenCV cannot write {_size(pixels.shape)} as {kind}: {error.err}") from None
    if not done:
        raise InputError(f"OpenCV cannot write {_size(pixels.shape)} as {kind}")
    if kind != "tiff":
        return bytes(encoded)
    tags: dict[int, tuple[int, bytes]] = {}
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        tags[headers.EXTRA_SAMPLES] = (headers.SHORT, b"\1\0" if premultiplied else b"\2\0")
    if icc:
        tags[headers.ICC_PROFILE] = (headers.UNDEFINED, icc)
    return headers.with_tiff_tags(bytes(encoded), tags) if tags else bytes(encoded)


def _split(pixels: Array, already_rgb: bool) -> tuple[Array, Array | None]:
    """Turn what OpenCV decodes into RGB and an alpha that is not opaque all over."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), None
    if pixels.shape[2] == 2:
        colours, alpha = (
            cv2.cvtColor(np.ascontiguousarray(pixels[:, :, 0]), cv2.COLOR_GRAY2RGB),
            pixels[:, :, 1],
        )
    elif pixels.shape[2] == 4:
        colours, alpha = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), pixels[:, :, 3]
    else:
        return pixels if already_rgb else _swap_in_place(pixels), None
    is_opaque = bool(alpha.min() == np.iinfo(alpha.dtype).max)
    return colours, None if is_opaque else np.ascontiguousarray(alpha)


def _swap_in_place(pixels: Array) -> Array:
    """Turn BGR into RGB in strips: in one call OpenCV would take the picture's memory once more."""
    rows = max(1, SWAP_PX // pixels.shape[1])
    for first in range(0, len(pixels), rows):
        pixels[first : first + rows] = cv2.cvtColor(pixels[first : first + rows], cv2.COLOR_BGR2RGB)
    return pixels


def _explain(data: bytes, name: str, kind: str | None, error: cv2.error | None = None) -> InputError:
    """Say why OpenCV did not decode."""
    if kind == "heic":
        return InputError(f"{name}: HEIC is not read", "Convert it to JPEG or PNG first")
    if kind is None and error is None:
        return InputError(f"{name}: not a picture in a known format", READ_HINT)
    if error is not None and "CV_IO_MAX_IMAGE" in str(error):
        size = headers.size_of(data)
        what = _size(size) if size else "this picture"
        return InputError(
            f"{name}: {what} is beyond OpenCV's limit of 2^30 pixels and 2^20 a side", "Scale it down first"
        )
    if kind == "avif":
        return InputError(
            f"{name}: damaged or cut short, or this OpenCV reads no AVIF", "See stylematte doctor"
        )
    return InputError(f"{name}: damaged or cut short", "Get the file anew from where it came from")


def _check_size(data: bytes, name: str) -> None:
    """Refuse by its header what a few bytes may ask for and no memory holds: the system would end the run."""
    size, there_is = headers.size_of(data), usable_bytes()
    if size is None or there_is is None:
        return
    needed = size[0] * size[1] * LEAST_BYTES_A_PIXEL
    if needed > there_is and size[0] * size[1] <= OPENCV_MOST_PX:  # else OpenCV refuses it by itself
        raise InputError(
            f"{name}: {_size(size)} takes {needed / 1e9:.1f} GB at least, and there are {there_is / 1e9:.1f}",
            "Scale it down first",
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} (height x width)"
