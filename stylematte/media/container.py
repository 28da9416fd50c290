"""Read the properties of a video file that are needed before its frames."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from stylematte.errors import InputError, MissingError

_NOT_COUNTED = ("image2", "h264", "hevc", "m4v", "mpegvideo")  # FFmpeg's lengths for these are made up


@dataclass(frozen=True)
class Chapter:
    """A chapter of a clip: its begin and end in seconds, and its title."""

    begin: Fraction
    end: Fraction
    title: str


_DEFAULT_PIXELS = 5_000_000  # ffmpeg's bonus for a stream with the default flag


def open_clip(path: Path) -> av.container.InputContainer:
    """Open a file for reading.

    Raises:
        InputError: The file does not exist, cannot be read, or has a format unknown to FFmpeg.
    """
    try:
        return av.open(str(path), metadata_errors="replace")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a clip") from None
    except av.error.InvalidDataError:
        raise InputError(
            f"{path}: damaged, truncated, or not a video that FFmpeg can read",
            "Get the file again from its source",
        ) from None
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Choose the video stream as ffmpeg does: the largest one, with a bonus in pixels for the default flag.

    Cover art is not a video stream. libavformat's own choice took the smaller of two streams in a transport
    stream.

    Raises:
        InputError: The file has no video stream.
        MissingError: This FFmpeg cannot decode it.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path}: contains no video", "Audio files cannot be matted")
    readable = [stream for stream in streams if stream.codec_context is not None]
    if not readable:
        raise MissingError(f"{path}: FFmpeg cannot decode its video", "Convert it, for example to ProRes")
    return max(readable, key=_rank)


def _rank(stream: av.VideoStream) -> tuple[int, int]:
    context = stream.codec_context
    is_default = bool(stream.disposition & av.stream.Disposition.default)
    return context.width * context.height + _DEFAULT_PIXELS * is_default, -stream.index


def is_broadcast(container: av.container.InputContainer) -> bool:
    """Return whether timestamps may start anywhere and jump, as in MPEG transport streams."""
    return bool(container.format.flags & cast(int, av.format.Flags.ts_discont.value))


def said_frames(container: av.container.InputContainer, stream: av.VideoStream, rate: Fraction) -> int | None:
    """Return the number of frames that a file declares, else an estimate from its length, else None."""
    total = stream.frames
    seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else None
    if total and seconds:  # trimmed clips declare all stored frames, but only the duration that is shown
        return min(total, round(seconds * rate))
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, av.time_base)
    if not total and seconds and container.format.name not in _NOT_COUNTED:
        total = round(seconds * rate)
    return total or None


def chapters_of(
    container: av.container.InputContainer, begin: Fraction, seconds: Fraction | None
) -> tuple[Chapter, ...]:
    """Read the chapters of a part of a clip.

    Args:
        container: An open clip.
        begin: Start of the part in the clip, in seconds; the chapters' times are relative to it.
        seconds: Length of the part; None for the rest of the clip.
    """
    found = []
    for chapter in container.chapters():
        unit = chapter["time_base"] or Fraction(1, 1000)
        first, last = chapter["start"] * unit - begin, chapter["end"] * unit - begin
        if last > 0 and (seconds is None or first < seconds):
            last = last if seconds is None else min(last, seconds)
            title = {key.lower(): value for key, value in chapter["metadata"].items()}.get("title", "")
            found.append(Chapter(max(first, Fraction(0)), last, title))
    return tuple(found)


def losses_of(container: av.container.InputContainer, chosen: av.VideoStream) -> list[str]:
    """Return a note about the streams of a file that results do not contain; empty if there are none."""
    cover = av.stream.Disposition.attached_pic
    videos = [s for s in container.streams.video if not s.disposition & cover and s.index != chosen.index]
    names = {"video": len(videos), "subtitles": len(container.streams.subtitles)}
    texts = [f"{count} x {name}" for name, count in names.items() if count]
    return [f"not kept: {', '.join(texts)}"] if texts else []


def alpha_decoder(stream: av.VideoStream) -> av.VideoCodecContext | None:
    """Return a libvpx decoder for VP8 and VP9 with alpha, which FFmpeg's own decoders ignore; else None."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return None
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    return decoder


def orientation_of(frame: av.VideoFrame) -> int:
    """Return the orientation of stored frames as an EXIF number, from the container's display matrix."""
    side_data = cast(Any, frame.side_data)  # PyAV's type annotation is wrong
    matrices = [part for part in side_data if part.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return 1
    a, b, _, c, d = np.frombuffer(bytes(matrices[0]), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]
    return {(False, False): 5, (False, True): 6, (True, True): 7, (True, False): 8}[b < 0, c < 0]
