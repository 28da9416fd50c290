"""Read the PNG chunks that libvips ignores: colour information and animation."""

import struct
from collections.abc import Iterator
from typing import Any

from stylematte.media import colour


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and data of the chunks before the pixels."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        if name == b"IDAT":
            return
        yield name, data[at + 8 : at + 8 + length]
        at += 12 + length


def is_animated(data: bytes) -> bool:
    """Return whether the file is an APNG with more than one frame."""
    return any(name == b"acTL" and value[:4] not in (b"", b"\0\0\0\1") for name, value in _chunks(data))


def codes_of(data: bytes) -> tuple[int, int]:
    """Read the H.273 code points of primaries and transfer function from cICP, else `UNSPECIFIED`."""
    value = dict(_chunks(data)).get(b"cICP", b"")
    return (value[0], value[1]) if len(value) == 4 else (colour.UNSPECIFIED, colour.UNSPECIFIED)


def profile_of(data: bytes, embedded: bytes | None) -> bytes | None:
    """Return the colour profile, or make one from the other colour chunks.

    Args:
        data: The file.
        embedded: Profile of its iCCP chunk.

    Reference:
        PNG third edition, 4.3: the precedence is cICP, iCCP, sRGB, then gAMA and cHRM.
    """
    found: dict[bytes, Any] = dict(_chunks(data))
    if len(found.get(b"cICP", b"")) == 4:
        return colour.profile_of_codes(found[b"cICP"][0], found[b"cICP"][1])
    if embedded is not None or b"sRGB" in found:
        return embedded
    gamma = struct.unpack(">I", found[b"gAMA"])[0] / 1e5 if len(found.get(b"gAMA", b"")) == 4 else None
    chromaticities = None
    if len(found.get(b"cHRM", b"")) == 32:
        white_x, white_y, *rest = (value / 1e5 for value in struct.unpack(">8I", found[b"cHRM"]))
        chromaticities = (*rest, white_x, white_y)
    if not gamma and chromaticities is None:
        return None
    return colour.profile_of_gamma(gamma or None, chromaticities)
