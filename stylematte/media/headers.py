"""What an encoded picture says about itself: kind, size, orientation, colour profile. Nothing is decoded.

OpenCV applies the orientation of some formats and not of others, hands over no profile of a TIFF, and has to
decode a picture before it tells the size. These few headers are read here instead.
"""

import struct
from collections.abc import Iterator

ORIENTATION = 0x0112
EXTRA_SAMPLES = 338
ICC_PROFILE = 34675
UNDEFINED = 7  # TIFF field types: bytes without meaning, and
SHORT = 3  # 16-bit numbers

# (AVIF quarter turns counter-clockwise, mirror axis) -> the EXIF orientation that means the same.
_AVIF_ORIENTATION = {(0, 1): 2, (2, None): 3, (0, 0): 4, (1, 0): 5, (3, None): 6, (3, 0): 7, (1, None): 8}


def kind_of(data: bytes) -> str | None:
    """Name the format: jpeg, png, webp, tiff, bmp, avif or heic; None for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:2] == b"BM":
        return "bmp"
    if data[4:8] == b"ftyp":
        brands = data[8 : int.from_bytes(data[:4], "big")]
        return "avif" if b"avi" in brands else "heic" if b"hei" in brands or b"mif1" in brands else None
    return None


def size_of(data: bytes) -> tuple[int, int] | None:
    """Read (height, width) as stored, before orientation; None where the header does not tell."""
    try:
        match kind_of(data):
            case "jpeg":
                return _jpeg_size(data)
            case "png":
                width, height = struct.unpack_from(">II", data, 16)
            case "webp":
                return _webp_size(data)
            case "bmp":
                width, height = struct.unpack_from("<ii", data, 18)
            case "avif":
                at = data.index(b"ispe", 0, 1 << 16)
                width, height = struct.unpack_from(">II", data, at + 8)
            case "tiff":
                tags = {tag: value for tag, value, _ in _tiff_numbers(data)}
                width, height = tags[256], tags[257]
            case _:
                return None
    except (struct.error, ValueError, KeyError, IndexError):
        return None
    return abs(height), abs(width)


def orientation_of(exif: bytes) -> int:
    """Read the orientation, 1 to 8, out of EXIF bytes; 1 where there is none, or nonsense."""
    for tag, value, _ in _tiff_numbers(exif):
        if tag == ORIENTATION and 1 <= value <= 8:
            return value
    return 1


def with_upright_orientation(exif: bytes) -> bytes:
    """Set the orientation in EXIF bytes to 1, for pixels that have been turned."""
    upright = bytearray(exif)
    for tag, _, at in _tiff_numbers(exif):
        if tag == ORIENTATION:
            struct.pack_into(_order(exif) + "H", upright, at, 1)
    return bytes(upright)


def avif_orientation(data: bytes) -> int:
    """Read how an AVIF is to be turned, as an EXIF orientation; `irot` and `imir` boxes say so, not EXIF."""
    turn, mirror = data.find(b"\x09irot", 0, 1 << 16), data.find(b"\x09imir", 0, 1 << 16)
    turns = data[turn + 5] & 3 if turn >= 0 else 0
    axis = data[mirror + 5] & 1 if mirror >= 0 else None
    return _AVIF_ORIENTATION.get((turns, axis), 1)


def tiff_icc(data: bytes) -> bytes | None:
    """Read the colour profile of a TIFF."""
    for tag, _, count, at in _tiff_entries(data):
        if tag == ICC_PROFILE:
            (offset,) = struct.unpack_from(_order(data) + "I", data, at)
            return data[offset : offset + count]
    return None


def with_alpha_as_stored(data: bytes) -> bytes:
    """Call a TIFF's straight alpha premultiplied, so that OpenCV does not multiply the colours by it."""
    for tag, value, at in _tiff_numbers(data):
        if tag == EXTRA_SAMPLES and value == 2:
            changed = bytearray(data)
            struct.pack_into(_order(data) + "H", changed, at, 1)
            return bytes(changed)
    return data


def with_tiff_tags(data: bytes, tags: dict[int, tuple[int, bytes]]) -> bytes:
    """Add tags to a little-endian TIFF of one page.

    Args:
        data: The file.
        tags: Tag to (field type, value): SHORT with two bytes or UNDEFINED with more than four.

    Returns:
        The file with a second directory at its end, which the header now points to.
    """
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    entries = [data[directory + 2 + 12 * i :][:12] for i in range(count)]
    grown = bytearray(data)
    for tag, (kind, value) in tags.items():
        if kind == SHORT:
            entries.append(struct.pack("<HHI2s2x", tag, kind, 1, value))
        else:
            entries.append(struct.pack("<HHII", tag, kind, len(value), len(grown)))
            grown += value + bytes(len(value) % 2)
    grown += bytes(len(grown) % 2)
    struct.pack_into("<I", grown, 4, len(grown))
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    grown += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return bytes(grown)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 30:
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF


def _order(data: bytes) -> str:
    return "<" if data[:1] == b"I" else ">"


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Walk the first directory of TIFF or EXIF bytes: tag, field type, count, place of the value."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return
    order = _order(data)
    try:
        (directory,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, directory)
        for at in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", data, at)
            yield tag, kind, values, at + 8
    except struct.error:  # cut short: what was read so far has to do
        return


def _tiff_numbers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Walk the single whole numbers of the first directory: tag, value, place of the value."""
    for tag, kind, count, at in _tiff_entries(data):
        if count == 1 and kind in (SHORT, 4) and at + 4 <= len(data):
            (value,) = struct.unpack_from(_order(data) + ("H" if kind == SHORT else "I"), data, at)
            yield tag, value, at
