"""The part of a clip to process, and the timecode of its start."""

import re
from dataclasses import dataclass
from fractions import Fraction

from stylematte.errors import UsageError

Moment = Fraction | int  # seconds since the first frame, or a frame number


@dataclass(frozen=True)
class Span:
    """Part of a clip.

    Attributes:
        start: Number of the first frame, or the time of the first in seconds; None for the clip's start.
        end: Number of the last frame (inclusive), or the time to stop in seconds (exclusive).
        every: Take every n-th frame, starting with the first.

    Raises:
        UsageError: The span ends before it begins.
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
        """Estimate the number of frames to process; None if unknown.

        Args:
            total: Number of frames in the clip; None or 0 if unknown.
            first: Number of frames before the span.
            rate: Frames per second.
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
        """Length of the span, if it is given by times alone; else None."""
        if isinstance(self.end, Fraction) and isinstance(self.start or Fraction(0), Fraction):
            return self.end - (self.start or 0)
        return None


def parse_moment(text: str, option: str) -> Moment:
    """Parse a position in a clip: `12.5` or `1:02:03.5` for a time, `120f` for a frame number.

    Raises:
        UsageError: The text is neither.
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
    """Parse a frame rate: `24`, `23.976` or `30000/1001`.

    Raises:
        UsageError: The text is not a number above 0.
    """
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise UsageError(f"--rate {text}: not a frame rate", "For example 25 or 30000/1001")
    return rate


def timecode_for(timecode: str, frames: int, rate: Fraction, every: int) -> str:
    """Return the timecode of a result's first frame.

    Args:
        timecode: Timecode of the clip's first frame.
        frames: Number of frames before the result's first.
        rate: Frames per second of the clip.
        every: The result has every n-th frame; above 1, its timecode is non-drop-frame.
    """
    shifted = shift_timecode(timecode, frames, rate)
    match = re.fullmatch(r"(\d\d:\d\d:\d\d)[:;.](\d\d+)", shifted)
    return shifted if match is None or every == 1 else f"{match[1]}:{int(match[2]) // every:02}"


def shift_timecode(timecode: str, frames: int, rate: Fraction) -> str:
    """Advance a timecode by a number of frames.

    Args:
        timecode: `hh:mm:ss:ff`; `;` before the frames marks a drop-frame timecode, which skips numbers to
            stay in step with the clock at 29.97 and 59.94 frames per second.
        frames: Number of frames to advance.
        rate: Frames per second.

    Returns:
        The new timecode, modulo 24 hours. A text that is not a timecode is returned unchanged.

    Reference:
        SMPTE ST 12-1, drop-frame counting: 2 numbers at 30 (4 at 60) are skipped at the start of each minute
        except every tenth.
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
        if rest >= 60 * base:  # after the first minute of ten, which skips no numbers
            count += dropped * (1 + (rest - 60 * base) // (60 * base - dropped))
    seconds, number = divmod(count, base)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{match[4]}{number:02}"
