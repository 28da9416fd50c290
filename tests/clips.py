"""Clips that the tests draw: a moving red rectangle, in frames with times of one's choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SIZE = (96, 128)  # (height, width)
RATE = 48000
UNEVEN = (0, 1001, 1501, 4000, 4500, 9000)  # in 1/30000 s


def red_frame(number: int, size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> NDArray:
    """Grey with a red rectangle that goes right by 2 pixels a frame."""
    height, width = size
    white = np.iinfo(dtype).max
    image = np.full((height, width, 3), white // 2, dtype)
    left = width // 8 + 2 * number
    image[height // 8 : height // 2, left : left + width // 2] = (white, 0, 0)
    return image


def draw_clip(
    path: Path,
    frames: int = 6,
    size: tuple[int, int] = SIZE,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    time_base: Fraction = Fraction(1, 25),
    times: Sequence[int] | None = None,
    sound_seconds: float = 0.0,
    sound_codec: str = "aac",
    rotation: int | None = None,
    timecode: str | None = None,
    tags: tuple[int, int, int, int] = (1, 1, 1, 1),
    pixel_shape: Fraction | None = None,
) -> Path:
    """Write a clip with PyAV alone.

    Args:
        path: Its suffix chooses the container.
        frames: How many.
        size: (height, width) as stored.
        codec: FFmpeg's name of the encoder.
        pixel_format: Of the codec.
        time_base: Seconds a unit of `times`.
        times: When each frame is shown; one unit after the other if not given.
        sound_seconds: Length of the sound; 0 for none.
        sound_codec: Of the sound.
        rotation: Degrees of the display matrix, clockwise.
        timecode: Of the first frame.
        tags: Range, primaries, transfer and matrix, as in H.273.
        pixel_shape: Width of a pixel over its height.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    times = list(range(frames)) if times is None else times
    with av.open(str(path), "w") as container:
        # Every frame a key frame and none out of order: an MP4 then says the right length of uneven frames.
        options = {"crf": "4", "bf": "0"} if codec == "libx264" else {}
        rate = Fraction(len(times) - 1 or 1, times[-1] - times[0] or 1) / time_base
        stream = container.add_stream(codec, rate=rate.limit_denominator(1001), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        stream.time_base = stream.codec_context.time_base = time_base
        context = stream.codec_context
        context.color_range, context.color_primaries, context.color_trc, context.colorspace = tags
        if pixel_shape is not None:
            context.sample_aspect_ratio = pixel_shape
        if timecode is not None:
            stream.metadata["timecode"] = timecode
        if rotation is not None:
            stream.set_display_rotation(-rotation)
        sound = container.add_stream(sound_codec, rate=RATE) if sound_seconds else None
        if sound is not None:
            sound.codec_context.layout = "stereo"
        deep = "10" in pixel_format or "12" in pixel_format
        for number in range(frames):
            pixels = red_frame(number, size, np.uint16 if deep else np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb48le" if deep else "rgb24").reformat(
                format=pixel_format, dst_colorspace="ITU709", dst_color_range="MPEG", threads=1
            )
            frame.pts, frame.time_base = times[number], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            draw_sound(container, sound, sound_seconds)
    return path


def draw_sound(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    wave = (8000 * np.sin(np.arange(int(seconds * RATE)) * 0.05)).astype(np.int16)
    for begin in range(0, len(wave), 960):
        part = np.repeat(wave[begin : begin + 960], 2)[None]
        frame = av.AudioFrame.from_ndarray(part, "s16", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@dataclass
class Probe:
    """What PyAV finds in a file when it reads it again.

    Attributes:
        times: When each frame is shown, in seconds, in order.
        seconds: Length of the video, where the container says it.
        frames: (H, W, 3 or 4) uint16 pixels; alpha where the format has one.
        sound: Packets of each sound stream: time in seconds and bytes.
        tags: Range, primaries, transfer and matrix.
        timecode: Of the first frame.
        rotations: That the frames ask for.
        pixel_format: As decoded.
        codec: Of the video.
        pixel_shape: Width of a pixel over its height.
        comment: The container's.
    """

    times: list[Fraction]
    seconds: Fraction | None
    frames: list[NDArray]
    sound: list[list[tuple[Fraction, bytes]]]
    tags: tuple[int, int, int, int]
    timecode: str | None
    rotations: set[int]
    pixel_format: str
    codec: str
    pixel_shape: Fraction | None
    comment: str | None


def probe(path: Path) -> Probe:
    """Read a clip with PyAV alone; VP9 with libvpx, which knows alpha."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        metadata = {key.lower(): value for key, value in {**container.metadata, **stream.metadata}.items()}
        decoder = stream
        if metadata.get("alpha_mode") == "1":
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        sound: dict[int, list[tuple[Fraction, bytes]]] = {s.index: [] for s in container.streams.audio}
        decoded = []
        for packet in container.demux(stream, *container.streams.audio):
            if packet.stream.type == "audio":
                if packet.size:
                    sound[packet.stream.index].append((packet.pts * packet.time_base, bytes(packet)))
                continue
            decoded += decoder.decode(packet)
        name = decoded[0].format.name
        side = "JPEG" if stream.color_range == 2 else "MPEG"
        how = {"src_colorspace": "ITU709", "src_color_range": side} if name.startswith("yuv") else {}
        wanted = "rgba64le" if "a" in name.removeprefix("gray") else "rgb48le"
        return Probe(
            times=[frame.pts * stream.time_base for frame in decoded],
            seconds=stream.duration * stream.time_base if stream.duration else None,
            frames=[frame.reformat(format=wanted, threads=1, **how).to_ndarray() for frame in decoded],
            sound=list(sound.values()),
            tags=(stream.color_range, stream.color_primaries, stream.color_trc, stream.colorspace),
            timecode=metadata.get("timecode"),
            rotations={frame.rotation for frame in decoded},
            pixel_format=name,
            codec=stream.codec_context.name,
            pixel_shape=stream.sample_aspect_ratio,
            comment=metadata.get("comment"),
        )
