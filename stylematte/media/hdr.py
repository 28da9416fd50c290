"""Make scene-linear photos from PQ, HLG and floating-point images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.imaging.geometry import to_float
from stylematte.media.colour import BT709, HLG, PQ, PRIMARIES
from stylematte.media.photo import Light, Photo

TRANSFERS = {PQ: "PQ", HLG: "HLG"}
_WHITE_NITS = 203.0  # PQ luminance that becomes light 1
_WHITE_HLG = 0.75  # HLG code value that becomes light 1
_NAN_FREE = {"nan": 0.0, "posinf": 65504.0, "neginf": -65504.0}  # the limits of half floats
Array = NDArray[Any]


def light_of(values: Array, transfer: int) -> NDArray[np.float32]:
    """Convert PQ or HLG code values to linear light, 1 for reference white.

    Args:
        values: Code values in [0, 1].
        transfer: `PQ` or `HLG`.

    Reference:
        H.273 table 3, inverses of numbers 16 and 18; ITU-R BT.2408, table 1: white is 203 cd/m2 in PQ and
        75 % in HLG. For HLG the result is scene light, without the system gamma.
    """
    if transfer == PQ:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        root = np.asarray(values, np.float64) ** (1 / m2)
        nits = 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
        return np.asarray(nits / _WHITE_NITS, np.float32)

    def scene(codes: Array) -> Array:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        found: Array = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
        return found

    return np.asarray(scene(np.asarray(values, np.float64)) / scene(np.array(_WHITE_HLG)), np.float32)


def photo_of_codes(
    colours: Array, alpha: Array | None, codes: tuple[int, int], exif: bytes | None, notes: tuple[str, ...]
) -> Photo:
    """Make a scene-linear photo from PQ or HLG colours.

    Args:
        colours: (H, W, 3) uint8 or uint16.
        alpha: (H, W), same dtype, or None.
        codes: H.273 code points of primaries and transfer function.
        exif: EXIF bytes of the file.
        notes: Messages for the user about the image.
    """
    white = int(np.iinfo(colours.dtype).max)
    table = light_of(np.linspace(0, 1, white + 1), codes[1])
    note = f"{TRANSFERS[codes[1]]}: an exr keeps its light, other formats show it in sRGB"
    light = Light(PRIMARIES.get(codes[0], PRIMARIES[BT709]), is_single=False)
    opacity = None if alpha is None else to_float(alpha)
    return Photo(table[colours], opacity, exif=exif, notes=(*notes, note), light=light)


def photo_of_light(colours: Array, alpha: Array | None, notes: tuple[str, ...]) -> Photo:
    """Make a photo from floating-point colours, taken as light with BT.709 primaries, as libvips does.

    Args:
        colours: (H, W, 1 or 3) float32, straight.
        alpha: (H, W) float32 or None.
        notes: Messages for the user about the image.
    """
    colours = np.nan_to_num(np.repeat(colours, 3 // colours.shape[2], axis=2), copy=False, **_NAN_FREE)
    opacity = None if alpha is None else np.clip(np.nan_to_num(alpha), 0, 1)
    note = "floating point: taken as linear light"
    return Photo(colours, opacity, notes=(*notes, note), light=Light(PRIMARIES[BT709], is_single=True))
