"""Use a clip as the background of another one: matched by time, looped, with the other's pixel shape."""

from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from stylematte.imaging.compose import BASIC_COLORS, composite
from stylematte.imaging.geometry import resize
from stylematte.media.clip_frame import ClipInfo, Frame
from stylematte.media.photo import Photo
from stylematte.media.video import Clip


class Frames(Protocol):
    """A source of frames, such as `Clip`."""

    info: ClipInfo

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in presentation order."""


def with_backdrop(source: Frames, path: Path | None) -> Iterator[tuple[Frame, Any]]:
    """Yield each frame with the background image at its time.

    Args:
        source: Source of the frames.
        path: Background clip; None yields None as background.
    """
    if path is None:
        for frame in source.frames():
            yield frame, None
        return
    base = source.info.time_base
    first = None
    with closing(_looped(path, source.info.pixel_shape)) as behind:
        until, image = next(behind)
        for frame in source.frames():
            first = frame.pts if first is None else first
            while (frame.pts - first) * base >= until:
                until, image = next(behind)
            yield frame, image


def stretched(pixels: NDArray[Any], shape: Fraction | None, wanted: Fraction | None) -> NDArray[Any]:
    """Change the width of an image so that it looks the same with another pixel shape.

    Args:
        pixels: (H, W, 3).
        shape: Width of its pixels over their height; None for square ones.
        wanted: Pixel shape of the result, likewise.
    """
    factor = (shape or Fraction(1)) / (wanted or Fraction(1))
    if factor == 1:
        return pixels
    return resize(pixels, (pixels.shape[0], max(1, round(pixels.shape[1] * factor))))


def _looped(path: Path, wanted: Fraction | None) -> Generator[tuple[Fraction, Any], None, None]:
    """Yield the images of a clip in an endless loop, each with the time in seconds at which it ends."""
    begun = Fraction(0)
    while True:
        with Clip(path, is_behind=True) as clip:
            first, last = None, None
            for frame in clip.frames():
                if last is not None and first is not None:
                    until = begun + (frame.pts - first) * clip.info.time_base
                    yield until, _image(last.photo, clip.info.pixel_shape, wanted)
                first = frame.pts if first is None else first
                last = frame
            assert first is not None
            assert last is not None  # a clip without frames is an error
            ticks = last.duration or round(1 / (clip.info.rate * clip.info.time_base))
            begun += max(1, last.pts - first + ticks) * clip.info.time_base
            yield begun, _image(last.photo, clip.info.pixel_shape, wanted)


def _image(photo: Photo, shape: Fraction | None, wanted: Fraction | None) -> NDArray[Any]:
    pixels = photo.pixels
    if photo.alpha is not None:
        pixels = composite(pixels, photo.alpha, BASIC_COLORS["white"])
    return stretched(pixels, shape, wanted)
