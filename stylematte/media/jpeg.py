"""Decode JPEG and detect damage: the decoder fills missing parts with grey and continues."""

import importlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from numpy.typing import NDArray

from stylematte.media import vips

Array = NDArray[Any]

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_SCAN_OR_END = re.compile(b"\xff[\xda\xd9]")  # neither can occur within a scan's data
_TABLES = b"\xff\xc4"
_HOLE = bytes(512)  # a sector that was never written
_LEAST_SCAN = 1024  # bytes; less data is too short to test with a part of it removed
_AC_TABLES = range(0x10, 0x20)
_END_OF_BLOCK = 0
# libjpeg's messages about corrupt data. Its other messages, such as on stray bytes between segments or on
# unknown versions, also occur with intact images.
_DAMAGE = re.compile("premature end of data|bad Huffman|bad arithmetic|found marker")
_RESTART = re.compile(b"\xff[\xd0-\xd7]")
_STRAY = re.compile(r"(\d+) extraneous bytes")
_MOST_STRAY = 0.02  # fraction of the file
_NO_END = "premature end of JPEG image"
_SIGN = "VipsJpeg"


def load(data: bytes) -> tuple[Array, str]:
    """Decode a JPEG.

    Args:
        data: The file.

    Returns:
        (H, W, C) uint8 as stored, and a description of the damage, empty for an intact image.

    Raises:
        pyvips.Error: The image cannot be decoded at all.
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
            # Perhaps only the end marker is missing, and libjpeg reports only its first warning.
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
    """Positions in a file.

    Attributes:
        scans: Offsets of the scans.
        end: Offset of the end marker, or of the end of the file.
        has_end: Whether there is an end marker.
    """

    scans: tuple[int, ...]
    end: int
    has_end: bool

    @property
    def start(self) -> int:
        """Offset of the first scan."""
        return self.scans[0] if self.scans else 0


def _layout_of(data: bytes) -> _Layout:
    """Find this image's scans and end marker, not those of a thumbnail or of an appended image."""
    scans: list[int] = []
    for found in _SCAN_OR_END.finditer(data, _after_segments(data)):
        if found.group() == _END:
            return _Layout(tuple(scans), found.start(), True)
        scans.append(found.start())
    return _Layout(tuple(scans), len(data), False)


def _decoded_without_complaint(data: bytes) -> Array | None:
    """Decode grey or RGB in two thirds of libvips's time; None if libjpeg warns, and for CMYK."""
    simplejpeg: Any = importlib.import_module("simplejpeg")  # other formats do not need it
    try:
        space = simplejpeg.decode_jpeg_header(data)[2]
        if space not in ("Gray", "YCbCr", "RGB"):
            return None
        return cast(Array, simplejpeg.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB"))
    except ValueError:
        return None


def _decoded(data: bytes, fail_on: str = "none") -> Array:
    """Decode as much as possible; libvips's stricter levels reject intact images, or fail too late."""
    return vips.array_of(vips.library().Image.jpegload_buffer(data, fail_on=fail_on, access="sequential"))


def _needs_all(data: bytes, start: int, is_progressive: bool) -> bool:
    """Return whether the end of the data is needed: if not, the data before it was decoded out of sync.

    Args:
        data: The file up to its end marker.
        start: Offset of the first scan.
        is_progressive: Whether the image has several scans.
    """
    body = data.rstrip(b"\xff")
    length = len(body) - start
    if length < _LEAST_SCAN:
        return True
    cut = body[: len(body) - max(64, length // 50)]
    if is_progressive:  # always decoded to its end
        _, said = vips.messages.run_alone(lambda: _decoded(cut + _END))
        return bool(said)
    try:
        with vips.messages.shared():
            _decoded(cut, fail_on="truncated")
    except vips.library().Error:
        return True
    return False


def _lacks_data(data: bytes) -> bool:
    """Return whether the data up to the end marker is too short, which other messages may hide."""
    spare = bytes(64)  # the decoder reads ahead
    try:
        with vips.messages.shared():
            _decoded(data.rstrip(b"\xff") + spare, fail_on="truncated")
    except vips.library().Error:
        return True
    return False


def _has_all_restarts(scan: bytes) -> bool:
    """Return whether the restart markers, if any, count cyclically from 0 to 7."""
    numbers = [marker[1] & 7 for marker in _RESTART.findall(scan)]
    return all(number == index & 7 for index, number in enumerate(numbers))


def _has_all_scans(data: bytes, scans: tuple[int, ...]) -> bool:
    """Return whether the scans of a progressive image hold all bits of all coefficients of all components.

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
    """Return whether zero bytes can be a plain area: zero bits must be the code for "end of block"."""
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
    """Yield the offsets of the Huffman tables: before the first scan, and between scans."""
    for place, marker in _segments(data):
        if marker == _TABLES:
            yield place
    at = data.find(_TABLES, layout.start, layout.end)
    while at >= 0:
        yield at
        at = data.find(_TABLES, at + 2, layout.end)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield offset and marker of each segment before the first scan, and finally of their end."""
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
    """Return whether it is an Ultra HDR photo: an SDR image with a gain map for HDR screens."""
    head = data[: 1 << 18]
    return b"hdrgm:Version" in head or b"urn:iso:std:iso:ts:21496:-1" in head
