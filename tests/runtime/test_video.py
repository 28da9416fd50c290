"""Reading clips: which frames, where from, and what is said about files that are not whole."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stylematte.errors import InputError
from stylematte.media.frame_sequence import PictureSequence
from stylematte.media.pattern import find_frames, is_pattern, stem_of
from stylematte.media.span import Span
from stylematte.media.video import Clip
from tests.clips import SIZE, UNEVEN, draw_clip, draw_sound, red_frame
from tests.images import save


def draw_reordered(path: Path, frames: int = 60) -> Path:
    """A clip with B-frames and a key frame every twelve; grey says the number: 4 a frame."""
    with av.open(str(path), "w") as container:
        options = {"crf": "1", "bf": "3", "g": "12", "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), 4 * number, np.uint8), "rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def numbers(path: Path, span: Span) -> Sequence[tuple[int, int]]:
    """Number and pts of the frames of a span; what they show must be what they are called."""
    with Clip(path, span) as clip:
        found = []
        for frame in clip.frames():
            assert abs(int(frame.photo.pixels[0, 0, 0]) - 4 * (frame.number - 1)) <= 2
            found.append((frame.number, frame.pts))
        assert clip.info.frames == len(found)
        assert clip.info.first_number == found[0][0]
        return found


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("first", [1, 2, 12, 13, 14, 31, 60])
def test_a_start_between_key_frames_is_exact(tmp_path: Path, suffix: str, first: int) -> None:
    path = draw_reordered(tmp_path / f"clip{suffix}")
    for start in (first, Fraction(first - 1, 25)):
        found = numbers(path, Span(start=start, end=None))
        assert [number for number, _ in found] == list(range(first, 61))
        if first > 1:
            assert found[0][1] == 0, "times begin with the span"


def test_ends(tmp_path: Path) -> None:
    path = draw_reordered(tmp_path / "clip.mp4", 20)
    assert [n for n, _ in numbers(path, Span(end=7))] == list(range(1, 8)), "a frame named is done"
    assert [n for n, _ in numbers(path, Span(end=Fraction(7, 25)))] == list(range(1, 8)), "a time is not"
    assert [n for n, _ in numbers(path, Span(3, 12, 4))] == [3, 7, 11]
    assert [n for n, _ in numbers(path, Span(end=Fraction(99)))] == list(range(1, 21))
    with pytest.raises(InputError, match="it has 20 frames"):
        numbers(path, Span(start=21))
    with pytest.raises(InputError, match="ends before --start"):
        numbers(path, Span(start=Fraction(1)))


def test_times_and_facts(tmp_path: Path) -> None:
    path = draw_clip(
        tmp_path / "clip.mov",
        time_base=Fraction(1, 30000),
        times=[3000 + time for time in UNEVEN],
        codec="prores_ks",
        pixel_format="yuv422p10le",
        tags=(1, 9, 18, 9),
        timecode="01:00:00:00",
    )
    with Clip(path) as clip:
        frames = list(clip.frames())
        info = clip.info
    assert [frame.pts for frame in frames] == [3000 + time for time in UNEVEN], "a late start stays late"
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert info.time_base == Fraction(1, 30000)
    assert (info.size, info.is_deep, info.frames, info.timecode) == (SIZE, True, 6, "01:00:00:00")
    assert (info.colour.primaries, info.colour.transfer, info.colour.matrix) == (9, 18, 9)
    assert all(frame.photo.pixels.dtype == np.uint16 for frame in frames)


def test_no_sound_is_lost(tmp_path: Path) -> None:
    path = draw_clip(tmp_path / "clip.mkv", frames=25, sound_seconds=2.0, sound_codec="pcm_s16le")
    with Clip(path) as clip:
        before = [sum(packet.size for packet in frame.sound) for frame in clip.frames()]
        after = sum(packet.size for packet in clip.sound_after)
    assert sum(before) + after == 2 * 48000 * 4


def test_straight_alpha_of_a_clip(tmp_path: Path, rng: np.random.Generator) -> None:
    rgba = rng.integers(0, 256, (*SIZE, 4)).astype(np.uint8)
    rgba = np.kron(rgba[::16, ::16], np.ones((16, 16, 1), np.uint8))
    for name, codec, pixel_format, slack in (
        ("a.mov", "prores_ks", "yuva444p10le", 3),
        ("b.mkv", "ffv1", "bgra", 0),
        ("c.webm", "libvpx-vp9", "yuva420p", 6),
    ):
        with av.open(str(tmp_path / name), "w") as container:
            options = {"crf": "4", "auto-alt-ref": "0"} if name == "c.webm" else {}
            stream = container.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = *SIZE, pixel_format
            frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=pixel_format, threads=1)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with Clip(tmp_path / name) as clip:
            (found,) = clip.frames()
        assert found.photo.alpha is not None, name
        white = np.iinfo(found.photo.alpha.dtype).max
        middle = slice(8, None, 16)
        difference = np.abs(found.photo.alpha / white * 255 - rgba[:, :, 3])[middle, middle]
        assert difference.max() <= slack, name


def test_a_file_that_ends_before_its_header_says(tmp_path: Path) -> None:
    whole = draw_clip(tmp_path / "whole.mkv", frames=50, codec="ffv1", pixel_format="yuv444p").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    with Clip(path) as clip, pytest.raises(InputError, match=r"ends at 0\.\d+ s of 2\.00 s") as caught:
        list(clip.frames())
    last = int(caught.value.hint.split("--end ")[1].split("f")[0])
    assert 15 <= last <= 35
    with Clip(path, Span(end=last)) as clip:
        assert len(list(clip.frames())) == last, "what the hint says works"


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=48000)
        sound.codec_context.layout = "stereo"
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = *SIZE, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(red_frame(0), "rgb24").reformat(format="yuvj420p")
        container.mux(cover.encode(frame))
        container.mux(cover.encode(None))
        draw_sound(container, sound, 0.2)
    with pytest.raises(InputError, match="no video"):
        Clip(tmp_path / "song.mp4")


def test_patterns(tmp_path: Path) -> None:
    for name in ("a.0099.png", "a.0100.png", "a.12345.png", "a.7.png", "b.0001.png", "a.0100.jpg"):
        save(tmp_path / name, red_frame(0))
    found = find_frames(tmp_path / "a.####.png")
    assert [number for number, _ in found] == [99, 100, 12345], "at least four digits"
    assert [number for number, _ in find_frames(tmp_path / "a.%d.png")] == [7, 99, 100, 12345]
    assert not is_pattern(Path("a.0099.png"))
    assert stem_of(Path("shots/sh010_v2.####.exr")) == "sh010_v2"
    assert stem_of(Path("shots/####.exr")) == "shots"
    with pytest.raises(InputError, match="no such frames"):
        find_frames(tmp_path / "c.####.png")
    save(tmp_path / "a.099.png", red_frame(0))
    with pytest.raises(InputError, match="two frames with the same number"):
        find_frames(tmp_path / "a.#.png")


def test_spans_of_sequences_go_by_the_files_numbers(tmp_path: Path) -> None:
    for number in range(1001, 1011):
        save(tmp_path / f"a.{number}.png", red_frame(number - 1001))

    def read(span: Span) -> list[tuple[int, int]]:
        with PictureSequence(tmp_path / "a.####.png", Fraction(25), span) as sequence:
            assert sequence.info.frames is not None
            return [(frame.number, frame.pts) for frame in sequence.frames()]

    assert read(Span(1003, 1008, 2)) == [(1003, 0), (1005, 2), (1007, 4)]
    assert read(Span(Fraction(2, 25), Fraction(5, 25))) == [(1003, 0), (1004, 1), (1005, 2)]
    with pytest.raises(InputError, match="no frames between"):
        read(Span(start=1011))
    save(tmp_path / "a.1005.png", red_frame(0, (40, 50)))
    with pytest.raises(InputError, match=r"a\.1005\.png: \(40, 50\)"):
        read(Span())
