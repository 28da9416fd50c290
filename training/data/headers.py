"""Read an image file's size, and check that it is complete, from its first and last bytes.

This is much cheaper than decoding, and finds more: OpenCV decodes a truncated JPEG and fills the rest with
grey.
"""

import struct
from pathlib import Path
from typing import BinaryIO

_TAIL_BYTES = 65536  # phones write previews after a JPEG's end
_PNG = b"\x89PNG\r\n\x1a\n"
_NO_SIZE = {0xC4, 0xC8, 0xCC}  # markers among C0-CF that are no start of frame


def read_size(path: Path) -> tuple[int, int] | None:
    """Read the displayed size of a JPEG or PNG, with its EXIF orientation applied.

    Returns:
        (height, width); None for other formats.

    Raises:
        ValueError: The file is empty, broken or truncated; the message does not name the file.
    """
    with path.open("rb") as file:
        start = file.read(8)
        if not start:
            raise ValueError("empty, 0 bytes")
        if start == _PNG:
            size = _png_size(file)
        elif start[:2] == b"\xff\xd8":
            size = _jpeg_size(file)
        else:
            return None
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        if (b"IEND" if start == _PNG else b"\xff\xd9") not in file.read():
            raise ValueError("truncated: its end is missing")
        return size


def _png_size(file: BinaryIO) -> tuple[int, int]:
    header = file.read(16)
    if len(header) < 16 or header[4:8] != b"IHDR":
        raise ValueError("broken: no PNG header")
    width, height = struct.unpack(">II", header[8:])
    return height, width


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(2)
    is_turned = False
    while True:
        marker = file.read(2)
        while marker[1:] == b"\xff":  # fill bytes
            marker = marker[1:] + file.read(1)
        length = file.read(2)
        if len(length) < 2 or marker[0] != 0xFF or length < b"\0\2":  # it counts itself
            raise ValueError("broken: no size in its JPEG header")
        data_bytes = struct.unpack(">H", length)[0] - 2
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in _NO_SIZE:
            frame = file.read(5)
            if len(frame) < 5:
                raise ValueError("broken: no size in its JPEG header")
            height, width = struct.unpack(">HH", frame[1:])
            return (width, height) if is_turned else (height, width)
        if marker[1] == 0xE1:
            is_turned = is_turned or _orientation(file.read(data_bytes)) >= 5
        else:
            file.seek(data_bytes, 1)


def _orientation(segment: bytes) -> int:
    """Return the EXIF orientation of an APP1 segment, or 1; 5 to 8 swap height and width."""
    tiff = segment[6:]
    if segment[:6] != b"Exif\0\0" or tiff[:2] not in (b"II", b"MM") or len(tiff) < 10:
        return 1
    order = "<" if tiff[:2] == b"II" else ">"
    start = struct.unpack(order + "I", tiff[4:8])[0]
    count = int.from_bytes(tiff[start : start + 2], "little" if order == "<" else "big")
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if len(tiff) < entry + 12:
            break
        tag, _, _, value = struct.unpack(order + "HHIH", tiff[entry : entry + 10])
        if tag == 0x0112:
            return int(value)
    return 1
