"""Read clips from files: upright RGB frames with their timestamps, and the audio between them."""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Self

import av

from stylematte.errors import InputError
from stylematte.media.clip_frame import ClipInfo, Frame
from stylematte.media.container import (
    alpha_decoder,
    chapters_of,
    is_broadcast,
    losses_of,
    open_clip,
    orientation_of,
    said_frames,
    video_stream,
)
from stylematte.media.decode import TURNS
from stylematte.media.photo import Photo
from stylematte.media.sound import Sound
from stylematte.media.span import Moment, Span, timecode_for
from stylematte.media.timeline import FrameClock, Timeline, begin_of, move
from stylematte.media.yuv import FULL, RGB, UNSPECIFIED, Colour, reduced, to_photo

log = logging.getLogger("stylematte")

FALLBACK_RATE = Fraction(25)  # for files that do not declare a rate
LOST_SECONDS = Fraction(1, 2)  # a file may end this much earlier than its header says
_LOST_FRAMES = 2  # likewise for MOV and MP4, whose header counts every frame
_UNREADABLE = 1000  # packets that may fail before the first frame: recordings may start between key frames
_SOUND_BEHIND = 5  # seconds by which audio may be stored later in a file than its frames
_WITH_INDEX = ("mov", "matroska", "avi", "mxf", "asf")
_WITHOUT_ORDER = ("avi", "h264", "hevc", "m4v", "mpegvideo")  # timestamps, if any, are in decoding order
_QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap height and width


_Shown = tuple[av.VideoFrame, int]  # a decoded frame and its presentation timestamp


