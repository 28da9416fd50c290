"""Images whose matte is known: `red_model` takes pure red for foreground and grey for background."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

ASSETS = Path(__file__).parent / "assets"

# How the pixels of an upright image are stored under each EXIF orientation (TIFF 6.0, tag 274: where row 0
# and column 0 of the file lie in the image).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def red_image(height: int = 96, width: int = 128, dtype: type = np.uint8) -> NDArray:
    """Grey with a red rectangle that lies to the top, wider than high: no turn or flip leaves it in place.

    Returns:
        (H, W, 3) RGB.
    """
    white = np.iinfo(dtype).max
    image = np.full((height, width, 3), white // 2, dtype)
    image[red_region(height, width)] = (white, 0, 0)
    return image


def red_region(height: int, width: int) -> tuple[slice, slice]:
    return slice(height // 8, height // 2), slice(width // 8, 3 * width // 4)


def assert_is_red_matte(alpha: NDArray, slack_px: int = 4) -> None:
    """The matte of `red_image`: 1 inside, 0 outside, not compared within `slack_px` of the outline."""
    height, width = alpha.shape
    truth = np.zeros((height, width), np.uint8)
    truth[red_region(height, width)] = 1
    kernel = np.ones((2 * slack_px + 1,) * 2, np.uint8)
    inside, outside = cv2.erode(truth, kernel) == 1, cv2.dilate(truth, kernel) == 0
    assert inside.any()
    assert outside.any()
    white = np.iinfo(alpha.dtype).max
    assert alpha[inside].min() > 0.98 * white
    assert alpha[outside].max() < 0.02 * white


def save(path: Path, rgb: NDArray, **metadata: bytes) -> Path:
    """Write RGB, RGBA or grey with OpenCV; `exif=` and `icc=` go in as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"exif": cv2.IMAGE_METADATA_EXIF, "icc": cv2.IMAGE_METADATA_ICCP}
    if rgb.ndim == 3:
        rgb = cv2.cvtColor(
            np.ascontiguousarray(rgb), [cv2.COLOR_RGB2BGR, cv2.COLOR_RGBA2BGRA][rgb.shape[2] - 3]
        )
    done, encoded = cv2.imencodeWithMetadata(
        path.suffix,
        np.ascontiguousarray(rgb),
        [kinds[key] for key in metadata],
        [np.frombuffer(value, np.uint8) for value in metadata.values()],
        [cv2.IMWRITE_JPEG_QUALITY, 98] if path.suffix == ".jpg" else [],
    )
    assert done
    path.write_bytes(encoded.tobytes())
    return path


def load(path: Path) -> NDArray:
    """Read with OpenCV alone, as stored: grey, RGB or RGBA."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


def exif_bytes(orientation: int, order: str = ">") -> bytes:
    """The smallest EXIF that holds a camera's name and an orientation."""
    entries = struct.pack(order + "HHI4s", 271, 2, 4, b"Cam\0")
    entries += struct.pack(order + "HHIH2x", 274, 3, 1, orientation)
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 2) + entries + bytes(4)


def exif_of(data: bytes | None) -> dict[int, object]:
    """The tags of EXIF bytes as Pillow reads them, those of its inner directory among them."""
    found = Image.Exif()
    found.load(data or b"")
    return {tag: value for tag, value in found.items() if tag != 0x8769} | found.get_ifd(0x8769)


def icc_bytes(space: bytes = b"RGB ") -> bytes:
    """A colour profile that libpng lets pass: with one tag of text that does not compress."""
    text = b"text\0\0\0\0" + np.random.default_rng(0).integers(32, 127, 391, np.uint8).tobytes() + b"\0"
    tags = struct.pack(">I4sII", 1, b"cprt", 144, len(text)) + text
    header = bytearray(128)
    header[:4] = struct.pack(">I", len(header) + len(tags))
    header[8:12], header[12:16], header[16:20], header[20:24] = b"\4\0\0\0", b"mntr", space, b"XYZ "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)  # the D50 white that every profile names
    return bytes(header) + tags


def png_that_says(height: int, width: int) -> bytes:
    """A PNG of a few bytes with a header of its own."""
    png = bytearray(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    png[16:24] = struct.pack(">II", width, height)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)
