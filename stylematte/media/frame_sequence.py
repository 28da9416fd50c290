"""Read and write clips as numbered images, one per frame: `shot.####.png`."""

import glob
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.files import write_bytes
from stylematte.imaging.geometry import resize
from stylematte.media import colour
from stylematte.media.clip_frame import ClipInfo, Frame
from stylematte.media.exr import Compression
from stylematte.media.images import read_image
from stylematte.media.pattern import digits_of, find_frames
from stylematte.media.photo import Photo
from stylematte.media.results import SUFFIXES, encode_result
from stylematte.media.span import Span
from stylematte.media.yuv import BT709, FULL, RGB, Colour

LEAST_DIGITS = 4
_SRGB = Colour(BT709, colour.SRGB, RGB, FULL)


class PictureSequence:
    """A numbered sequence of images with the interface of `video.Clip`; a missing number is a gap in time.

    Args:
        pattern: Pattern as for `find_frames`.
        rate: Frames per second.
        span: Part of the sequence to read; frame numbers are those of the files.
        reduction: Divisor of height and width.

    Attributes:
        notes: Messages for the user; complete when the frames have been read.

    Raises:
        InputError: There are no frames, or none in the span.
    """

    def __init__(
        self,
        pattern: Path,
        rate: Fraction,
        span: Span = Span(),  # noqa: B008 - frozen
        reduction: int = 1,
    ) -> None:
        frames = find_frames(pattern)
        self.notes: list[str] = []
        first = frames[0][0]
        start = first + _ceil(span.start * rate) if isinstance(span.start, Fraction) else span.start
        end = first + _ceil(span.end * rate) - 1 if isinstance(span.end, Fraction) else span.end
        frames = [f for f in frames if (start is None or f[0] >= start) and (end is None or f[0] <= end)]
        if not frames:
            raise InputError(f"{pattern}: no frames between --start and --end")
        if len(frames) <= frames[-1][0] - frames[0][0]:
            self.notes.append("frame numbers are missing in between")
        self.sound_streams: list[Any] = []  # like a clip without audio
        self.sound_after: list[Any] = []
        self._frames = frames[:: span.every]
        self._every = span.every
        self._reduction = reduction
        photo = read_image(frames[0][1])
        self._size = photo.pixels.shape[:2]
        self.info = ClipInfo(
            size=_smaller(photo, reduction).pixels.shape[:2],
            rate=rate / span.every,
            time_base=1 / rate,
            colour=_SRGB,
            is_deep=photo.pixels.dtype != np.uint8,
            pixel_shape=_pixel_shape(photo),
            first_number=frames[0][0],
            frames=len(self._frames),
            digits=digits_of(pattern, frames[0][1]),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def frames(self) -> Iterator[Frame]:
        """Read the frames of the span in order.

        Raises:
            InputError: A frame cannot be read, or its size differs from the first one's.
        """
        said: set[str] = set()
        for number, path in self._frames:
            photo = read_image(path)
            if photo.pixels.shape[:2] != self._size:
                raise InputError(
                    f"{path}: {photo.pixels.shape[:2]} (height, width), the first frame is {self._size}"
                )
            for note in photo.notes:  # report each note once, not for thousands of frames
                if note not in said:
                    said.add(note)
                    self.notes.append(f"{path.name}: {note}")
            photo = _smaller(photo, self._reduction)
            yield Frame(number, number - self.info.first_number, self._every, photo)


class SequenceWriter:
    """Writer of one file per frame, each written atomically: `<folder>/<folder's name>.<number>.<suffix>`.

    Args:
        folder: Output folder; its name is also that of the files.
        kind: png, webp, tiff, jpg or exr.
        info: Description of the source, for digits, colours and the shape of pixels.
        premultiplied: Multiply colours by alpha; in an exr, after they have been made linear.
        is_alpha: The images are alphas.
        facts: Text attributes of exr files.
        compression: Compression method of exr files.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        info: ClipInfo,
        premultiplied: bool,
        is_alpha: bool,
        facts: Mapping[str, str],
        compression: Compression = "zip",
    ) -> None:
        self._folder = folder
        self._kind = kind
        self._info = info
        self._premultiplied = premultiplied
        self._is_alpha = is_alpha
        self._facts = dict(facts)
        self._compression = compression
        last = info.first_number + (info.frames or 0)
        self._digits = max(LEAST_DIGITS, info.digits, len(str(last)))
        self.notes: list[str] = []

    def path_of(self, number: int) -> Path:
        """Return the path of a frame's file."""
        return self._folder / f"{self._folder.name}.{number:0{self._digits}}{SUFFIXES[self._kind]}"

    def clear(self) -> None:
        """Delete the frames of an earlier run, which may have had other numbers."""
        pattern = f"{glob.escape(self._folder.name)}.*{SUFFIXES[self._kind]}"
        for path in self._folder.glob(pattern):
            if path.name[len(self._folder.name) + 1 : -len(path.suffix)].isdecimal():
                path.unlink()

    def prepare(self, frame: Frame, pixels: NDArray[Any]) -> bytes:
        """Encode a frame; thread-safe."""
        return encode_result(
            frame.photo,
            pixels,
            self._kind,
            is_alpha=self._is_alpha,
            premultiplied=self._premultiplied,
            transfer=self._info.colour.transfer,
            primaries=self._info.colour.primaries,
            facts=self._facts,
            pixel_shape=float(self._info.pixel_shape or 1),
            compression=self._compression,
        )

    def write(self, frame: Frame, data: bytes) -> None:
        """Write a frame.

        Raises:
            InputError: The file cannot be written.
        """
        write_bytes(self.path_of(frame.number), data)

    def finish(self, sound_after: object) -> None:
        """Do nothing: a sequence has no audio, and its frames are complete."""

    def discard(self) -> None:
        """Do nothing: the written frames are complete, and the same command resumes after them."""


def _smaller(photo: Photo, divisor: int) -> Photo:
    if divisor == 1:
        return photo
    height, width = (max(1, round(side / divisor)) for side in photo.pixels.shape[:2])
    alpha = None if photo.alpha is None else resize(photo.alpha, (height, width))
    return replace(photo, pixels=resize(photo.pixels, (height, width)), alpha=alpha)


def _pixel_shape(photo: Photo) -> Fraction | None:
    """Return the width of a pixel over its height, which EXR files declare; None for square ones."""
    shape = 1.0 if photo.light is None else photo.light.pixel_shape
    return None if shape == 1 else Fraction(shape).limit_denominator(1000)


def _ceil(value: Fraction) -> int:
    return -int(-value // 1)
