"""Photos drawn for the tests of decoding: colours, profiles, and files of a few kinds."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from stylematte.media import colour
from stylematte.media.photo import Photo

P3_GAMMA = colour.make_profile(colour.PRIMARIES[12], (2.2,))
ADOBE = colour.make_profile((0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290), (563 / 256,))
PROPHOTO = colour.make_profile((0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001, 0.3457, 0.3585), (1.8,))


def drawn(height: int = 48, width: int = 64) -> NDArray:
    """Soft colours with every hue in them, none at the edge of a small gamut: (H, W, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + phase) * np.cos(y / 7 - phase) for phase in (0, 2.1, 4.2)]
    return np.stack([128 + 70 * wave for wave in waves], axis=-1).round().astype(np.uint8)


def grey() -> NDArray:
    return drawn()[:, :, 0]


def deep(pixels: NDArray) -> NDArray:
    return pixels.astype(np.uint16) * 257


def through(icc: bytes, pixels: NDArray, mode: str = "RGB") -> NDArray:
    """Colours from sRGB into a profile with Little CMS through Pillow alone."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    image = Image.fromarray(pixels)
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, srgb, target, renderingIntent=1, outputMode=mode))


def pillow(pixels: NDArray, kind: str, mode: str | None = None, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels, mode).save(data, kind, **options)
    return data.getvalue()


def tiff(pixels: NDArray, **options: object) -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, pixels, **options)
    return data.getvalue()


def png_with(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks behind a PNG's header."""
    added = b"".join(
        struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
        for name, value in chunks
    )
    return data[:33] + added + data[33:]


def off(photo: Photo, expected: NDArray) -> float:
    """The greatest difference from what a viewer shows, in levels of 255."""
    found = photo.srgb
    levels = found.astype(float) / (257 if found.dtype == np.uint16 else 1)
    assert levels.shape == expected.shape
    return float(np.abs(levels - expected).max())


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "half, then zeros": lambda data: data[: len(data) // 2] + bytes(len(data) // 2),
    "half, then zeros and an end": lambda data: data[: len(data) // 2] + bytes(len(data) // 2) + data[-2:],
    "half, then another file": lambda data: (
        data[: len(data) // 2] + np.random.default_rng(1).bytes(len(data) // 2)
    ),
    "the last bytes": lambda data: data[:-200] + data[-2:],
    "a sector of zeros": lambda data: data[: len(data) // 2] + bytes(1024) + data[len(data) // 2 + 1024 :],
}


def photographic() -> NDArray:
    """Enough detail for a JPEG of some tens of kilobytes."""
    noise = np.random.default_rng(0).normal(0, 12, (200, 300, 3))
    return np.clip(cv2.resize(drawn(), (300, 200)) + noise, 0, 255).astype(np.uint8)


def gps_photo() -> bytes:
    """A JPEG with invented place, numbers, owner and a thumbnail."""
    exif = Image.Exif()
    exif[0x010F], exif[0x8298], exif[0x013B] = "Cam", "(c) Ann", "Ann"
    inner = exif.get_ifd(0x8769)
    inner[0x9003], inner[0xA431], inner[0xA430], inner[0x927C] = (
        "2024:01:02 03:04:05",
        "SN12345",
        "Ann O",
        b"maker",
    )
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 1.0)})
    data = exif.tobytes()
    tiff_part = data[6:]
    place = len(tiff_part)
    thumbnail = pillow(drawn(24, 32), "JPEG")
    ifd1 = struct.pack(
        ">HHHIHxxHHIIHHIII", 3, 259, 3, 1, 6, 513, 4, 1, place + 42, 514, 4, 1, len(thumbnail), 0
    )
    (first,) = struct.unpack(">I", tiff_part[4:8])
    (count,) = struct.unpack(">H", tiff_part[first : first + 2])
    link = first + 2 + 12 * count
    data = data[: 6 + link] + struct.pack(">I", place) + data[10 + link :] + ifd1 + thumbnail
    return pillow(drawn(), "JPEG", exif=data)
