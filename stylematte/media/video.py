"""Clips from files: upright RGB frames with their timestamps, and the sound that lies between them."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self, TypeAlias

import av

from stylematte.errors import InputError
from stylematte.media.container import alpha_decoder, open_clip, orientation_of, video_stream
from stylematte.media.decode import TURNS
from stylematte.media.photo import Photo
from stylematte.media.span import Moment, Span, shift_timecode
from stylematte.media.yuv import RGB, Colour, to_photo

log = logging.getLogger("stylematte")

FALLBACK_RATE = Fraction(25)  # where a file says nothing
Sound: TypeAlias = "list[av.Packet[Any]]"
LOST_SECONDS = Fraction(1, 2)  # a file may end this much before its header says
_WITH_INDEX = ("mov", "matroska", "avi", "mxf", "asf")
_QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap height and width


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


@dataclass(eq=False)
class Frame:
    """One frame of a clip.

    Attributes:
        number: Its place in the clip, see `ClipInfo.first_number`.
        pts: When it is shown, in `ClipInfo.time_base`. As in the source; counted from the first frame that is
            done where that is not the source's first.
        duration: How long, likewise; 0 where not known.
        photo: Its pixels.
        sound: Packets that come before it, their times moved likewise.
    """

    number: int
    pts: int
    duration: int
    photo: Photo
    sound: Sound = field(default_factory=list)


@dataclass(frozen=True)
class _Start:
    """The first frame to do: how many come before it, and its timestamp."""

    index: int
    pts: int


class Clip:
    """An open clip; to be used in a `with` block, and its frames to be read once.

    Args:
        path: The file.
        span: Which part of it.
        fine: See `yuv.to_photo`.

    Attributes:
        info: What is known about it.
        sound_streams: Of the open file, to be copied from.
        sound_after: Packets that come after the last frame; complete when the frames have been read.

    Raises:
        InputError: No clip, no video in it, a damaged one, or the span lies beyond its end.
        MissingError: This FFmpeg cannot decode it.
    """

    def __init__(self, path: Path, span: Span = Span(), fine: bool = True) -> None:  # noqa: B008 - frozen
        self._path = path
        self._span = span
        self._fine = fine
        self.sound_after: Sound = []
        self._mended = 0  # frames that FFmpeg had to guess parts of
        self._read_until = Fraction(0)  # seconds, over all streams
        self._whole = 0  # frames from the clip's beginning to the last one that could be read
        first = self._first_frame()
        self._orientation = orientation_of(first)
        self._first_pts = first.pts or 0
        self._container = open_clip(path)
        self._stream = video_stream(self._container, path)
        self._start = self._locate(span.start) if span.start else _Start(0, self._first_pts)
        self._stream.thread_type = "AUTO"
        self.sound_streams = [stream for stream in self._container.streams.audio if stream.codec_context]
        self.info = self._read_info(first)
        self._decoder = alpha_decoder(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Decode the frames of the span, in the order in which they are shown.

        Raises:
            InputError: The file is damaged or cut short.
        """
        start, every = self._start, self._span.every
        index = start.index
        shift = start.pts if start.index else 0
        end_pts, end_index = self._end()
        sound: Sound = []
        last_pts: int | None = None
        if start.index and self._is_indexed():
            self._container.seek(start.pts, stream=self._stream)
        for decoded in self._decode(sound, end_pts):
            pts = decoded.pts
            if pts is None:  # some old containers number nothing
                pts = self._first_pts if last_pts is None else last_pts + self._frame_ticks()
            if pts < start.pts:
                continue
            if last_pts is not None and pts <= last_pts:  # would be refused by every container
                pts = last_pts + 1
            last_pts = pts
            if end_pts is not None and pts >= end_pts:
                break
            self._mended += decoded.is_corrupt
            if (index - start.index) % every == 0:
                ticks = int(decoded.duration or 0) * every
                yield Frame(index + 1, pts - shift, ticks, self._photo(decoded), _moved(sound, shift, self))
                sound.clear()
            index += 1
            self._whole = index
            if end_index is not None and index >= end_index:
                break
        else:
            if index == start.index:
                raise InputError(f"{self._path}: no frames")
        if self._mended:
            log.warning("warning: %s: %d damaged frames, done as FFmpeg mends them", self._path, self._mended)
        self._read_sound(sound, end_pts)
        self.sound_after = _moved(sound, shift, self)

    def _photo(self, frame: av.VideoFrame) -> Photo:
        if (frame.height, frame.width) != self._coded_size:
            raise InputError(
                f"{self._path}: the image's size changes from {self._coded_size} to "
                f"{(frame.height, frame.width)} (height, width) on the way",
                "Cut the clip there",
            )
        photo = to_photo(frame, self.info.colour, self._fine)
        turn = TURNS.get(self._orientation)
        if turn is not None:
            photo = Photo(turn(photo.pixels), None if photo.alpha is None else turn(photo.alpha))
        return photo

    def _decode(self, sound: Sound, end_pts: int | None) -> Iterator[av.VideoFrame]:
        """Decode all video packets; sound packets within the span go to `sound`."""
        packets = 0
        try:
            for packet in self._container.demux(self._stream, *self.sound_streams):
                if packet.pts is not None:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self._read_until = max(self._read_until, end)
                if packet.stream.type == "audio":
                    if self._is_within(packet, end_pts):
                        sound.append(packet)
                    continue
                packets += packet.dts is not None or packet.size > 0
                yield from (self._decoder or self._stream).decode(packet)
        except av.error.FFmpegError as error:
            raise InputError(
                f"{self._path}: damaged after {self._whole} frames: {error.strerror}", self._hint()
            ) from None
        if self._start.index == 0 and packets < self._stream.frames:
            raise InputError(
                f"{self._path}: cut short: {packets} of {self._stream.frames} frames are there", self._hint()
            )
        seconds = self._said_seconds()
        if seconds is not None and self._read_until < seconds - LOST_SECONDS:
            raise InputError(
                f"{self._path}: cut short or damaged: it ends at {float(self._read_until):.2f} s of "
                f"{float(seconds):.2f} s",
                self._hint(),
            )

    def _is_indexed(self) -> bool:
        """Say whether the file knows its length and its key frames; a transport stream is read through."""
        return self._container.format.name.split(",")[0] in _WITH_INDEX

    def _said_seconds(self) -> Fraction | None:
        """When the file ends, says its header; None where FFmpeg's guess is all there is."""
        container = self._container
        if not container.duration or not self._is_indexed():
            return None
        return Fraction((container.start_time or 0) + container.duration, av.time_base)

    def _hint(self) -> str:
        return f"--end {self._whole}f does what is whole" if self._whole else "Get the file anew"

    def _is_within(self, packet: "av.Packet[Any]", end_pts: int | None) -> bool:
        """Say whether a packet of sound belongs to the span; half ones at its start do not."""
        if packet.pts is None or packet.size == 0:
            return False
        seconds = packet.pts * packet.time_base
        if self._start.index and seconds < self._start.pts * self._time_base:
            return False
        return end_pts is None or seconds < end_pts * self._time_base

    def _read_sound(self, sound: Sound, end_pts: int | None) -> None:
        """Read what sound the span still has when its frames are done and the file is not."""
        open_streams = {stream.index for stream in self.sound_streams}
        if end_pts is None or not open_streams:
            return
        try:
            for packet in self._container.demux(*self.sound_streams):
                if self._is_within(packet, end_pts):
                    sound.append(packet)
                elif packet.pts is None or packet.pts * packet.time_base >= end_pts * self._time_base:
                    open_streams.discard(packet.stream.index)
                    if not open_streams:
                        return
        except av.error.FFmpegError as error:
            log.warning("warning: %s: sound is damaged after the last frame: %s", self._path, error.strerror)

    def _end(self) -> tuple[int | None, int | None]:
        """Say at which timestamp the span ends and how many frames lie before that, where it does."""
        end = self._span.end
        if isinstance(end, Fraction):
            return self._first_pts + math.ceil(end / self._time_base), None
        if end is None:
            return None, None
        times = self._times(number=end + 1)
        return (times[end] if len(times) > end else None), end

    @property
    def _time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, 1000)

    def _frame_ticks(self) -> int:
        return max(1, round(1 / (self.info.rate * self._time_base)))

    def _first_frame(self) -> av.VideoFrame:
        with open_clip(self._path) as container:
            stream = video_stream(container, self._path)
            try:
                for frame in container.decode(stream):
                    self._coded_size = frame.height, frame.width
                    return frame
            except av.error.FFmpegError as error:
                raise InputError(f"{self._path}: damaged: {error.strerror}", "Get the file anew") from None
        raise InputError(f"{self._path}: no frames")

    def _locate(self, start: Moment) -> _Start:
        """Find the first frame of the span."""
        if isinstance(start, Fraction):
            wanted = self._first_pts + math.ceil(start / self._time_base)
            times = self._times(wanted=wanted)
            index = sum(time < wanted for time in times)
        else:
            times, index = self._times(number=start), start - 1
        if index >= len(times):
            raise InputError(f"{self._path}: ends before --start: it has {len(times)} frames")
        return _Start(index, times[index])

    def _times(self, number: int | None = None, wanted: int | None = None) -> list[int]:
        """List the timestamps of frames in order, up to a number of them or a timestamp, or a few more.

        Packets are read, nothing is decoded.
        """
        times: list[int] = []
        with open_clip(self._path) as container:
            for packet in container.demux(video_stream(container, self._path)):
                if packet.size == 0 or packet.is_discard:
                    continue
                pts, dts = packet.pts, packet.dts
                times.append(pts if pts is not None else dts if dts is not None else len(times))
                if wanted is None and number is not None and len(times) >= number:
                    wanted = sorted(times)[number - 1]
                # Frames are stored before those that they are needed for, so an earlier one may still come.
                if wanted is not None and dts is not None and dts > wanted:
                    break
        return sorted(times)

    def _read_info(self, first: av.VideoFrame) -> ClipInfo:
        stream, span = self._stream, self._span
        rate = stream.average_rate or stream.guessed_rate or FALLBACK_RATE
        if first.interlaced_frame:
            log.warning(
                "warning: %s: interlaced; its frames are done whole, deinterlace it first", self._path
            )
        height, width = self._coded_size
        shape = stream.sample_aspect_ratio
        shape = None if shape is None or shape <= 0 or shape == 1 else Fraction(shape)
        if self._orientation in _QUARTER_TURNS:
            height, width = width, height
            shape = 1 / shape if shape else None
        total = stream.frames
        seconds = stream.duration * self._time_base if stream.duration else None
        if seconds is None and self._container.duration:
            seconds = Fraction(self._container.duration, av.time_base)
        if not total and seconds:
            total = round(seconds * rate)
        if total:
            last = total if span.end is None else span.end
            if isinstance(last, Fraction):
                last = round(last * rate)
            total = max(1, -(-(min(last, total) - self._start.index) // span.every))
        # Matroska writes keys in capitals.
        tags = {key.lower(): value for key, value in self._container.metadata.items()}
        timecode = {key.lower(): value for key, value in stream.metadata.items()}.get("timecode")
        timecode = timecode or tags.get("timecode")
        is_rgb = first.format.is_rgb
        return ClipInfo(
            size=(height, width),
            rate=rate / span.every,
            time_base=self._time_base,
            colour=Colour(
                stream.color_primaries,
                stream.color_trc,
                RGB if is_rgb else stream.colorspace,
                2 if first.format.name.startswith("yuvj") else stream.color_range,
            ),
            is_deep=max(part.bits for part in first.format.components) > 8,
            pixel_shape=shape,
            first_number=self._start.index + 1,
            frames=total or None,
            timecode=timecode and shift_timecode(timecode, self._start.index, rate),
            tags={key: value for key, value in tags.items() if key in _TAGS},
        )


_TAGS = {"title", "artist", "author", "copyright", "date", "creation_time", "description"}


def _moved(sound: Sound, shift: int, clip: Clip) -> Sound:
    """Count times from the first frame of the span; half a unit of rounding at most."""
    for packet in sound if shift else ():
        units = round(shift * clip.info.time_base / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - units
        packet.dts = None if packet.dts is None else packet.dts - units
    return list(sound)
