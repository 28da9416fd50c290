"""Identify a file by its first bytes: a photo, an animated image or a clip."""

from pathlib import Path
from typing import BinaryIO, Literal

from stylematte.media.formats import BY_KIND, REFUSED, kind_of

Sniffed = Literal["photo", "animation", "clip"]

_HEAD_BYTES = 1024
_PNG_CHUNKS = 1000  # searched for the one with the number of frames
_CLIP_BEGINNINGS = (
    b"\x1a\x45\xdf\xa3",  # Matroska and WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01",  # MXF
    b"OggS",
    b"YUV4MPEG2",
    b".RMF",
    b"\0\0\x01\xba",  # MPEG program stream: MPG, VOB
    b"\0\0\x01\xb3",  # MPEG-1 and -2 video
    b"\0\0\0\x01\x67",  # H.264
    b"\0\0\0\x01\x09",
    b"\0\0\0\x01\x40\x01",  # HEVC
    b"DKIF",  # IVF
)
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def sniff(path: Path) -> Sniffed | None:
    """Identify a file; None if its first bytes are unknown, or it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if is_animated(file, head):
                return "animation"
    except (OSError, ValueError):
        return None
    if _is_clip(head):
        return "clip"
    return "photo" if kind_of(head) in BY_KIND or kind_of(head) in REFUSED else None


def is_animated(file: BinaryIO, head: bytes) -> bool:
    """Return whether a file is a GIF, or an animated WebP, PNG or AVIF."""
    if head[:4] == b"GIF8":
        return True
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return bool(head[20] & 2) if len(head) > 20 else False
    if head[4:12] == b"ftypavis":
        return True
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    file.seek(8)
    for _ in range(_PNG_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[4:] in (b"IDAT", b"IEND"):
            return False
        length = int.from_bytes(chunk[:4], "big")
        if chunk[4:] == b"acTL":
            return int.from_bytes(file.read(4), "big") > 1
        file.seek(length + 4, 1)
    return False


def _is_clip(head: bytes) -> bool:
    if head.startswith(_CLIP_BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    if head[4:8] in _MOV_BOXES:
        return kind_of(head) is None
    # Transport stream packets have 188 bytes; camera discs add a 4-byte timestamp before each.
    return any(
        len(head) > begin + 2 * step and all(head[begin + k * step] == 0x47 for k in range(3))
        for begin, step in ((0, 188), (4, 192))
    )
