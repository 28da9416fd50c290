"""An image as its file has it, and what is said of files that cannot be read."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.media import colour
from stylematte.memory import usable_bytes

Array = NDArray[Any]

MOST_PX = 1 << 30
LONGEST_SIDE_PX = 1 << 20
LEAST_BYTES_A_PIXEL = 6  # of a picture in work: its colours, and what is made of it
ANEW = "Get the file again from its source"
KEEP = "--keep-damaged takes what is there"


@dataclass
class Stored:
    """An image as its file has it, before it becomes RGB and upright.

    Attributes:
        pixels: (H, W, C) uint8, uint16, or float32 light.
        meaning: Of the channels: libvips's interpretation.
        icc: Profile of `pixels`.
        codes: Primaries and transfer function by H.273, where the file tells them and they matter.
        exif: As in the file.
        orientation: As EXIF counts.
        bits: Of the file's numbers.
        is_premultiplied: Colours have been multiplied by alpha; libvips divides those of a TIFF itself.
        notes: What is to be told about the image.
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
    """Refuse by its header what is too large for the tool or for this machine's memory."""
    height, width = image.height, image.width
    if height * width > MOST_PX or max(height, width) > LONGEST_SIDE_PX:
        raise InputError(
            f"{name}: {height}x{width} (height x width) is beyond the limit of 2^30 pixels and 2^20 a side",
            "Scale it down first",
        )
    # A few bytes may ask for more than the memory there is: the system would end the run.
    needed, there_is = height * width * LEAST_BYTES_A_PIXEL, usable_bytes()
    if there_is is not None and needed > there_is:
        raise InputError(
            f"{name}: {height}x{width} (height x width) takes {needed / 1e9:.1f} GB or more, but only "
            f"{there_is / 1e9:.1f} are available",
            "Scale it down first",
        )
