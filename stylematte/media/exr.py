"""OpenEXR files of half floats: scene-linear colours with alpha, as compositing programs want them.

Reference:
    "OpenEXR File Layout", openexr.com: one part, scan lines, ZIP blocks of 16 lines.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError

BT709 = 1  # primaries of H.273
LINEAR, SRGB, PQ, HLG = 8, 13, 16, 18  # transfer characteristics of H.273
UNSPECIFIED_TRANSFER = 2
_LIKE_BT709 = (1, 6, 14, 15, UNSPECIFIED_TRANSFER)  # 601, 709 and 2020 share one curve
_GAMMAS = {4: 2.2, 5: 2.8}
_LINES = 16  # of a ZIP block
_ZIP = 3
_FAST = 4  # zlib's level: 9 takes four times as long for 3 % less

# x and y of red, green, blue and white; H.273 table 2.
_CHROMATICITIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290),
}


def encode_exr(
    pixels: NDArray[Any], transfer: int, primaries: int, premultiplied: bool, facts: Mapping[str, str]
) -> bytes:
    """Encode a picture.

    Args:
        pixels: (H, W) alpha, (H, W, 3) RGB or (H, W, 4) straight RGBA; uint8 or uint16. Alone, an alpha is
            written as channel Y, which programs show as grey. Alpha is linear and stays as it is.
        transfer: From the numbers of the colours to light, as in H.273; 1.0 is their white.
        primaries: As in H.273.
        premultiplied: Multiply the colours, once they are linear, by alpha.
        facts: Text attributes.

    Raises:
        InputError: A transfer whose light is not on this scale, as PQ and HLG.
    """
    white = np.iinfo(pixels.dtype).max
    if pixels.ndim == 2:
        channels = {"Y": (pixels / np.float32(white)).astype(np.float16)}
    else:
        table = to_linear(np.linspace(0, 1, white + 1), transfer).astype(np.float32)
        colours = table[pixels[:, :, :3]]
        channels = {}
        if pixels.shape[2] == 4:
            alpha = pixels[:, :, 3:] / np.float32(white)
            channels["A"] = alpha[:, :, 0].astype(np.float16)
            if premultiplied:
                colours *= alpha
        for index, name in ((2, "B"), (1, "G"), (0, "R")):  # the format wants them by name
            channels[name] = colours[:, :, index].astype(np.float16)
    return _header(pixels.shape, list(channels), primaries, facts, *_blocks(channels))


def to_linear(values: NDArray[Any], transfer: int) -> NDArray[Any]:
    """Turn encoded colours into light.

    Args:
        values: In [0, 1].
        transfer: As in H.273. Where nothing is said, the curve of BT.709 is undone.

    Returns:
        In [0, 1], 1 for the white of the source.

    Raises:
        InputError: Light on another scale, or a transfer that the tool does not know.

    Reference:
        H.273 table 3: the functions of numbers 1, 4, 5, 8 and 13, inverted.
    """
    if transfer == LINEAR:
        return values
    if transfer == SRGB:
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if transfer in _LIKE_BT709:
        return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))
    if transfer in _GAMMAS:
        return values ** _GAMMAS[transfer]
    name = {PQ: "PQ", HLG: "HLG"}.get(transfer, f"{transfer} of H.273")
    raise InputError(f"transfer {name} has no linear light to be written as exr", "Use --format tiff")


def from_linear(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Encode light as sRGB with 16 bits; what is brighter than 1 is cut off.

    Args:
        values: Floating point, any shape.
    """
    light = np.clip(values, 0, 1)
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    rounded: NDArray[np.uint16] = (encoded * 65535 + 0.5).astype(np.uint16)
    return rounded


def _blocks(channels: Mapping[str, NDArray[np.float16]]) -> tuple[list[int], bytes]:
    """Compress; returns where each block begins, counted from the first, and the blocks."""
    rows = np.stack(list(channels.values()), axis=1)  # (H, channels, W): the order within a line
    starts, parts, at = [], [], 0
    for top in range(0, len(rows), _LINES):
        raw = np.ascontiguousarray(rows[top : top + _LINES], "<f2").view(np.uint8).ravel()
        # Low bytes first, then high ones, each as the difference from the one before.
        split = np.concatenate([raw[0::2], raw[1::2]]).astype(np.int16)
        split[1:] = split[1:] - split[:-1] + 384
        packed = zlib.compress(split.astype(np.uint8).tobytes(), _FAST)
        data = packed if len(packed) < raw.size else raw.tobytes()
        starts.append(at)
        parts.append(struct.pack("<ii", top, len(data)) + data)
        at += len(parts[-1])
    return starts, b"".join(parts)


def _header(
    shape: tuple[int, ...],
    names: list[str],
    primaries: int,
    facts: Mapping[str, str],
    starts: list[int],
    blocks: bytes,
) -> bytes:
    height, width = shape[:2]
    half = 1
    window = struct.pack("<iiii", 0, 0, width - 1, height - 1)
    described = b"".join(name.encode() + struct.pack("<xiB3xii", half, 0, 1, 1) for name in names) + b"\0"
    attributes: dict[str, tuple[str, bytes]] = {
        "channels": ("chlist", described),
        "compression": ("compression", bytes([_ZIP])),
        "dataWindow": ("box2i", window),
        "displayWindow": ("box2i", window),
        "lineOrder": ("lineOrder", b"\0"),
        "pixelAspectRatio": ("float", struct.pack("<f", 1)),
        "screenWindowCenter": ("v2f", struct.pack("<ff", 0, 0)),
        "screenWindowWidth": ("float", struct.pack("<f", 1)),
        "chromaticities": (
            "chromaticities",
            struct.pack("<8f", *_CHROMATICITIES.get(primaries, _CHROMATICITIES[1])),
        ),
        **{name: ("string", text.encode()) for name, text in facts.items()},
    }
    head = struct.pack("<ii", 20000630, 2)
    for name, (kind, value) in attributes.items():
        head += name.encode() + b"\0" + kind.encode() + struct.pack("<xi", len(value)) + value
    head += b"\0"
    first = len(head) + 8 * len(starts)
    return head + struct.pack(f"<{len(starts)}Q", *(first + start for start in starts)) + blocks
