"""Colour management: the network's input is sRGB, and results keep the photo's own RGB profile.

Conversions are relative colorimetric with black point compensation, by Little CMS in libvips.
"""

import struct
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.media import vips

Array = NDArray[Any]
Primaries = tuple[float, float, float, float, float, float, float, float]  # x, y of red, green, blue, white

_INTENT: dict[str, Any] = {"intent": "relative", "black_point_compensation": True}
_CLOSE = 1  # levels of 255 within which a profile counts as sRGB
_STRIP_PX = 1 << 22

# Code points of ITU-T H.273, tables 2 and 3, also used by PNG's cICP and by nclx in AVIF and HEIC.
PRIMARIES: dict[int, Primaries] = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290),
}
BT709, UNSPECIFIED = 1, 2
LINEAR, SRGB, PQ, HLG = 8, 13, 16, 18
# Parameters g, a, b, c, d of ICC's curve type 3: y = (a x + b) ** g for x >= d, else c x.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# Transfer → exponent. Camera transfer functions are left out: all known viewers show such photos as sRGB.
_CURVES: dict[int, tuple[float, ...]] = {4: (2.2,), 5: (2.8,), LINEAR: (1.0,), 17: (2.6,)}
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@cache
def srgb_profile() -> bytes:
    """Return the sRGB profile for results whose colours have been converted."""
    return bytes(vips.library().Operation.call("profile_load", "srgb"))


def space_of(icc: bytes | None) -> str:
    """Return the colour space of a profile: RGB, GRAY, CMYK, Lab; empty without a profile."""
    return icc[16:20].decode("latin-1").strip() if icc else ""


@lru_cache(maxsize=64)
def is_srgb(icc: bytes | None) -> bool:
    """Return whether an RGB profile is equivalent to sRGB; unusable ones count as sRGB, as in viewers."""
    if icc is None or icc == srgb_profile():
        return True
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(9, -1, 3)
    return bool(np.abs(_transform(cube, icc, srgb_profile()).astype(int) - cube).max() <= _CLOSE)


def to_srgb(pixels: Array, icc: bytes | None) -> Array:
    """Convert RGB colours to sRGB.

    Args:
        pixels: (H, W, 3) uint8 or uint16.
        icc: Profile of the colours.

    Returns:
        (H, W, 3), same dtype; the input array if it is already sRGB.
    """
    return pixels if is_srgb(icc) else _transform(pixels, icc, srgb_profile())


def from_srgb(pixels: Array, icc: bytes | None) -> Array:
    """Convert sRGB colours to an RGB profile; arrays as for `to_srgb`."""
    return pixels if is_srgb(icc) else _transform(pixels, srgb_profile(), icc)


def color_from_srgb(color: tuple[float, float, float], icc: bytes | None) -> tuple[float, float, float]:
    """Convert one sRGB colour, 0..255, to a profile."""
    if is_srgb(icc):
        return color
    values = np.array(color, np.float64).reshape(1, 1, 3) * 257
    red, green, blue = (from_srgb(values.round().astype(np.uint16), icc)[0, 0] / 257).tolist()
    return red, green, blue


def other_to_srgb(pixels: Array, icc: bytes, meaning: str) -> Array:
    """Convert grey or CMYK colours with a profile to sRGB.

    Args:
        pixels: (H, W, C) uint8 or uint16.
        icc: Profile of the colours.
        meaning: libvips's interpretation of the channels.

    Returns:
        (H, W, 3), same dtype.

    Raises:
        pyvips.Error: The profile cannot be used.
    """
    return _transform(pixels, icc, srgb_profile(), meaning)


