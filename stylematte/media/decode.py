"""Decode any image format: the first bytes select the library that `formats` names."""

import re
from collections.abc import Callable
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.imaging.compose import unpremultiply
from stylematte.media import colour, formats, hdr, heif, jpeg, pillow, png, tiff, vips
from stylematte.media.photo import Photo
from stylematte.media.stored import (
    ANEW,
    KEEP,
    Stored,
    check_size,
)

Array = NDArray[Any]

_LEAST_HOLE = 64
_UNSUPPORTED = re.compile(r"^\s*\w+: (.*(?:not supported|unsupported|not implemented).*)$", re.M | re.I)
_COMPRESSION = re.compile(r"[Cc]ompression scheme (\d+)")

# EXIF orientation → the transform that turns the stored pixels upright.
TURNS: dict[int, Callable[[Array], Array]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(cv2.flip(pixels, 1)), 1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def decode_image(
    data: bytes, name: str, page: int | None = None, keep_damaged: bool = False, is_data: bool = False
) -> Photo:
    """Decode an image and turn it upright.

    Args:
        data: The encoded image.
        name: Name of the image in messages.
        page: Page of a multi-page TIFF; None takes the first one and adds a note.
        keep_damaged: Use the readable part of a damaged or truncated image, and add a note.
        is_data: The values are an alpha or a mask: colour codes and grey profiles are ignored.

    Raises:
        InputError: Not an image, unsupported, damaged, truncated, or too large.
        MissingError: The extra that reads it is not installed.
    """
    kind = formats.kind_of(data)
    if kind is None:
        raise InputError(f"{name}: not an image in a known format", read_hint())
    if kind in formats.REFUSED:
        entry = formats.REFUSED[kind]
        raise InputError(f"{name}: {_with_article(entry.title)} is not supported", entry.hint)
    if page is not None and kind != "tiff":
        raise InputError(f"{name}: only TIFF files have pages", "Give the file name without a page")
    if kind == "exr":
        from stylematte.media import exr

        return exr.decode_exr(data, name)
    stored = _READERS[kind](data, name, page, keep_damaged)
    if is_data:
        stored.codes = (colour.UNSPECIFIED, colour.UNSPECIFIED)
        stored.icc = None if stored.meaning in _GREY else stored.icc
    return _photo_of(stored, name)


def measure(data: bytes) -> tuple[int, int, int] | None:
    """Read height, width and bytes per channel without decoding; None if the header does not give them.

    Height and width are as stored, before orientation.
    """
    kind = formats.kind_of(data)
    try:
        if kind in _LOADERS:
            with vips.messages.shared():
                image = getattr(vips.library().Image, _LOADERS[kind])(data)
            return image.height, image.width, 1 if image.format == "uchar" else 2
        if kind == "bmp":
            width, height = pillow.open_image(data).size
            return height, width, 1
        if kind == "heic":
            return heif.measure(data)
        if kind == "exr":
            from stylematte.media import exr

            return exr.measure(data)
    except Exception:  # libraries raise various errors for broken headers; decoding will report them
        return None
    return None


def read_hint() -> str:
    """Return a sentence that lists the supported formats."""
    titles = [entry.title for entry in formats.FORMATS]
    return f"{', '.join(titles[:-1])} and {titles[-1]} are read"


_GREY = ("b-w", "grey16")
_LOADERS = {
    "jpeg": "jpegload_buffer",
    "png": "pngload_buffer",
    "webp": "webpload_buffer",
    "tiff": "tiffload_buffer",
    "avif": "heifload_buffer",
}


def _read_jpeg(data: bytes, name: str, page: int | None, keep_damaged: bool) -> Stored:
    pyvips = vips.library()
    try:
        with vips.messages.shared():
            image = pyvips.Image.jpegload_buffer(data)
            check_size(image, name)
        pixels, damage = jpeg.load(data)
    except pyvips.Error as error:
        if "precision 12" in str(error):
            raise InputError(f"{name}: 12-bit JPEG is not supported", "Convert it to TIFF or PNG") from None
        _fail(name, error)
    stored = _stored(image, pixels)
    if damage and not keep_damaged:
        raise InputError(f"{name}: damaged or truncated ({damage})", f"{ANEW}; {KEEP}")
    if damage:
        stored.notes.append(f"damaged or truncated ({damage}): the readable part was used")
    if jpeg.has_gain_map(data):
        stored.notes.append("Ultra HDR: its SDR image is used, without its gain map")
    return stored


def _read_png(data: bytes, name: str, page: int | None, keep_damaged: bool) -> Stored:
    if png.is_animated(data):
        raise _animation(name, "an APNG")
    stored = _load("pngload_buffer", data, name, keep_damaged)
    stored.codes = png.codes_of(data)
    stored.icc = png.profile_of(data, stored.icc)
    return stored


def _read_webp(data: bytes, name: str, page: int | None, keep_damaged: bool) -> Stored:
    stored = _load("webpload_buffer", data, name, keep_damaged)
    # Lossy WebP has no error detection. Its arithmetic coder writes one zero byte for 40 plain blocks of
    # 16x16 px: a longer run of zeros than all blocks can produce is a hole.
    hole = bytes(_LEAST_HOLE + stored.pixels[..., 0].size // (256 * 30))
    start = data.find(b"VP8 ", 12, 1 << 16)
    end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
    if start >= 0 and data.find(hole, start, end) >= 0:
        if not keep_damaged:
            raise InputError(f"{name}: damaged or truncated (a hole in its data)", f"{ANEW}; {KEEP}")
        stored.notes.append("damaged or truncated (a hole in its data): the readable part was used")
    return stored


def _read_avif(data: bytes, name: str, page: int | None, keep_damaged: bool) -> Stored:
    stored = _load("heifload_buffer", data, name, keep_damaged)
    stored.orientation = 1  # libvips has applied the container's rotation; EXIF orientation does not apply
    if stored.pixels.dtype == np.uint16:  # 10 and 12 bits are shifted up, so their white is below 65535
        stored.pixels = _stretched(stored.pixels, stored.bits)
    if stored.icc is None:
        stored.codes = heif.codes_of(data)
        stored.icc = colour.profile_of_codes(*stored.codes)
    return stored


def _read_heic(data: bytes, name: str, page: int | None, keep_damaged: bool) -> Stored:
    found = heif.read(data, name)
    return Stored(
        found.pixels,
        found.meaning,
        found.icc,
        found.codes,
        found.exif,
        is_premultiplied=found.is_premultiplied,
    )


def _read_tiff(data: bytes, name: str, page: int | None, keep_damaged: bool) -> Stored:
    chosen, count = tiff.choose_page(data, name, page)
    notes = []
    if page is None and count > 1:
        notes.append(f"the first of {count} pages: {name}[1] is the second")
    if chosen.is_lab:
        stored = pillow.read_lab(data, name, chosen.number)
    else:
        place: dict[str, Any] = {"subifd": chosen.sub} if chosen.sub >= 0 else {}
        if chosen.is_tiled and chosen.tells_extra_samples:
            # libvips only warns about an unreadable tile, but also about a channel that no tag explains.
            place["fail_on"] = "warning"
        try:
            stored = _load("tiffload_buffer", data, name, keep_damaged, page=chosen.number, **place)
        except InputError as error:
            if chosen.compression in tiff.COMPRESSIONS and "damaged" in error.message:
                title = tiff.COMPRESSIONS[chosen.compression]
                raise InputError(
                    f"{name}: {title} inside TIFF is damaged or not supported", "Save it with LZW or deflate"
                ) from None
            raise
    if not tiff.has_whole_deflate_data(data, chosen):
        if not keep_damaged:
            raise InputError(f"{name}: damaged or truncated (a wrong checksum)", f"{ANEW}; {KEEP}")
        stored.notes.append("damaged or truncated (a wrong checksum): the readable part was used")
    stored.notes += notes
    return stored


Reading = Callable[[bytes, str, int | None, bool], Stored]
_READERS: dict[str, Reading] = {
    "jpeg": _read_jpeg,
    "png": _read_png,
    "webp": _read_webp,
    "tiff": _read_tiff,
    "bmp": pillow.read_bmp,
    "avif": _read_avif,
    "heic": _read_heic,
}


def _load(loader: str, data: bytes, name: str, keep_damaged: bool, **options: Any) -> Stored:
    """Load with libvips, which detects damage in these formats; reject animations."""
    with vips.messages.shared():
        return _load_shared(loader, data, name, keep_damaged, options)


def _load_shared(loader: str, data: bytes, name: str, keep_damaged: bool, options: dict[str, Any]) -> Stored:
    pyvips = vips.library()
    load = getattr(pyvips.Image, loader)
    notes = []
    try:
        image = load(data, **{"fail_on": "error", "access": "sequential"} | options)
        check_size(image, name)
        if loader != "tiffload_buffer" and image.get_typeof("n-pages") and image.get("n-pages") > 1:
            if loader != "heifload_buffer":
                raise _animation(name, f"an animation of {image.get('n-pages')} frames")
            notes.append(f"the primary of {image.get('n-pages')} images in it")
        stored = _stored(image, vips.array_of(image))
    except pyvips.Error as error:
        if not keep_damaged:
            _fail(name, error)
        try:
            image = load(data, **options | {"fail_on": "none"})
            stored = _stored(image, vips.array_of(image))
        except pyvips.Error:
            _fail(name, error)
        notes.append("damaged or truncated: the readable part was used")
    stored.notes += notes
    return stored


def _stored(image: Any, pixels: Array) -> Stored:
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    exif = vips.blob_of(image, "exif-data")
    icc = vips.blob_of(image, "icc-profile-data")
    bits = image.get("bits-per-sample") if image.get_typeof("bits-per-sample") else 8 * pixels.itemsize
    return Stored(pixels, str(image.interpretation), icc, exif=exif, orientation=orientation, bits=bits)


def _stretched(pixels: Array, bits: int) -> Array:
    """Rescale values that were shifted to the top of 16 bits to the full range."""
    white = ((1 << bits) - 1) << (16 - bits)
    codes = np.arange(1 << 16, dtype=np.uint32)
    table = np.minimum((codes * 65535 + white // 2) // white, 65535).astype(np.uint16)
    return np.asarray(table[pixels])


def _photo_of(stored: Stored, name: str) -> Photo:
    """Turn stored channels into upright RGB and alpha; the alpha is dropped if fully opaque."""
    pixels, icc = stored.pixels, stored.icc
    is_light = pixels.dtype == np.float32
    if is_light and icc is not None:
        raise InputError(f"{name}: floating point with a colour profile is not supported", "Save it as EXR")
    if not is_light and pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{name}: an image of {pixels.dtype} numbers", "Save it with 8 or 16 bits a channel")
    turn = TURNS.get(stored.orientation)
    if turn is not None:
        pixels = turn(pixels)
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    count = 1 if stored.meaning in _GREY else 4 if stored.meaning == "cmyk" else 3
    is_other = stored.meaning in ("multiband", "lab", "labs", "labq", "xyz") or (is_light and count == 4)
    if pixels.shape[2] < count or is_other or (stored.meaning == "scrgb" and not is_light):
        raise InputError(
            f"{name}: {pixels.shape[2]} channels of {stored.meaning} are not supported", "Save it as RGB"
        )
    alpha = np.ascontiguousarray(pixels[:, :, count]) if pixels.shape[2] > count else None
    if alpha is not None and alpha.min() == (1 if is_light else np.iinfo(alpha.dtype).max):
        alpha = None
    colours = np.ascontiguousarray(pixels[:, :, :count])
    if is_light:
        return hdr.photo_of_light(colours, alpha, tuple(stored.notes))
    if alpha is not None and stored.is_premultiplied:
        colours = unpremultiply(colours, alpha)
    if count == 3 and stored.codes[1] in hdr.TRANSFERS:
        return hdr.photo_of_codes(colours, alpha, stored.codes, stored.exif, tuple(stored.notes))
    colours, icc = _rgb_of(colours, icc, count, stored)
    return Photo(colours, alpha, icc, stored.exif, tuple(stored.notes))


def _rgb_of(colours: Array, icc: bytes | None, count: int, stored: Stored) -> tuple[Array, bytes | None]:
    space = {1: "GRAY", 3: "RGB", 4: "CMYK"}[count]
    has_profile = colour.space_of(icc) == space  # a profile of another space does not fit these values
    if count == 3:
        return colours, icc if has_profile else None
    if has_profile:
        assert icc is not None
        try:
            return colour.other_to_srgb(colours, icc, stored.meaning), colour.srgb_profile()
        except vips.library().Error:
            stored.notes.append("its colour profile is unusable and was ignored")
    if count == 4:
        return colour.cmyk_without_profile(colours), colour.srgb_profile()
    return cv2.cvtColor(colours, cv2.COLOR_GRAY2RGB), None


def _animation(name: str, what: str) -> InputError:
    return InputError(f"{name}: {what}, which is not a photo", "Convert it to a clip, or extract a frame")


def _fail(name: str, error: Exception) -> NoReturn:
    """Raise an `InputError` with the reason why libvips could not decode."""
    text = str(error)
    if found := _COMPRESSION.search(text):
        title = tiff.COMPRESSIONS.get(int(found[1]), f"compression {found[1]}")
        raise InputError(
            f"{name}: {title} inside TIFF is not supported", "Save it with LZW or deflate"
        ) from None
    if "VipsJpeg" not in text and (found := _UNSUPPORTED.search(text)):
        raise InputError(f"{name}: not read: {found[1].strip()}", "Convert it to PNG or TIFF") from None
    raise InputError(f"{name}: damaged or truncated", f"{ANEW}; {KEEP}") from None


def _with_article(title: str) -> str:
    return (
        title
        if title.startswith(("JPEG", "HEIC", "GIF"))
        else f"{'an' if title[:3] == 'SVG' else 'a'} {title}"
    )
