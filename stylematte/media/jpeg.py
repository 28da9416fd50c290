"""JPEG: whether the data fills the image. The decoder fills what is missing with grey and goes on."""

import importlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from numpy.typing import NDArray

from stylematte.media import vips

Array = NDArray[Any]

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_SCAN_OR_END = re.compile(b"\xff[\xda\xd9]")  # neither can be in the data of a scan
_TABLES = b"\xff\xc4"
_HOLE = bytes(512)  # a sector that was never written
_LEAST_SCAN = 1024  # bytes of data below which no share of it says anything
_AC_TABLES = range(0x10, 0x20)
_END_OF_BLOCK = 0
# What libjpeg says of data that cannot be right. Others of its messages, on stray bytes between segments or
# on unknown versions, come with sound images.
_DAMAGE = re.compile("premature end of data|bad Huffman|bad arithmetic|found marker")
_RESTART = re.compile(b"\xff[\xd0-\xd7]")
_STRAY = re.compile(r"(\d+) extraneous bytes")
_MOST_STRAY = 0.02  # of the file
_NO_END = "premature end of JPEG image"
_SIGN = "VipsJpeg"


def load(data: bytes) -> tuple[Array, str]:
    """Decode a JPEG.

    Args:
        data: The file.

    Returns:
        (H, W, C) uint8 as stored; and what is wrong with the data, empty for a sound image.

    Raises:
        pyvips.Error: No image comes out of it.
    """
    without_complaint = _decoded_without_complaint(data)
    if without_complaint is None:
        pixels, is_suspicious = vips.messages.run(lambda: _decoded(data), _SIGN)
    else:
        pixels, is_suspicious = without_complaint, False
    layout = _layout_of(data)
    start, end = layout.start, layout.end
    is_progressive = len(layout.scans) > 1
    said = ""
    if is_suspicious:
        pixels, said = vips.messages.run_alone(lambda: _decoded(data))
        if _NO_END in said:
            # Perhaps nothing but the end marker is missing. libjpeg tells its first complaint alone.
            pixels, said = vips.messages.run_alone(lambda: _decoded(data + _END))
    if damage := _DAMAGE.search(said):
        return pixels, damage.group()
    stray = _STRAY.search(said)
    if stray and int(stray[1]) > _MOST_STRAY * len(data):
        return pixels, "data that belongs nowhere"
    if said and not is_progressive and not _has_all_restarts(data[start:end]):
        return pixels, "a part of its data is missing"
    if said and not is_progressive and _lacks_data(data[:end]):
        return pixels, "premature end of data"
    if is_progressive and not _has_all_scans(data, layout.scans):
        return pixels, "scans are missing"
    has_hole = data.find(_HOLE, start, end) >= 0
    if has_hole and not is_progressive and not _can_have_zeros(data, layout):
        return pixels, "a hole in its data"
    if (said or has_hole or not layout.has_end) and not _needs_all(data[:end], start, is_progressive):
        return pixels, "filled before its data ends"
    return pixels, ""


class _Layout(NamedTuple):
    """Where things are in a file.

    Attributes:
        scans: Places of the scans.
        end: Place of the end marker, or of the end of the file.
        has_end: There is such a marker.
    """

    scans: tuple[int, ...]
    end: int
    has_end: bool

    @property
    def start(self) -> int:
        """Place of the first scan."""
        return self.scans[0] if self.scans else 0


def _layout_of(data: bytes) -> _Layout:
    """Find this image's scans and end; a thumbnail inside and an image behind it have their own."""
    scans: list[int] = []
    for found in _SCAN_OR_END.finditer(data, _after_segments(data)):
        if found.group() == _END:
            return _Layout(tuple(scans), found.start(), True)
        scans.append(found.start())
    return _Layout(tuple(scans), len(data), False)


