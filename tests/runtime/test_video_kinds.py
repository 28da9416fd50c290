"""Kinds of clips whose frames and times once came out wrong: what is shown is what a decoder gives."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from stylematte.errors import InputError, UsageError
from stylematte.media.span import Span, timecode_for
from stylematte.media.video import Clip
from tests.clips import SIZE, draw_sound

STEP = Fraction(1, 25)


def grey(number: int) -> av.VideoFrame:
    """A frame whose grey says its number: 4 codes a frame."""
    return av.VideoFrame.from_ndarray(np.full((*SIZE, 3), 4 * number, np.uint8), "rgb24")


def draw(
    path: Path,
    frames: int = 50,
    codec: str = "libx264",
    begin: int = 0,
    sound_seconds: float = 0.0,
    x264: str = "",
    first: int = 0,
) -> Path:
    """Frames with numbers, a key frame every twelve and three B-frames between."""
    with av.open(str(path), "w") as container:
        options = {"crf": "1", "bf": "3", "g": "12", "preset": "ultrafast", "x264-params": x264}
        stream = container.add_stream(codec, rate=25, options=options if codec == "libx264" else {"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        if codec == "mpeg4":
            stream.codec_context.bit_rate = 4_000_000
        sound = container.add_stream("aac", rate=48000) if sound_seconds else None
        if sound is not None:
            sound.codec_context.layout = "stereo"
        for number in range(frames):
            frame = grey(first + number).reformat(format="yuv420p")
            frame.pts, frame.time_base = begin + number, STEP
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            draw_sound(container, sound, sound_seconds)
    return path


def shown(path: Path, span: Span = Span()) -> list[tuple[int, Fraction, int]]:  # noqa: B008 - frozen
    """Number, time and what each frame shows."""
    with Clip(path, span) as clip:
        return [
            (f.number, f.pts * clip.info.time_base, round(int(f.photo.pixels[9, 9, 0]) / 4))
            for f in clip.frames()
        ]


def assert_even(found: list[tuple[int, Fraction, int]]) -> None:
    times = [time for _, time, _ in found]
    steps = {round(float(b - a), 3) for a, b in pairwise(times)}
    assert steps == {0.04}


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_clip_that_begins_between_key_frames(tmp_path: Path, suffix: str) -> None:
    whole = draw(tmp_path / "whole.ts", x264="open-gop=1" if suffix == ".mkv" else "")
    path = tmp_path / f"cut{suffix}"
    if suffix == ".ts":
        data = whole.read_bytes()
        path.write_bytes(data[len(data) * 3 // 10 // 188 * 188 :])
    else:  # from the second key frame on, with frames that need the one before
        with av.open(str(whole)) as source, av.open(str(path), "w") as cut:
            stream = cut.add_stream_from_template(source.streams.video[0])
            keys = 0
            for packet in source.demux(source.streams.video[0]):
                keys += packet.is_keyframe and packet.size > 0
                if keys >= 2 and packet.size:
                    packet.stream = stream
                    cut.mux(packet)
    found = shown(path)
    assert 20 < len(found) < 50
    first = found[0][2]
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    assert [grey for _, _, grey in found] == list(range(first, 50)), "all of it shows what it should"
    assert_even(found)
    if suffix == ".ts":
        assert found[0][1] == 0
    part = shown(path, Span(6, 12))
    assert [(number, grey) for number, _, grey in part] == [(n, first + n - 1) for n in range(6, 13)]
    assert part[0][1] == 0


def test_a_transport_stream_begins_at_zero(tmp_path: Path) -> None:
    path = draw(tmp_path / "late.ts", 25, begin=36000 * 25, sound_seconds=0)
    found = shown(path)
    assert [time for _, time, _ in found] == [k * STEP for k in range(25)]
    with Clip(path) as clip:
        assert clip.info.frames == 25


def test_joined_transport_streams_are_one_clip(tmp_path: Path) -> None:
    parts = [draw(tmp_path / f"{n}.ts", 25, sound_seconds=1.0, first=25 * n) for n in range(2)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with Clip(path) as clip:
        frames = list(clip.frames())
        times = [frame.pts * clip.info.time_base for frame in frames]
        packets = [packet for frame in frames for packet in frame.sound] + clip.sound_after
        sound = [packet.pts * packet.time_base for packet in packets]
        assert "start again" in "".join(clip.notes)
    assert times == [k * STEP for k in range(50)]
    assert [round(int(f.photo.pixels[9, 9, 0]) / 4) for f in frames] == list(range(50))
    assert 1.9 < sound[-1] < 2.05
    steps = [b - a for a, b in pairwise(sound)]
    assert max(steps) < 0.08
    assert min(steps) > -0.05, "the first part's sound is a little longer than its frames"


def test_avi_with_frames_out_of_order(tmp_path: Path) -> None:
    path = draw(tmp_path / "b.avi", 40, codec="mpeg4")
    found = shown(path)
    assert [grey for _, _, grey in found] == list(range(40))
    assert [time for _, time, _ in found] == [k * STEP for k in range(40)]
    assert [grey for _, _, grey in shown(path, Span(18, 31))] == list(range(17, 31))


def test_empty_chunks_of_avi_are_time_and_no_frames(tmp_path: Path) -> None:
    times = [0, 2, 3, 4, 7, 8]
    with av.open(str(tmp_path / "e.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p"
        for number, time in enumerate(times):
            frame = grey(number).reformat(format="yuvj420p")
            frame.pts, frame.time_base = time, STEP
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = shown(tmp_path / "e.avi")
    assert [(number, time) for number, time, _ in found] == [(n + 1, t * STEP) for n, t in enumerate(times)]


def test_a_trimmed_mp4_shows_what_its_edit_list_says(tmp_path: Path) -> None:
    path = draw(tmp_path / "trim.mp4", 50)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # version and flags, number of entries, then the first one's length
    assert int.from_bytes(data[at : at + 4], "big") == 2000
    data[at : at + 4] = (1000).to_bytes(4, "big")  # milliseconds
    path.write_bytes(data)
    assert [grey for _, _, grey in shown(path)] == list(range(25))
    with Clip(path) as clip:
        assert clip.info.frames == 25


@pytest.mark.parametrize(("size", "matrix"), [((536, 1280), 1), ((720, 480), 1), ((576, 720), 6)])
def test_colours_that_are_not_said_go_by_the_size(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    with Clip(tmp_path / "a.mkv") as clip:
        assert clip.info.colour.matrix == matrix


def test_the_best_of_two_videos_is_taken(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = []
        for size in ((32, 48), (96, 128)):
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
            streams.append(stream)
        streams[1].disposition = av.stream.Disposition.default
        streams[0].disposition = av.stream.Disposition(0)
        for stream in streams:
            for number in range(3):
                frame = av.VideoFrame.from_ndarray(np.zeros((stream.height, stream.width, 3), np.uint8))
                frame = frame.reformat(format="bgr0")
                frame.pts, frame.time_base = number, STEP
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with Clip(tmp_path / "two.mkv") as clip:
        assert clip.info.size == (96, 128)
        assert clip.notes == ["not kept: 1 x video"]


def test_sound_is_kept_to_its_end_where_the_last_frame_is_named(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mp4", 25, sound_seconds=1.2)
    lengths = []
    for span in (Span(), Span(end=25), Span(end=Fraction(99))):
        with Clip(path, span) as clip:
            packets = [packet for frame in clip.frames() for packet in frame.sound] + clip.sound_after
            lengths.append(sum(packet.size for packet in packets))
    assert lengths[0] == lengths[1] == lengths[2]
    with Clip(path, Span(end=10)) as clip:
        packets = [packet for frame in clip.frames() for packet in frame.sound] + clip.sound_after
    assert 0.35 < max(packet.pts * packet.time_base for packet in packets) < 0.4


def test_spans_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="--end 3f lies before --start 5f"):
        Span(5, 3)
    with pytest.raises(UsageError, match=r"--end 2 lies before --start 2\.5"):
        Span(Fraction(5, 2), Fraction(2))
    with pytest.raises(UsageError, match="--end 0"):
        Span(end=Fraction(0))
    with pytest.raises(UsageError, match="--end 0"):
        Span(end=0)
    assert Span(5, 5).count(None, 4, Fraction(25)) == 1


def test_time_codes_of_each_second_frame() -> None:
    ntsc = Fraction(30000, 1001)
    assert timecode_for("01:00:00;10", 0, ntsc, 2) == "01:00:00:05"
    assert timecode_for("00:00:59:20", 5, Fraction(25), 2) == "00:01:00:00"
    assert timecode_for("00:00:00:21", 0, Fraction(25), 2) == "00:00:00:10"
    assert timecode_for("00:00:59;29", 1, ntsc, 1) == "00:01:00;02"


def test_a_damaged_background_does_not_speak_of_the_clip(tmp_path: Path) -> None:
    whole = draw(tmp_path / "a.mkv", 50).read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: len(whole) // 2])
    with Clip(tmp_path / "b.mkv", is_behind=True) as clip, pytest.raises(InputError) as caught:
        list(clip.frames())
    assert "--end" not in caught.value.hint
    assert "background" in caught.value.hint
