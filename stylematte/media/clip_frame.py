"""The description of a clip and its frames, common to all sources of clips."""

from dataclasses import dataclass, field
from fractions import Fraction

from stylematte.media.container import Chapter
from stylematte.media.photo import Photo
from stylematte.media.sound import Sound
from stylematte.media.yuv import Colour


@dataclass(frozen=True)
class ClipInfo:
    """Description of a clip, known before its frames are read.

    Attributes:
        size: (height, width) of the upright frames.
        rate: Average frames per second; with a variable frame rate, timestamps give the exact times.
        time_base: Seconds per unit of a timestamp.
        colour: Colour description of the stream.
        is_deep: Whether the source has more than 8 bits per channel.
        pixel_shape: Width of a pixel over its height, upright; None for square ones.
        first_number: Number of the first processed frame. A clip's first frame is 1; in an image sequence,
            the number is that in the file name.
        frames: Number of frames to process, possibly an estimate; None if unknown.
        timecode: Timecode of the first processed frame; None if the clip has none.
        tags: Metadata such as title and recording time.
        chapters: Chapters of the processed part.
        digits: Digits of the numbers in a sequence's file names; 0 for a clip.
        notes: Messages for the user about the clip and its result.
    """

    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    colour: Colour = field(default_factory=Colour)
    is_deep: bool = False
    pixel_shape: Fraction | None = None
    first_number: int = 1
    frames: int | None = None
    timecode: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    chapters: tuple[Chapter, ...] = ()
    digits: int = 0
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Frame:
    """One frame of a clip.

    Attributes:
        number: Frame number, see `ClipInfo.first_number`.
        pts: Presentation timestamp in `ClipInfo.time_base`. It counts from the first processed frame if that
            is not the source's first, or if the format's times start anywhere; else it is the source's.
        duration: Duration in `ClipInfo.time_base`; 0 if unknown.
        photo: The image.
        sound: Audio packets before the frame, with timestamps shifted like `pts`.
    """

    number: int
    pts: int
    duration: int
    photo: Photo
    sound: Sound = field(default_factory=list)