def _decoded_without_complaint(data: bytes) -> Array | None:
    """Decode grey and RGB, in two thirds of libvips's time; None if libjpeg says anything, and for CMYK."""
    simplejpeg: Any = importlib.import_module("simplejpeg")  # not needed for other formats
    try:
        space = simplejpeg.decode_jpeg_header(data)[2]
        if space not in ("Gray", "YCbCr", "RGB"):
            return None
        return cast(Array, simplejpeg.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB"))
    except ValueError:
        return None


def _decoded(data: bytes, fail_on: str = "none") -> Array:
    """Decode whatever there is; libvips's own levels of failing stop at sound images, or too late."""
    return vips.array_of(vips.library().Image.jpegload_buffer(data, fail_on=fail_on, access="sequential"))


def _needs_all(data: bytes, start: int, is_progressive: bool) -> bool:
    """Whether the last of the data is needed: where it is not, what came before was read out of step.

    Args:
        data: The file up to its end marker.
        start: Place of the first scan.
        is_progressive: It has several scans.
    """
    body = data.rstrip(b"\xff")
    length = len(body) - start
    if length < _LEAST_SCAN:
        return True
    cut = body[: len(body) - max(64, length // 50)]
    if is_progressive:  # is read to its end in any case
        _, said = vips.messages.run_alone(lambda: _decoded(cut + _END))
        return bool(said)
    try:
        with vips.messages.shared():
            _decoded(cut, fail_on="truncated")
    except vips.library().Error:
        return True
    return False


def _lacks_data(data: bytes) -> bool:
    """Whether a file, up to its end marker, ends before the image is full: messages may hide that."""
    spare = bytes(64)  # for what the decoder reads ahead
    try:
        with vips.messages.shared():
            _decoded(data.rstrip(b"\xff") + spare, fail_on="truncated")
    except vips.library().Error:
        return True
    return False


def _has_all_restarts(scan: bytes) -> bool:
    """Whether restart markers, where there are any, count from 0 to 7 over and over."""
    numbers = [marker[1] & 7 for marker in _RESTART.findall(scan)]
    return all(number == index & 7 for index, number in enumerate(numbers))


def _has_all_scans(data: bytes, scans: tuple[int, ...]) -> bool:
    """Whether the scans of a progressive image bring all bits of all 64 coefficients of all components.

    Reference:
        ITU-T T.81, B.2.3 (scan header) and G.1.1.1 (spectral selection, successive approximation).
    """
    missing: dict[int, set[int]] = {}
    for at in scans:
        count = data[at + 4] if at + 4 < len(data) else 0
        header = data[at + 5 : at + 8 + 2 * count]
        if len(header) < 2 * count + 3:
            return False
        first, last, bits = header[2 * count :]
        for component in header[: 2 * count : 2]:
            coefficients = missing.setdefault(component, set(range(64)))
            if not bits & 15:
                coefficients -= set(range(first, last + 1))
    return bool(missing) and not any(missing.values())


def _can_have_zeros(data: bytes, layout: _Layout) -> bool:
    """Whether zero bytes can be a plain area: where zero bits stand for "nothing more in this block"."""
    for at in _tables(data, layout):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        tables = data[at + 4 : at + 2 + length]
        while len(tables) > 17:
            symbols = sum(tables[1:17])
            if tables[0] in _AC_TABLES and tables[17] != _END_OF_BLOCK:
                return False
            tables = tables[17 + symbols :]
    return True


def _tables(data: bytes, layout: _Layout) -> Iterator[int]:
    """Places of the Huffman tables: among the segments before the first scan, and between scans."""
    for place, marker in _segments(data):
        if marker == _TABLES:
            yield place
    at = data.find(_TABLES, layout.start, layout.end)
    while at >= 0:
        yield at
        at = data.find(_TABLES, at + 2, layout.end)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Place and marker of each segment before the first scan, and at last where they end."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at : at + 2] != _SCAN:
        if data[at + 1 : at + 2] == b"\xff":  # a fill byte
            at += 1
            continue
        yield at, data[at : at + 2]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    yield at, data[at : at + 2]


def _after_segments(data: bytes) -> int:
    *_, (place, _) = _segments(data)
    return place


def has_gain_map(data: bytes) -> bool:
    """Whether it is an Ultra HDR photo: an SDR image with a map that brightens it on some screens."""
    head = data[: 1 << 18]
    return b"hdrgm:Version" in head or b"urn:iso:std:iso:ts:21496:-1" in head
