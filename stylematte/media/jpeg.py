"""JPEG: whether the data fills the image. The decoder fills what is missing with grey and goes on."""

import re
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from stylematte.media import vips

Array = NDArray[Any]

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
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
    pixels, is_suspicious = vips.messages.run(lambda: _decoded(data), _SIGN)
    is_progressive = len(list(_places(data, _SCAN))) > 1
    start = next(_places(data, _SCAN), 0)
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
    if said and not is_progressive and not _has_all_restarts(data[start : _end_of(data, start)]):
        return pixels, "a part of its data is missing"
    if said and not is_progressive and _lacks_data(data, start):
        return pixels, "premature end of data"
    if is_progressive and not _has_all_scans(data):
        return pixels, "scans are missing"
    has_hole = data.find(_HOLE, start, _end_of(data, start)) >= 0
    if has_hole and not is_progressive and not _can_have_zeros(data):
        return pixels, "a hole in its data"
    if (said or has_hole or data.find(_END, start) < 0) and not _needs_all(data, start, is_progressive):
        return pixels, "filled before its data ends"
    return pixels, ""


def _decoded(data: bytes, fail_on: str = "none") -> Array:
    """Decode whatever there is; libvips's own levels of failing stop at sound images, or too late."""
    return vips.array_of(vips.library().Image.jpegload_buffer(data, fail_on=fail_on, access="sequential"))


def _end_of(data: bytes, start: int) -> int:
    end = data.find(_END, start)  # cannot be in the data of a scan
    return end if end >= 0 else len(data)


def _needs_all(data: bytes, start: int, is_progressive: bool) -> bool:
    """Whether the last of the data is needed: where it is not, what came before was read out of step."""
    body = data[: _end_of(data, start)].rstrip(b"\xff")
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


def _lacks_data(data: bytes, start: int) -> bool:
    """Whether the data ends before the image is full; asked where another message may have hidden that."""
    spare = bytes(64)  # for what the decoder reads ahead
    try:
        with vips.messages.shared():
            _decoded(data[: _end_of(data, start)].rstrip(b"\xff") + spare, fail_on="truncated")
    except vips.library().Error:
        return True
    return False


def _has_all_restarts(scan: bytes) -> bool:
    """Whether restart markers, where there are any, count from 0 to 7 over and over."""
    numbers = [marker[1] & 7 for marker in _RESTART.findall(scan)]
    return all(number == index & 7 for index, number in enumerate(numbers))


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive image bring all bits of all 64 coefficients of all components.

    Reference:
        ITU-T T.81, B.2.3 (scan header) and G.1.1.1 (spectral selection, successive approximation).
    """
    missing: dict[int, set[int]] = {}
    for at in _places(data, _SCAN):
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


def _can_have_zeros(data: bytes) -> bool:
    """Whether zero bytes can be a plain area: where zero bits stand for "nothing more in this block"."""
    for at in _places(data, b"\xff\xc4"):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        tables = data[at + 4 : at + 2 + length]
        while len(tables) > 17:
            symbols = sum(tables[1:17])
            if tables[0] in _AC_TABLES and tables[17] != _END_OF_BLOCK:
                return False
            tables = tables[17 + symbols :]
    return True


def _places(data: bytes, marker: bytes) -> Iterator[int]:
    """Places of a marker of this image; a thumbnail within its segments has its own."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at : at + 2] != _SCAN:
        if data[at : at + 2] == marker:
            yield at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if data[at + 1 : at + 2] != b"\xff" else 1
    end = _end_of(data, at)  # behind it may be another image, such as a gain map
    at = data.find(marker, at, end)
    while at >= 0:
        yield at
        at = data.find(marker, at + 2, end)


def has_gain_map(data: bytes) -> bool:
    """Whether it is an Ultra HDR photo: an SDR image with a map that brightens it on some screens."""
    head = data[: 1 << 18]
    return b"hdrgm:Version" in head or b"urn:iso:std:iso:ts:21496:-1" in head