class Clip:
    """An open clip, for use in a `with` block; its frames can be read once.

    Frames come from the decoder in presentation order. Frames before the span are decoded and counted, so
    frame numbers do not depend on the span.

    Args:
        path: The file.
        span: Part of the clip to read.
        fine: See `yuv.to_photo`.
        reduction: Divisor of height and width.
        is_behind: The clip is the background of another one; changes the hints in error messages.

    Attributes:
        info: Description of the clip.
        sound_streams: Audio streams of the open file.
        sound_after: Audio packets after the last frame; complete when the frames have been read.
        notes: Messages for the user; complete when the frames have been read.

    Raises:
        InputError: The file is not a clip, has no video, is damaged, or ends before the span.
        MissingError: This FFmpeg cannot decode it.
    """

    def __init__(
        self,
        path: Path,
        span: Span = Span(),  # noqa: B008 - frozen
        fine: bool = True,
        reduction: int = 1,
        is_behind: bool = False,
    ) -> None:
        self._path = path
        self._span = span
        self._fine = fine
        self._reduction = reduction
        self._is_behind = is_behind
        self.sound_after: Sound = []
        self._sound: Sound = []  # read, but not assigned to a frame yet
        self._mended = 0  # damaged frames that FFmpeg concealed
        self._read_until = Fraction(0)  # seconds, over all streams
        self._seen_until = Fraction(0)  # likewise, over the video stream
        self._whole = 0  # readable frames since the start of the clip
        self._container = open_clip(path)
        try:
            self._stream = video_stream(self._container, path)
            stream = self._stream  # read now: decoding overwrites the file's values with the codec's
            self._said_colour = Colour(
                stream.color_primaries, stream.color_trc, stream.colorspace, stream.color_range
            )
            self.notes = losses_of(self._container, self._stream)
            self._stream.thread_type = "AUTO"
            self.sound_streams = list(self._container.streams.audio)
            self._format = self._container.format.name.split(",")[0]
            self._timeline = Timeline(self._stream.index, is_broadcast(self._container))
            self._decoder = alpha_decoder(self._stream)
            self._packets = self._read_packets()
            self._shown = self._decode()
            self._first_pts, self._start, self._begin = self._skip_to(span.start)
            self._orientation = orientation_of(self._begin[0])
            self._coded_size = self._begin[0].height, self._begin[0].width
            self._shift = self._shift_seconds()
            self.info = self._read_info(self._begin[0])
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Decode the frames of the span, in presentation order.

        Raises:
            InputError: The file is damaged or truncated.
        """
        every, end = self._span.every, self._span.end
        index, shift = self._start, round(self._shift / self._time_base)
        end_pts: int | None = None
        if isinstance(end, Fraction):
            end_pts = self._first_pts + math.ceil(end / self._time_base)
        for decoded, pts in chain((self._begin,), self._rest()):
            if end_pts is not None and pts >= end_pts:
                break
            if isinstance(end, int) and index >= end:
                end_pts = pts
                break
            self._mended += decoded.is_corrupt
            if (index - self._start) % every == 0:
                ticks = int(decoded.duration or 0) * every
                sound = self._sound_until(pts * self._time_base, end_pts)
                yield Frame(index + 1, pts - shift, ticks, self._photo(decoded), sound)
            index += 1
            self._whole = index
        else:
            if not self._is_enough():
                self._check_length()
        if index == self._start:
            raise InputError(f"{self._path}: no frames between --start and --end")
        if self._timeline.joins:
            self.notes.append("its timestamps start again in the middle; the parts are joined")
        if self._mended:
            self.notes.append(f"{self._mended} damaged frames, repaired by FFmpeg")
        if end_pts is not None:
            self._read_sound_until(end_pts)
        self.sound_after = self._sound_until(None, end_pts)

    def _is_enough(self) -> bool:
        """Return whether the last requested frame has been read: damage after it does not matter."""
        return isinstance(self._span.end, int) and self._whole >= self._span.end

    def _rest(self) -> Iterator[_Shown]:
        try:
            yield from self._shown
        except InputError:
            if not self._is_enough():
                raise

    def _photo(self, frame: av.VideoFrame) -> Photo:
        if (frame.height, frame.width) != self._coded_size:
            raise InputError(
                f"{self._path}: the frame size changes from {self._coded_size} to "
                f"{(frame.height, frame.width)} (height, width) within the clip",
                "Split the clip there",
            )
        photo = to_photo(reduced(frame, self._reduction), self.info.colour, self._fine)
        turn = TURNS.get(self._orientation)
        if turn is not None:
            photo = Photo(turn(photo.pixels), None if photo.alpha is None else turn(photo.alpha))
        return photo

    def _skip_to(self, start: Moment | None) -> tuple[int, int, _Shown]:
        """Decode up to the span, and drop the audio before it.

        Returns:
            The clip's first timestamp, the number of frames before the span, and its first frame.
        """
        first_pts: int | None = None
        count = 0
        for shown in self._shown:
            pts = shown[1]
            first_pts = pts if first_pts is None else first_pts
            if isinstance(start, Fraction):
                is_there = (pts - first_pts) * self._time_base >= start
            else:
                is_there = count >= (start or 1) - 1
            if is_there:
                return first_pts, count, shown
            count += 1
            self._whole = count
            now = pts * self._time_base
            self._sound = [packet for packet in self._sound if begin_of(packet) >= now]
        if count:
            raise InputError(f"{self._path}: ends before --start: it has {count} frames")
        raise InputError(f"{self._path}: no frames")

    def _shift_seconds(self) -> Fraction:
        """Return the seconds to subtract from all timestamps."""
        if self._start or is_broadcast(self._container):  # broadcast clocks start at arbitrary times
            return self._begin[1] * self._time_base
        first = Fraction(self._container.start_time or 0, av.time_base)
        if self._format == "mov" or first <= 0:  # in MOV and MP4, a late start is intended
            return Fraction(0)
        return min(first, self._begin[1] * self._time_base)

    def _read_packets(self) -> "Iterator[av.Packet[Any]]":
        """Read all video and audio packets, with timestamps on a continuous timeline."""
        streams = [s for s in self.sound_streams if s.codec_context is not None]
        for packet in self._container.demux(self._stream, *streams):
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                self._read_until = max(self._read_until, end)
                if packet.stream.index == self._stream.index:
                    self._seen_until = max(self._seen_until, end)
            yield from self._timeline.feed(packet)
        yield from self._timeline.rest()

    def _decode(self) -> Iterator[_Shown]:
        """Decode all video packets, and collect audio packets."""
        rate = self._stream.average_rate or self._stream.guessed_rate or FALLBACK_RATE
        ticks = max(1, round(1 / (rate * self._time_base)))
        clock = FrameClock(self._format in _WITHOUT_ORDER, ticks)
        failures, shown = 0, 0
        try:
            for packet in self._packets:
                if packet.stream.index != self._stream.index:
                    self._hear(packet)
                    continue
                clock.saw(packet)
                try:
                    decoded = (self._decoder or self._stream).decode(packet)
                except av.error.FFmpegError:
                    failures += 1
                    if shown or failures > _UNREADABLE:
                        raise
                    continue
                for frame in decoded:
                    shown += 1
                    yield frame, clock.time_of(frame)
        except av.error.FFmpegError as error:
            raise InputError(
                f"{self._path}: damaged after {self._whole} frames: {error.strerror}", self._hint()
            ) from None

    def _hear(self, packet: "av.Packet[Any]") -> None:
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.pts is not None and packet.size:
            self._sound.append(packet)

    def _sound_until(self, seconds: Fraction | None, end_pts: int | None) -> Sound:
        """Take the collected audio of the span up to a time, or all of it; shift it like the frames.

        A packet belongs to the span in which it begins.
        """
        begin = self._shift if self._shift > 0 else None
        end = None if end_pts is None else end_pts * self._time_base
        taken, waiting = [], []
        for packet in self._sound:
            at = begin_of(packet)
            if seconds is not None and at > seconds:
                waiting.append(packet)
            elif (begin is None or at >= begin) and (end is None or at < end):
                move(packet, -self._shift)
                taken.append(packet)
        self._sound = waiting
        return taken

    def _read_sound_until(self, end_pts: int) -> None:
        """Read the rest of the span's audio, which may be stored after its last frame."""
        end = end_pts * self._time_base
        open_streams = {stream.index for stream in self.sound_streams}
        for packet in self._sound:
            if begin_of(packet) >= end:
                open_streams.discard(packet.stream.index)
        try:
            for packet in self._packets:
                if not open_streams:
                    return
                time = packet.pts if packet.dts is None else packet.dts
                is_video = packet.stream.index == self._stream.index
                if time is None or time * packet.time_base < end + (_SOUND_BEHIND if is_video else 0):
                    if not is_video:
                        self._hear(packet)
                elif is_video:
                    return
                else:
                    open_streams.discard(packet.stream.index)
        except av.error.FFmpegError as error:
            self.notes.append(f"sound is damaged after the last frame: {error.strerror}")

    def _check_length(self) -> None:
        """Compare the file's end with the length in its header.

        Raises:
            InputError: More is missing than the tolerance.
        """
        container, stream = self._container, self._stream
        if self._format not in _WITH_INDEX:  # otherwise the length is FFmpeg's guess
            return
        if container.duration:
            seconds = Fraction(container.duration, av.time_base)
            if self._read_until < seconds - LOST_SECONDS:
                raise InputError(
                    f"{self._path}: truncated or damaged: it ends at {float(self._read_until):.2f} s of "
                    f"{float(seconds):.2f} s",
                    self._hint(),
                )
        if self._format == "mov" and stream.duration and stream.frames:
            seconds = ((stream.start_time or 0) + stream.duration) * self._time_base
            missing = round((seconds - self._seen_until) * self._rate)
            if missing > _LOST_FRAMES:
                raise InputError(
                    f"{self._path}: truncated: {self._whole} of {self._whole + missing} frames are complete",
                    self._hint(),
                )

    def _hint(self) -> str:
        if self._is_behind:
            return "Give another background, or get this file again"
        return f"--end {self._whole}f processes the intact part" if self._whole else "Get the file again"

    @property
    def _time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, 1000)

    @property
    def _rate(self) -> Fraction:
        return self._stream.average_rate or self._stream.guessed_rate or FALLBACK_RATE

    def _read_info(self, first: av.VideoFrame) -> ClipInfo:
        stream, span, rate = self._stream, self._span, self._rate
        if first.interlaced_frame:
            self.notes.append("interlaced: its frames are processed whole; deinterlace it first")
        small = reduced(first, self._reduction)
        height, width = small.height, small.width
        shape = stream.sample_aspect_ratio
        shape = None if shape is None or shape <= 0 or shape == 1 else Fraction(shape)
        if self._orientation in _QUARTER_TURNS:
            height, width = width, height
            shape = 1 / shape if shape else None
        # Matroska writes keys in upper case.
        tags = {key.lower(): value for key, value in self._container.metadata.items()}
        timecode = {key.lower(): value for key, value in stream.metadata.items()}.get("timecode")
        timecode = timecode or tags.get("timecode")
        return ClipInfo(
            size=(height, width),
            rate=rate / span.every,
            time_base=self._time_base,
            colour=_colour_of(self._said_colour, first),
            is_deep=max(part.bits for part in first.format.components) > 8,
            pixel_shape=shape,
            first_number=self._start + 1,
            frames=span.count(said_frames(self._container, stream, rate), self._start, rate),
            timecode=timecode and timecode_for(timecode, self._start, rate, span.every),
            tags={key: value for key, value in tags.items() if key in _TAGS},
            chapters=chapters_of(self._container, self._shift, span.seconds),
        )


def _colour_of(said: Colour, first: av.VideoFrame) -> Colour:
    """Return the colour description: from the file, else from the codec, else as players guess it."""
    own = Colour(first.color_primaries, first.color_trc, int(first.colorspace), int(first.color_range))
    is_rgb = first.format.is_rgb
    colour = Colour(
        own.primaries if said.primaries in _NOT_SAID else said.primaries,
        own.transfer if said.transfer in _NOT_SAID else said.transfer,
        RGB if is_rgb else own.matrix if said.matrix in _NOT_SAID else said.matrix,
        FULL if first.format.name.startswith("yuvj") else said.range or own.range,
    )
    if colour.matrix == RGB and not is_rgb:
        colour = replace(colour, matrix=UNSPECIFIED)
    return colour.as_players_take_it(first.height, first.width)


_NOT_SAID = (0, UNSPECIFIED, 3)
_TAGS = {"title", "artist", "author", "copyright", "date", "creation_time", "description"}
