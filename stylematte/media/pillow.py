"""Read BMP, and Lab in TIFF, with Pillow."""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media import colour
from stylematte.media.stored import ANEW, KEEP, Stored, check_size

Array = NDArray[Any]

# Pillow warns about damaged tags and large images; this package's own messages name the file.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_lab(data: bytes, name: str, page: int) -> Stored:
    """Read a Lab page of a TIFF."""
    from PIL import ImageCms

    image = open_image(data, name)
    try:
        image.seek(page)
        lab, target = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        colours = ImageCms.profileToProfile(image.convert("LAB"), lab, target, outputMode="RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        raise InputError(f"{name}: damaged or truncated", ANEW) from None
    assert colours is not None  # it was asked for a new image
    return Stored(np.array(colours), icc=colour.srgb_profile())


def read_bmp(data: bytes, name: str, page: int | None, keep_damaged: bool) -> Stored:
    """Read a BMP; arguments as for `decode_image`."""
    from PIL import ImageFile

    image = open_image(data, name)
    check_size(image, name)
    try:
        colours = np.array(image.convert("RGBA" if image.mode in ("RGBA", "PA") else "RGB"))
    except (OSError, ValueError) as error:
        if not keep_damaged:
            raise InputError(f"{name}: damaged or truncated", f"{ANEW}; {KEEP}") from None
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            colours = np.array(open_image(data, name).convert("RGB"))
        except (OSError, ValueError):
            raise InputError(f"{name}: damaged or truncated: {error}", ANEW) from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        return Stored(colours, notes=["damaged or truncated: the readable part was used"])
    fourth = _fourth_bytes(data, colours.shape[:2]) if colours.shape[2] == 3 else None
    return Stored(colours if fourth is None else np.dstack([colours, fourth]))


def _fourth_bytes(data: bytes, size: tuple[int, ...]) -> Array | None:
    """Return the undeclared alpha of a 32-bit BMP; None if there is none or all of it is zero."""
    header, bits = int.from_bytes(data[14:18], "little"), int.from_bytes(data[28:30], "little")
    if header < 40 or bits != 32 or int.from_bytes(data[30:34], "little"):
        return None
    height, width = size
    first = int.from_bytes(data[10:14], "little")
    rows = np.frombuffer(data, np.uint8, height * width * 4, first).reshape(height, width, 4)[:, :, 3]
    is_top_down = int.from_bytes(data[22:26], "little", signed=True) < 0
    return None if not rows.any() else rows if is_top_down else rows[::-1]


def open_image(data: bytes, name: str = "") -> Any:
    """Open an image with Pillow, which identifies the format by the first bytes.

    Raises:
        InputError: The image is damaged or too large for Pillow.
    """
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: above Pillow's size limit: {error}", "Scale it down first") from None
    except Exception:  # Pillow raises many kinds of exceptions for damaged headers
        raise InputError(f"{name}: damaged or truncated", ANEW) from None
