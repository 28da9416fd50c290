"""Sound of every container and codec into every result: there, on time, and in what players decode."""

import shutil
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stylematte.media.sound import COPIED, is_known, with_layout
from stylematte.media.video import Clip
from stylematte.media.video_writer import VideoWriter, recipe_for
from tests.clips import SIZE, red_frame

DOCS = Path(__file__).parents[2] / "docs" / "video.md"
RATE = 48000
SECONDS = 1.0
BURST = 0.5  # seconds at which silence becomes a tone

TARGETS = {"mp4": "MP4", "prores": "MOV", "webm": "WebM", "ffv1": "MKV"}
# What is drawn: FFmpeg's encoder, a container that holds it, and its channels.
SOURCES = {
    "AAC": ("aac", ".mp4", "stereo"),
    "AAC 5.1": ("aac", ".mp4", "5.1"),
    "ALAC": ("alac", ".mov", "stereo"),
    "MP3": ("libmp3lame", ".mp4", "stereo"),
    "MP2": ("mp2", ".ts", "stereo"),
    "AC-3 5.1": ("ac3", ".mkv", "5.1(side)"),
    "E-AC-3": ("eac3", ".ts", "stereo"),
    "DTS": ("dca", ".mkv", "stereo"),  # this and two more PyAV cannot encode: the ffmpeg of the system can
    "Opus": ("libopus", ".webm", "stereo"),
    "Vorbis": ("libvorbis", ".webm", "stereo"),
    "FLAC": ("flac", ".mkv", "stereo"),
    "WavPack": ("wavpack", ".mkv", "stereo"),
    "TrueHD": ("truehd", ".mkv", "stereo"),
    "PCM, 16 bits": ("pcm_s16le", ".mov", "stereo"),
    "PCM, 24 bits": ("pcm_s24le", ".mov", "stereo"),
    "PCM, 24 bits, in MXF": ("pcm_s24le", ".mxf", "mono"),
    "PCM, 8 bits": ("pcm_u8", ".avi", "mono"),
    "PCM, 16 bits, in AVI": ("pcm_s16le", ".avi", "stereo"),
    "ADPCM": ("adpcm_ms", ".avi", "stereo"),
    "WMA": ("wmav2", ".asf", "stereo"),
}
_VIDEO = {".webm": "libvpx", ".mxf": "mpeg2video", ".avi": "mpeg4", ".asf": "mpeg4"}


ONLY_FFMPEG = ("dca", "libvorbis", "truehd")


def draw(path: Path, codec: str, layout: str) -> Path:
    """A second of 25 frames, and of silence that becomes a tone in the middle."""
    if codec in ONLY_FFMPEG:
        program = shutil.which("ffmpeg")
        if program is None:
            pytest.skip("no ffmpeg to draw it with")
        drawn = draw(path.with_name("drawn.mkv"), "pcm_s16le", layout)
        how = ["-c:v", "libvpx" if path.suffix == ".webm" else "copy", "-c:a", codec, "-strict", "-2"]
        subprocess.run([program, "-v", "error", "-i", drawn, *how, path], check=True, timeout=60)
        return path
    with av.open(str(path), "w") as container:
        video = container.add_stream(_VIDEO.get(path.suffix, "libx264"), rate=25)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        sound = container.add_stream(codec, rate=RATE)
        sound.codec_context.layout = layout
        sound.codec_context.bit_rate = 192_000 * av.AudioLayout(layout).nb_channels // 2
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(red_frame(number), "rgb24").reformat(format="yuv420p")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        channels = av.AudioLayout(layout).nb_channels
        times = np.arange(int(SECONDS * RATE)) / RATE
        wave = (8000 * np.sin(2 * np.pi * 440 * times) * (times >= BURST)).astype(np.int16)
        for begin in range(0, len(wave), 960):
            part = np.repeat(wave[begin : begin + 960], channels)[None]
            frame = av.AudioFrame.from_ndarray(part, "s16", layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@dataclass
class Heard:
    """What a decoder gives: codec, channels, length and begin of the tone, in seconds, and its loudness."""

    codec: str
    layout: str
    seconds: float
    burst: float
    loudness: float


def hear(path: Path) -> Heard:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", "mono", RATE)
        first: float | None = None
        parts = []
        for frame in container.decode(stream):
            first = float(frame.pts * frame.time_base) if first is None else first
            layout = frame.layout.name
            if not is_known(frame.layout):
                frame = with_layout(frame)
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        wave = np.concatenate(parts)
        assert first is not None
        video = container.streams.video[0]
        begin = first - float((video.start_time or 0) * video.time_base)
        loud = np.flatnonzero(np.abs(wave) > 0.05)
        return Heard(
            stream.codec_context.codec.canonical_name,
            layout,
            begin + len(wave) / RATE,
            begin + loud[0] / RATE,
            float(np.abs(wave[loud[0] : loud[-1]]).max()),
        )


def convert(source: Path, folder: Path, kind: str) -> tuple[Path, list[str]]:
    with Clip(source) as clip:
        recipe = recipe_for(kind, 1, clip.info.size, False)
        writer = VideoWriter(folder / f"out{recipe.suffix}", recipe, clip.info, clip.sound_streams, False, {})
        for frame in clip.frames():
            writer.write(frame, writer.prepare(frame, frame.photo.pixels[:, :, 0].copy()))
        writer.finish(clip.sound_after)
    return folder / f"out{recipe.suffix}", writer.notes


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", SOURCES)
def test_sound_arrives(tmp_path: Path, name: str, kind: str) -> None:
    codec, suffix, layout = SOURCES[name]
    source = draw(tmp_path / f"in{suffix}", codec, layout)
    before = hear(source)
    result, notes = convert(source, tmp_path, kind)
    after = hear(result)
    container = recipe_for(kind, 1, SIZE, False).container
    assert after.codec in COPIED[container], "what is made is what players decode"
    is_copy = after.codec == before.codec
    assert any("becomes" in note for note in notes) is not is_copy
    assert after.burst == pytest.approx(before.burst, abs=0.025)
    assert after.seconds >= before.seconds - 0.045
    assert after.loudness == pytest.approx(before.loudness, rel=0.25)
    if not is_copy:
        wanted = "5.1" if "5.1" in layout else layout
        assert after.layout == wanted
    assert cell(after.codec, is_copy) == table()[name][TARGETS[kind]], "the table of docs/video.md"


def cell(codec: str, is_copy: bool) -> str:
    return (
        "copied"
        if is_copy
        else {"pcm_s16le": "PCM, 16 bits", "pcm_s24le": "PCM, 24 bits"}.get(
            codec, {"aac": "AAC", "opus": "Opus", "flac": "FLAC"}.get(codec, codec)
        )
    )


def table() -> dict[str, dict[str, str]]:
    """The table of sound in the docs: by source, then by result."""
    text = DOCS.read_text(encoding="utf-8").split("<!-- table: sound -->")[1].split("<!-- end -->")[0]
    head, _, *rows = [
        [part.strip() for part in line.strip("| ").split("|")] for line in text.strip().splitlines()
    ]
    return {row[0].split(" (")[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
