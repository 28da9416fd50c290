"""What is known about a clip, and its frames, wherever they are read from."""

from dataclasses import dataclass, field
from fractions import Fraction

from stylematte.media.container import Chapter
from stylematte.media.photo import Photo
from stylematte.media.sound import Sound
from stylematte.media.yuv import Colour


@dataclass(frozen=True)
class ClipInfo:
    """What is known about a clip before its frames.

    Attributes:
        size: (height, width) of the upright frames.
        rate: Frames a second, on average; frames of uneven length have their timestamps.
        time_base: Seconds that one unit of a timestamp lasts.
        colour: How its numbers are to be read.
        is_deep: More than 8 bits a channel.
        pixel_shape: Width of a pixel over its height, upright; None for square ones.
        first_number: Of the first frame that is done. In a clip the first frame is 1; in a sequence of
            images it is as its file says.
        frames: How many are to be done; a guess where the file does not say, None where there is none.
        timecode: Of the first frame that is done; None where the clip has none.
        tags: Title, time of recording and the like.
        chapters: Of the part that is done.
        digits: Of the numbers of a sequence's files; 0 for a clip.
        notes: What is to be told about the clip and its result, a line each.
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
        number: Its place in the clip, see `ClipInfo.first_number`.
        pts: When it is shown, in `ClipInfo.time_base`. Counted from the first frame that is done where that
            is not the source's first, and where the format's times begin anywhere; else as in the source.
        duration: How long, likewise; 0 where not known.
        photo: Its pixels.
        sound: Packets that come before it, their times moved likewise.
    """

    number: int
    pts: int
    duration: int
    photo: Photo
    sound: Sound = field(default_factory=list)
