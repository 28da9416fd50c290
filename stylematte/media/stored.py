"""An image as stored in its file, the limits of its size, and hints for unreadable files."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media import colour
from stylematte.memory import usable_bytes

Array = NDArray[Any]

MOST_PX = 1 << 30
LONGEST_SIDE_PX = 1 << 20
LEAST_BYTES_A_PIXEL = 6  # memory while an image is processed: its colours and the results
ANEW = "Get the file again from its source"
KEEP = "--keep-damaged takes what is there"


@dataclass
class Stored:
    """An image as stored in its file, before conversion to upright RGB.

    Attributes:
        pixels: (H, W, C) uint8, uint16, or float32 light.
        meaning: libvips's interpretation of the channels.
        icc: Profile of `pixels`.
        codes: H.273 code points of primaries and transfer function, if the file has them and they matter.
        exif: EXIF bytes of the file.
        orientation: EXIF orientation.
        bits: Bits per channel in the file.
        is_premultiplied: Whether colours are multiplied by alpha; libvips itself unpremultiplies TIFF.
        notes: Messages for the user about the image.
    """

    pixels: Array
    meaning: str = "srgb"
    icc: bytes | None = None
    codes: tuple[int, int] = (colour.UNSPECIFIED, colour.UNSPECIFIED)
    exif: bytes | None = None
    orientation: int = 1
    bits: int = 8
    is_premultiplied: bool = False
    notes: list[str] = field(default_factory=list)


def check_size(image: Any, name: str) -> None:
    """Check the size in an image's header.

    Raises:
        InputError: The image exceeds the limits, or this machine's memory.
    """
    height, width = image.height, image.width
    if height * width > MOST_PX or max(height, width) > LONGEST_SIDE_PX:
        raise InputError(
            f"{name}: {height}x{width} (height x width) is beyond the limit of 2^30 pixels and 2^20 a side",
            "Scale it down first",
        )
    # A tiny file may declare an image larger than memory: the system would kill the run.
    needed, there_is = height * width * LEAST_BYTES_A_PIXEL, usable_bytes()
    if there_is is not None and needed > there_is:
        raise InputError(
            f"{name}: {height}x{width} (height x width) takes {needed / 1e9:.1f} GB or more, but only "
            f"{there_is / 1e9:.1f} are available",
            "Scale it down first",
        )
