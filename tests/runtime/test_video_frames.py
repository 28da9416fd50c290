"""Clips whose packets are not their frames: begun in the middle, trimmed, joined, without timestamps."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stylematte.errors import InputError
from stylematte.media.span import Span
from stylematte.media.video import Clip
from tests.clips import SIZE, draw_sound

STEP = 4  # of grey, a frame


def draw(
    path: Path,
    frames: int = 60,
    *,
    first: int = 0,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    shift: int = 0,
    sound_seconds: float = 0.0,
) -> Path:
    """A clip at 25 frames a second whose grey says the frame's number."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixel_format
        sound = (
            container.add_stream("mp2" if path.suffix == ".ts" else "aac", 48000) if sound_seconds else None
        )
        if sound is not None:
            sound.codec_context.layout = "stereo"
        for number in range(first, first + frames):
            grey = np.full((*SIZE, 3), STEP * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = number - first + shift, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            draw_sound(container, sound, sound_seconds)
    return path


REORDERED = {"crf": "1", "bf": "3", "g": "12", "preset": "ultrafast"}


def seen(path: Path, span: Span = Span()) -> list[tuple[int, Fraction, int]]:  # noqa: B008 - frozen
    """Number, time and what the picture says, of each frame."""
    with Clip(path, span) as clip:
        unit = clip.info.time_base
        return [(f.number, f.pts * unit, round(f.photo.pixels[0, 0, 0] / STEP)) for f in clip.frames()]


def assert_even(times: Sequence[Fraction], begin: Fraction = Fraction(0)) -> None:
    slack = Fraction(1, 2000)  # Matroska counts in milliseconds
    for index, time in enumerate(times):
        assert abs(time - begin - Fraction(index, 25)) <= slack


def cut_packets(path: Path, source: Path, leave_out: int) -> Path:
    """Copy a clip without its first packets, as a recording begun in the middle."""
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        for number, packet in enumerate(read.demux(stream)):
            if packet.dts is not None and number >= leave_out:
                packet.stream = copy
                written.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_numbers_are_those_of_frames_that_decode(tmp_path: Path, suffix: str) -> None:
    whole = draw(tmp_path / "whole.ts", options=REORDERED)
    path = cut_packets(tmp_path / f"midgop{suffix}", whole, 30)  # the next key frame is the 37th
    everything = seen(path)
    pictures = [picture for _, _, picture in everything]
    assert pictures == list(range(pictures[0], 60))
    assert 30 <= pictures[0] <= 37
    assert [number for number, _, _ in everything] == list(range(1, len(pictures) + 1))
    part = seen(path, Span(6, 12))
    assert [(number, picture) for number, _, picture in part] == [
        (number, pictures[0] + number - 1) for number in range(6, 13)
    ]
    assert_even([time for _, time, _ in part])
    by_time = seen(path, Span(Fraction(5, 25), Fraction(12, 25)))
    assert [picture for _, _, picture in by_time] == [picture for _, _, picture in part]


def test_an_open_group_at_the_beginning(tmp_path: Path) -> None:
    # Leading pictures of the first key frame need frames that were cut away.
    options = {
        "crf": "1",
        "bf": "3",
        "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:b-adapt=0",
    }
    whole = draw(tmp_path / "whole.mkv", options=options)
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
        assert min(p.pts for p in packets[keys[2] :]) < packets[keys[2]].pts, "not an open group"
    path = cut_packets(tmp_path / "cut.mkv", whole, keys[2])
    pictures = [picture for _, _, picture in seen(path)]
    assert pictures == list(range(pictures[0], 60))
    assert [picture for _, _, picture in seen(path, Span(6, 12))] == pictures[5:12]


@pytest.mark.parametrize("shift", [0, 10 * 3600 * 25])
def test_a_transport_stream_begins_at_nought(tmp_path: Path, shift: int) -> None:
    path = draw(tmp_path / "clip.ts", 25, options=REORDERED, shift=shift)
    assert_even([time for _, time, _ in seen(path)])


def test_joined_streams_have_one_time(tmp_path: Path) -> None:
    first = draw(tmp_path / "a.ts", 25, options=REORDERED, sound_seconds=1.0)
    second = draw(tmp_path / "b.ts", 25, first=25, options=REORDERED, sound_seconds=1.0)
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with Clip(path) as clip:
        unit = clip.info.time_base
        sound: list[Any] = []
        times, pictures = [], []
        for frame in clip.frames():
            times.append(frame.pts * unit)
            pictures.append(round(frame.photo.pixels[0, 0, 0] / STEP))
            sound += frame.sound
        sound += clip.sound_after
    assert pictures == list(range(50))
    assert_even(times)
    heard = [packet.pts * packet.time_base for packet in sound]
    assert heard == sorted(heard)
    assert 1.9 < heard[-1] < 2.05


def test_frames_without_times_of_their_own_come_one_after_the_other(tmp_path: Path) -> None:
    # AVI and bare streams say when to decode, not when to show.
    source = draw(tmp_path / "source.ts", options=REORDERED)
    for name in ("clip.avi", "clip.h264"):
        path = cut_packets(tmp_path / name, source, 0)
        found = seen(path)
        assert [picture for _, _, picture in found] == list(range(60)), name
        assert_even([time for _, time, _ in found])
        part = seen(path, Span(18, 31))
        assert [picture for _, _, picture in part] == list(range(17, 31))
        assert_even([time for _, time, _ in part])


def edit(path: Path, media_time: int, duration: int) -> None:
    """Rewrite the first edit list of an MP4, as a trim in QuickTime or Photos does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    assert data[at] == 0
    assert int.from_bytes(data[at + 4 : at + 8], "big") == 1
    data[at + 8 : at + 12] = duration.to_bytes(4, "big")
    data[at + 12 : at + 16] = media_time.to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize(("first", "frames"), [(0, 25), (20, 25), (24, 36)])
def test_a_trim_shows_what_it_leaves(tmp_path: Path, first: int, frames: int) -> None:
    path = draw(tmp_path / "clip.mp4", options=REORDERED)
    with av.open(str(path)) as container:
        unit = container.streams.video[0].time_base
        delay = next(p.pts - p.dts for p in container.demux(video=0) if p.size)
    assert unit is not None
    edit(path, delay + round(Fraction(first, 25) / unit), frames * 40)
    found = seen(path)
    assert [picture for _, _, picture in found] == list(range(first, first + frames))
    assert_even([time for _, time, _ in found])


def test_empty_chunks_are_pauses(tmp_path: Path) -> None:
    path = draw(tmp_path / "clip.avi", 10, codec="mjpeg", pixel_format="yuvj420p")
    # What a capture program writes for a frame that it missed: here instead of the third.
    data = bytearray(path.read_bytes())
    begin = data.index(b"movi")
    chunks = []
    at = begin + 4
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((at, size))
        at += 8 + size + size % 2
    assert len(chunks) == 10
    third, size = chunks[2]
    data[third + 4 : third + 8] = bytes(4)
    data[third + 8 : third + 12] = b"JUNK"
    data[third + 12 : third + 16] = (size - 8 + size % 2).to_bytes(4, "little")
    index = data.index(b"idx1") + 8
    data[index + 2 * 16 + 12 : index + 2 * 16 + 16] = bytes(4)
    path.write_bytes(data)
    found = seen(path)
    assert [picture for _, _, picture in found] == [0, 1, *range(3, 10)]
    assert [time * 25 for _, time, _ in found] == [0, 1, *range(3, 10)]
    assert [picture for _, _, picture in seen(path, Span(3, 4))] == [3, 4]


def test_the_largest_of_several_videos(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.ts"), "w") as container:
        streams = []
        for size in ((48, 64), SIZE):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            streams.append((stream, size))
        for stream, size in streams:
            for _ in range(3):
                grey = np.full((*size, 3), 100, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, "rgb24").reformat(format="yuv420p")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with Clip(tmp_path / "two.ts") as clip:
        assert clip.info.size == SIZE
        assert len(list(clip.frames())) == 3


def test_sound_up_to_the_last_frame_named_is_all_the_sound(tmp_path: Path) -> None:
    path = draw(tmp_path / "clip.mov", 25, options=REORDERED, sound_seconds=1.2)

    def heard(span: Span) -> list[int]:
        with Clip(path, span) as clip:
            sizes = [packet.size for frame in clip.frames() for packet in frame.sound]
            return sizes + [packet.size for packet in clip.sound_after]

    assert heard(Span(end=25)) == heard(Span())
    assert math.isclose(len(heard(Span(end=10))), 0.4 * 48000 / 1024, abs_tol=1.5)


def test_spans_beyond_the_end(tmp_path: Path) -> None:
    path = draw(tmp_path / "clip.mkv", 10)
    for span in (Span(start=11), Span(start=Fraction(1))):
        with pytest.raises(InputError, match="ends before --start: it has 10 frames"):
            Clip(path, span)
    with pytest.raises(InputError, match="no frames between"):
        list(Clip(path, Span(8, Fraction(1, 25))).frames())
