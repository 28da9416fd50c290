"""Clips from files: upright RGB frames with their timestamps, and the sound that lies between them."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self, TypeAlias, cast

import av
import numpy as np

from stylematte_cli.errors import InputError, MissingError
from stylematte_cli.media.images import TURNS, Photo
from stylematte_cli.media.span import Span, shift_timecode
from stylematte_cli.media.yuv import RGB, Colour, to_photo

log = logging.getLogger("stylematte")

FALLBACK_RATE = Fraction(25)  # where a file says nothing
Sound: TypeAlias = "list[av.Packet[Any]]"
_UPRIGHT = 1
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
            pictures it is as its file says.
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
        first = self._first_frame()
        self._orientation = _orientation(first)
        self._first_pts = first.pts or 0
        self._start = _Start(0, self._first_pts)
        if span.start:
            self._start = self._locate(span)
        self._container = _open(path)
        self._stream = _video_stream(self._container, path)
        self._stream.thread_type = "AUTO"
        self.sound_streams = [stream for stream in self._container.streams.audio if stream.codec_context]
        self.info = self._read_info(first)
        self._decoder = _alpha_decoder(self._stream)

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
        if start.index:
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
            if (end_index is not None and index >= end_index) or (end_pts is not None and pts >= end_pts):
                break
            if (index - start.index) % every == 0:
                ticks = int(decoded.duration or 0) * every
                yield Frame(index + 1, pts - shift, ticks, self._photo(decoded), _moved(sound, shift, self))
                sound.clear()
            index += 1
        else:
            if index == start.index:
                raise InputError(f"{self._path}: no frames")
        self._read_sound(sound, end_pts)
        self.sound_after = _moved(sound, shift, self)

    def _photo(self, frame: av.VideoFrame) -> Photo:
        if (frame.height, frame.width) != self._coded_size:
            raise InputError(
                f"{self._path}: the picture's size changes from {self._coded_size} to "
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
        packets = done = 0
        try:
            for packet in self._container.demux(self._stream, *self.sound_streams):
                if packet.stream.type == "audio":
                    if self._is_within(packet, end_pts):
                        sound.append(packet)
                    continue
                packets += packet.dts is not None or packet.size > 0
                for frame in (self._decoder or self._stream).decode(packet):
                    done += 1
                    yield frame
        except av.error.FFmpegError as error:
            seconds = float(done / self.info.rate)
            raise InputError(
                f"{self._path}: damaged at {seconds:.2f} s, after {done} frames: {error.strerror}",
                f"--end {seconds:.2f} does what lies before" if done else "Get the file anew",
            ) from None
        if self._start.index == 0 and packets < self._stream.frames:
            raise InputError(
                f"{self._path}: cut short: {packets} of {self._stream.frames} frames are there",
                f"--end {done}f does what is there",
            )

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
        if end_pts is None and self._span.end is None:
            return
        open_streams = {stream.index for stream in self.sound_streams}
        if end_pts is None or not open_streams:
            return
        for packet in self._container.demux(*self.sound_streams):
            if self._is_within(packet, end_pts):
                sound.append(packet)
            elif packet.pts is None or packet.pts * packet.time_base >= end_pts * self._time_base:
                open_streams.discard(packet.stream.index)
                if not open_streams:
                    return

    def _end(self) -> tuple[int | None, int | None]:
        """Say where the span ends, by timestamp or by how many frames lie before it."""
        end = self._span.end
        if isinstance(end, Fraction):
            return self._first_pts + math.ceil(end / self._time_base), None
        return None, end

    @property
    def _time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, 1000)

    def _frame_ticks(self) -> int:
        return max(1, round(1 / (self.info.rate * self._time_base)))

    def _first_frame(self) -> av.VideoFrame:
        with _open(self._path) as container:
            stream = _video_stream(container, self._path)
            try:
                for frame in container.decode(stream):
                    self._coded_size = frame.height, frame.width
                    return frame
            except av.error.FFmpegError as error:
                raise InputError(f"{self._path}: damaged: {error.strerror}", "Get the file anew") from None
        raise InputError(f"{self._path}: no frames")

    def _locate(self, span: Span) -> _Start:
        """Find the first frame of the span; packets are read up to it, nothing is decoded."""
        with _open(self._path) as container:
            stream = _video_stream(container, self._path)
            base = stream.time_base or Fraction(1, 1000)
            times: list[int] = []
            wanted = None
            if isinstance(span.start, Fraction):
                wanted = self._first_pts + math.ceil(span.start / base)
            number = span.start if isinstance(span.start, int) else 1
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                pts, dts = packet.pts, packet.dts
                times.append(pts if pts is not None else dts if dts is not None else len(times))
                if wanted is None and len(times) >= number:
                    wanted = sorted(times)[max(0, number - 1)]
                # Frames are stored before those that they are needed for, so an earlier one may still come.
                if wanted is not None and dts is not None and dts > wanted:
                    break
        times.sort()
        index = (
            max(0, number - 1) if isinstance(span.start, int) else sum(pts < (wanted or 0) for pts in times)
        )
        if index >= len(times):
            raise InputError(f"{self._path}: ends before --start: it has {len(times)} frames")
        return _Start(index, times[index])

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


def _open(path: Path) -> av.container.InputContainer:
    try:
        return av.open(str(path), metadata_errors="replace")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a clip") from None
    except av.error.InvalidDataError:
        raise InputError(
            f"{path}: damaged, cut short or no video that FFmpeg knows", "Get the file anew from its source"
        ) from None
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path}: no video in it", "Sound alone cannot be matted")
    if streams[0].codec_context is None:
        raise MissingError(f"{path}: this FFmpeg has no decoder for its video", "Convert it, to ProRes say")
    return streams[0]


def _alpha_decoder(stream: av.VideoStream) -> av.VideoCodecContext | None:
    """FFmpeg's own decoders of VP8 and VP9 leave out the alpha; libvpx has it."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return None
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    return decoder


def _moved(sound: Sound, shift: int, clip: Clip) -> Sound:
    """Count times from the first frame of the span; half a unit of rounding at most."""
    for packet in sound if shift else ():
        units = round(shift * clip.info.time_base / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - units
        packet.dts = None if packet.dts is None else packet.dts - units
    return list(sound)


def _orientation(frame: av.VideoFrame) -> int:
    """Read how the stored frames lie, as an EXIF orientation, from the container's display matrix."""
    side_data = cast(Any, frame.side_data)  # PyAV's own annotation is that of another object
    matrices = [part for part in side_data if part.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return _UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrices[0]), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]
    return {(False, False): 5, (False, True): 6, (True, True): 7, (True, False): 8}[b < 0, c < 0]