def cmyk_without_profile(pixels: Array) -> Array:
    """Convert CMYK without a profile to RGB as in Adobe's files: each ink absorbs its share of the light."""
    white = np.iinfo(pixels.dtype).max
    result = np.empty((*pixels.shape[:2], 3), pixels.dtype)
    rows = max(1, _STRIP_PX // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        light = white - pixels[top : top + rows].astype(np.float32)
        result[top : top + rows] = light[:, :, :3] * light[:, :, 3:] / white + 0.5
    return result


def _transform(pixels: Array, source: bytes | None, target: bytes | None, meaning: str = "") -> Array:
    image = vips.image_of(pixels, source, meaning)
    with vips.profile_name(target if target != srgb_profile() else None) as path:
        if pixels.dtype == np.uint8:
            image = image.icc_transform(path, embedded=True, depth=8, **_INTENT)
        else:
            # In one step, Little CMS looks up 16-bit colours in a coarse table, with errors of up to 19 of
            # 255 levels; via floating point it computes each colour.
            image = image.icc_import(embedded=True, pcs="xyz", **_INTENT)
            image = image.icc_export(output_profile=path, pcs="xyz", depth=16, **_INTENT)
        return vips.array_of(image)


def matrix_to_bt709(primaries: Primaries) -> Array:
    """Return the (3, 3) float64 matrix from light in the given primaries to BT.709's, white to white."""
    if primaries == PRIMARIES[BT709]:
        return np.eye(3)
    found: Array = np.linalg.solve(_to_xyz(PRIMARIES[BT709]), _to_xyz(primaries))
    return found


def _to_xyz(primaries: Primaries) -> Array:
    """Return the (3, 3) matrix from light to XYZ, adapted to ICC's white, D50."""
    points = np.array(primaries).reshape(4, 2)
    columns = np.stack([points[:, 0] / points[:, 1], np.ones(4), (1 - points.sum(1)) / points[:, 1]])
    white = columns[:, 3]
    light = columns[:, :3] * np.linalg.solve(columns[:, :3], white)
    scale = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    adapted: Array = np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD @ light
    return adapted


def profile_of_codes(primaries: int, transfer: int) -> bytes | None:
    """Make a profile from H.273 code points; None for sRGB and for unspecified ones."""
    if primaries in (BT709, UNSPECIFIED) and transfer not in _CURVES:
        return None
    return make_profile(PRIMARIES.get(primaries, PRIMARIES[BT709]), _CURVES.get(transfer, _SRGB_CURVE))


def profile_of_gamma(gamma: float | None, chromaticities: Primaries | None) -> bytes | None:
    """Make a profile from PNG's gAMA and cHRM; None for sRGB.

    Args:
        gamma: Value in the file: exponent from light to code values, 0.45455 for usual images.
        chromaticities: x and y of red, green, blue and white.
    """
    is_usual = gamma is None or abs(gamma - 1 / 2.2) < 0.01
    if chromaticities is None and is_usual:
        return None  # gAMA approximates sRGB by 2.2
    known = PRIMARIES[BT709]
    found = chromaticities or known
    if is_usual and max(abs(a - b) for a, b in zip(found, known, strict=True)) < 0.002:
        return None
    return make_profile(found, _SRGB_CURVE if gamma is None else (1 / gamma,))


@lru_cache(maxsize=16)
def make_profile(primaries: Primaries, curve: tuple[float, ...]) -> bytes:
    """Make an RGB profile.

    Args:
        primaries: x and y of red, green, blue and white.
        curve: Curve from code values to light: an exponent, or the parameters g, a, b, c, d of type 3.

    Reference:
        ICC.1:2022, section 7 and 10.18 (parametric curve), annex E (chromatic adaptation, Bradford).
    """
    adapted = _to_xyz(primaries)

    def xyz(values: Any) -> bytes:
        return b"XYZ \0\0\0\0" + _fixed(values)

    text = "Colours of the photo".encode("utf-16-be")
    words = b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    steps = b"para" + struct.pack(">4xH2x", 0 if len(curve) == 1 else 3) + _fixed(curve)
    tags = {b"desc": words, b"cprt": words, b"wtpt": xyz(_D50)}
    tags |= {name: xyz(adapted[:, index]) for index, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), steps)
    table, body = struct.pack(">I", len(tags)), b""
    first = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", first + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    version = 0x04300000
    head = struct.pack(">I4xI12s12x4s", first + len(body), version, b"mntrRGB XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + _fixed(_D50)
    return head.ljust(128, b"\0") + table + body


def _fixed(values: Any) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
