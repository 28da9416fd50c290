"""Which part of a clip to do, and the time code of where it begins."""

import re
from dataclasses import dataclass
from fractions import Fraction

from stylematte.errors import UsageError

Moment = Fraction | int  # seconds since the first frame; or the number of a frame


@dataclass(frozen=True)
class Span:
    """Part of a clip.

    Attributes:
        start: First frame: by its number, or the first at or after so many seconds. None from the beginning.
        end: Last frame, by its number, which is still done; or the seconds at which to stop, which are not.
        every: Take each n-th frame, beginning with the first.

    Raises:
        UsageError: It ends before it begins.
    """

    start: Moment | None = None
    end: Moment | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.end == 0 and (isinstance(self.end, Fraction) or not self.start):
            raise UsageError(
                "--end 0: there is nothing before it", "Times start at the first frame, frame numbers at 1"
            )
        start = self.start or 0
        if self.end is None or type(start) is not type(self.end):
            return
        if self.end < start or (self.end == start and isinstance(start, Fraction)):
            texts = (f"{float(m):g}" if isinstance(m, Fraction) else f"{m}f" for m in (self.end, start))
            raise UsageError("--end {} lies before --start {}".format(*texts), "Exchange them")

    def count(self, total: int | None, first: int, rate: Fraction) -> int | None:
        """Guess how many frames are to be done.

        Args:
            total: How many the whole has; None or 0 where that is not known.
            first: How many lie before the span.
            rate: Frames a second.
        """
        last = self.end
        if isinstance(last, Fraction):
            last = round(last * rate)
        if not total:
            if last is None:
                return None
            total = last
        last = total if last is None else min(last, total)
        return max(1, -(-(last - first) // self.every))

    @property
    def seconds(self) -> Fraction | None:
        """How long it is, where times alone say that."""
        if isinstance(self.end, Fraction) and isinstance(self.start or Fraction(0), Fraction):
            return self.end - (self.start or 0)
        return None


def parse_moment(text: str, option: str) -> Moment:
    """Read a place in a clip: `12.5` or `1:02:03.5` for a time, `120f` for the frame of that number.

    Raises:
        UsageError: Neither.
    """
    word = text.strip().lower()
    if re.fullmatch(r"\d+f", word):
        return int(word[:-1])
    if re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", word):
        seconds = Fraction(0)
        for part in word.split(":"):
            seconds = 60 * seconds + Fraction(part)
        return seconds
    raise UsageError(f"{option} {text}: not a time or a frame", "For example 12.5, 1:02:03.5 or 120f")


def parse_rate(text: str) -> Fraction:
    """Read frames a second: `24`, `23.976` or `30000/1001`.

    Raises:
        UsageError: Not a number above 0.
    """
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise UsageError(f"--rate {text}: not a frame rate", "For example 25 or 30000/1001")
    return rate


def timecode_for(timecode: str, frames: int, rate: Fraction, every: int) -> str:
    """Say the time code of a result's first frame.

    Args:
        timecode: Of the clip's first frame.
        frames: How many come before.
        rate: Frames a second of the clip.
        every: The result has each n-th frame. At such a rate no numbers are dropped: the new one counts all.
    """
    shifted = shift_timecode(timecode, frames, rate)
    match = re.fullmatch(r"(\d\d:\d\d:\d\d)[:;.](\d\d+)", shifted)
    return shifted if match is None or every == 1 else f"{match[1]}:{int(match[2]) // every:02}"


def shift_timecode(timecode: str, frames: int, rate: Fraction) -> str:
    """Move a time code on by a number of frames.

    Args:
        timecode: `hh:mm:ss:ff`, or with `;` before the frames, which drops numbers to keep up with the clock
            at 29.97 and 59.94 frames a second.
        frames: How far.
        rate: Frames a second.

    Returns:
        The new one; it starts again after 24 hours. A text that is no time code comes back as it is.

    Reference:
        SMPTE ST 12-1, drop-frame counting: 2 numbers at 30 (4 at 60) are left out at the start of each minute
        but every tenth.
    """
    match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d+)", timecode.strip())
    if match is None:
        return timecode
    hours, minutes, seconds, number = (int(match[group]) for group in (1, 2, 3, 5))
    base = round(rate)
    dropped = base // 15 if match[4] == ";" else 0
    total_minutes = 60 * hours + minutes
    count = (60 * total_minutes + seconds) * base + number - dropped * (total_minutes - total_minutes // 10)

    count = (count + frames) % (24 * (6 * (600 * base - 9 * dropped)))
    if dropped:
        tens, rest = divmod(count, 600 * base - 9 * dropped)
        count += 9 * dropped * tens
        if rest >= 60 * base:  # past the first minute of ten, which drops nothing
            count += dropped * (1 + (rest - 60 * base) // (60 * base - dropped))
    seconds, number = divmod(count, base)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{match[4]}{number:02}"
