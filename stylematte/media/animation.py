"""Read animated images as clips: GIF, WebP, PNG and AVIF, with frames composed by Pillow."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from stylematte.errors import InputError
from stylematte.imaging.geometry import resize
from stylematte.media import colour
from stylematte.media.clip_frame import ClipInfo, Frame
from stylematte.media.photo import Photo
from stylematte.media.sniff import sniff
from stylematte.media.span import Span
from stylematte.media.yuv import BT709, FULL, RGB, Colour

_MILLISECOND = Fraction(1, 1000)
_SHORTEST_MS, _SHORT_MS = 11, 100  # frames shorter than the first are shown for the second, as in browsers


def is_animation(path: Path) -> bool:
    """Return whether a file is an animated image, by its content."""
    return sniff(path) == "animation"


@dataclass(frozen=True)
class _Shown:
    """Timing of a frame: its index in the file from 0, its number from 1, its start and its duration."""

    place: int
    number: int
    begin_ms: int
    duration_ms: int


class Animation:
    """An animated image with the interface of `video.Clip`. Frames are complete, with alpha.

    Args:
        path: The file.
        span: Part of the animation to read.
        reduction: Divisor of height and width.

    Raises:
        InputError: The file cannot be read, or there are no frames in the span.
    """

    def __init__(self, path: Path, span: Span = Span(), reduction: int = 1) -> None:  # noqa: B008 - frozen
        from PIL import Image

        self._path = path
        self.sound_streams: list[Any] = []  # like a clip without audio
        self.sound_after: list[Any] = []
        self.notes: list[str] = []
        try:
            self._image = Image.open(path)
            shown = self._read_times()
        except Exception as error:  # Pillow's parsers raise many kinds of exceptions
            raise InputError(f"{path}: damaged, or not an animation that Pillow can read: {error}") from None
        seconds = Fraction(sum(frame.duration_ms for frame in shown), 1000)
        rate = len(shown) / seconds
        chosen = [frame for frame in shown if _is_within(frame, span)]
        if not chosen:
            raise InputError(f"{path}: no frames between --start and --end: it has {len(shown)}")
        self._every = span.every
        self._frames = chosen[:: span.every]
        width, height = self._image.size
        self._size = max(1, round(height / reduction)), max(1, round(width / reduction))
        self.info = ClipInfo(
            size=self._size,
            rate=rate.limit_denominator(1001) / span.every,
            time_base=_MILLISECOND,
            colour=Colour(BT709, colour.SRGB, RGB, FULL),
            first_number=chosen[0].number,
            frames=len(self._frames),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._image.close()

    def frames(self) -> Iterator[Frame]:
        """Read the frames of the span in order.

        Raises:
            InputError: The file is damaged.
        """
        begin = self._frames[0].begin_ms
        for frame in self._frames:
            try:
                self._image.seek(frame.place)
                pixels = np.asarray(self._image.convert("RGBA"))
            except Exception as error:  # as above
                raise InputError(f"{self._path}: damaged at frame {frame.number}: {error}") from None
            pixels = resize(pixels, self._size)
            alpha = None if pixels[:, :, 3].min() == 255 else np.ascontiguousarray(pixels[:, :, 3])
            photo = Photo(np.ascontiguousarray(pixels[:, :, :3]), alpha)
            yield Frame(frame.number, frame.begin_ms - begin, frame.duration_ms * self._every, photo)

    def _read_times(self) -> list[_Shown]:
        """Read the timing of all frames; an APNG's fallback image for static viewers is not a frame."""
        image: Any = self._image
        first = 1 if getattr(image, "default_image", False) else 0
        shown: list[_Shown] = []
        begin = 0
        for place in range(first, getattr(image, "n_frames", 1)):
            image.seek(place)
            image.load()
            duration = round(image.info.get("duration") or 0)
            duration = _SHORT_MS if duration < _SHORTEST_MS else duration
            shown.append(_Shown(place, len(shown) + 1, begin, duration))
            begin += duration
        return shown


def _is_within(frame: _Shown, span: Span) -> bool:
    start, end = span.start or 0, span.end
    seconds = Fraction(frame.begin_ms, 1000)
    if (seconds if isinstance(start, Fraction) else frame.number) < start:
        return False
    if isinstance(end, Fraction):
        return seconds < end
    return end is None or frame.number <= end
