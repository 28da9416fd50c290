"""What is to be known about a file with video before its frames are read."""

from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from stylematte.errors import InputError, MissingError


def open_clip(path: Path) -> av.container.InputContainer:
    """Open a file for reading.

    Raises:
        InputError: It is not there, not to be read, or nothing that FFmpeg knows.
    """
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


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Choose the video of a file; the image on the cover of a song is none.

    Raises:
        InputError: There is none.
        MissingError: This FFmpeg cannot decode it.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path}: no video in it", "Sound alone cannot be matted")
    if streams[0].codec_context is None:
        raise MissingError(f"{path}: this FFmpeg has no decoder for its video", "Convert it, to ProRes say")
    return streams[0]


def alpha_decoder(stream: av.VideoStream) -> av.VideoCodecContext | None:
    """FFmpeg's own decoders of VP8 and VP9 leave out the alpha; libvpx has it."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return None
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    return decoder


def orientation_of(frame: av.VideoFrame) -> int:
    """Read how the stored frames lie, as an EXIF orientation, from the container's display matrix."""
    side_data = cast(Any, frame.side_data)  # PyAV's own annotation is that of another object
    matrices = [part for part in side_data if part.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return 1
    a, b, _, c, d = np.frombuffer(bytes(matrices[0]), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]
    return {(False, False): 5, (False, True): 6, (True, True): 7, (True, False): 8}[b < 0, c < 0]
