"""`stylematte matte` on kinds of clips and of trouble: each is done as players show it, or named alone."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stylematte.media import video_writer
from stylematte_cli.app import main
from tests.clips import SIZE, draw_clip, draw_sound, probe, red_frame
from tests.images import load, save

Matte = Callable[..., int]


@pytest.fixture
def matte(red_model: Path) -> Matte:
    """Runs `stylematte matte` with the red detector, in this process."""

    def run(*arguments: object) -> int:
        words = [str(argument) for argument in arguments]
        return main(["matte", *words, "--weights", str(red_model), "--device", "cpu", "--quiet"])

    return run


@pytest.mark.parametrize(
    "error", [ValueError("odd"), av.error.InvalidDataError(1, "odd"), RuntimeError("odd")]
)
def test_whatever_fails_in_a_clip_fails_that_clip(
    tmp_path: Path,
    matte: Matte,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    for name in "abc":
        draw_clip(tmp_path / "in" / f"{name}.mp4", frames=2)
    write = video_writer.VideoWriter.write

    def fail(self: video_writer.VideoWriter, *rest: object) -> None:
        if self._path.name == "b.mp4":
            raise error
        write(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(video_writer.VideoWriter, "write", fail)
    assert matte(tmp_path / "in", "--out", tmp_path / "out", "--json") == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [Path(failure["input"]).name for failure in report["failed"]] == ["b.mp4"]
    (line,) = captured.err.splitlines()
    assert "b.mp4: cannot be processed: " in line
    assert "odd" in line
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.mp4", "c.mp4", "manifest.jsonl"]


def test_damaged_sound_is_named_and_the_picture_done(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=25, sound_seconds=1.0)
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    for packet in packets[10:14]:
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    clip.write_bytes(data)
    assert matte(clip, "--out", tmp_path / "out", "--format", "webm") == 0
    assert "damaged packets of sound are silent" in capsys.readouterr().err
    found = probe(tmp_path / "out" / "clip.webm")
    assert len(found.times) == 25
    assert found.sound[0][-1][0] > 0.9


def test_chapters_titles_and_flags_are_kept(tmp_path: Path, matte: Matte) -> None:
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        sounds = [container.add_stream("aac", rate=48000) for _ in range(2)]
        for sound, language in zip(sounds, ("deu", "fra"), strict=True):
            sound.codec_context.layout = "stereo"
            sound.metadata["language"] = language
        sounds[0].disposition = av.stream.Disposition(0)
        sounds[1].disposition = av.stream.Disposition.default
        container.metadata["title"] = "A film"
        unit = Fraction(1, 1000)
        chapters = [(0, 400, "One"), (400, 1000, "Two")]
        container.set_chapters(
            [
                {"id": n, "start": begin, "end": end, "time_base": unit, "metadata": {"title": title}}
                for n, (begin, end, title) in enumerate(chapters)
            ]
        )
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(red_frame(number), "rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for sound in sounds:
            draw_sound(container, sound, 1.0)
    for kind, suffix in {"mp4": ".mp4", "prores": ".mov", "ffv1": ".mkv", "webm": ".webm"}.items():
        assert matte(path, "--out", tmp_path / kind, "--format", kind, "--start", "0.2") == 0
        with av.open(str(tmp_path / kind / f"film{suffix}")) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
            assert tags["title"] == "A film"
            found = [
                (
                    float(chapter["start"] * chapter["time_base"]),
                    {key.lower(): value for key, value in chapter["metadata"].items()}["title"],
                )
                for chapter in container.chapters()
            ]
            assert found == [(0.0, "One"), (0.2, "Two")]
            audio = container.streams.audio
            languages = ["ger", "fra"] if kind == "prores" else ["deu", "fra"]
            assert [stream.metadata["language"] for stream in audio] == languages
            is_default = [bool(stream.disposition & av.stream.Disposition.default) for stream in audio]
            assert is_default == [False, True]


def test_drop_frame_time_code_with_every(tmp_path: Path, matte: Matte) -> None:
    clip = draw_clip(
        tmp_path / "clip.mov", frames=12, time_base=Fraction(1001, 30000), timecode="01:00:00;10"
    )
    assert matte(clip, "--out", tmp_path / "out", "--format", "prores", "--every", 2) == 0
    assert probe(tmp_path / "out" / "clip.mov").timecode == "01:00:00:05"


def test_a_background_of_oblong_pixels_is_not_squashed(tmp_path: Path, matte: Matte) -> None:
    clip = draw_clip(tmp_path / "clip.mkv", frames=1, codec="ffv1", pixel_format="bgr0")
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:  # shown as 128 x 96
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        pixels = np.zeros((96, 64, 3), np.uint8)
        pixels[:, 48:] = (0, 0, 255)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    arguments = ("--background", tmp_path / "wide.mp4", "--format", "png")
    assert matte(clip, "--out", tmp_path / "out", *arguments) == 0
    found = load(tmp_path / "out" / "clip" / "clip.0001.png")[90, :, 2]
    assert np.median(found[:92]) < 20
    assert np.median(found[100:]) > 230


def test_pixel_shapes_pass_through_exr(tmp_path: Path, matte: Matte) -> None:
    pytest.importorskip("OpenEXR")
    clip = draw_clip(tmp_path / "clip.mp4", frames=1, pixel_shape=Fraction(2))
    assert matte(clip, "--out", tmp_path / "a", "--format", "exr") == 0
    assert matte(tmp_path / "a" / "clip" / "clip.####.exr", "--out", tmp_path / "b") == 0
    assert probe(tmp_path / "b" / "clip.mp4").pixel_shape == 2


def test_five_digits_stay_five(tmp_path: Path, matte: Matte) -> None:
    for number in (7, 8):
        save(tmp_path / "in" / f"shot.{number:05}.png", red_frame(number))
    assert matte(tmp_path / "in" / "shot.#####.png", "--out", tmp_path / "out", "--format", "png") == 0
    assert sorted(p.name for p in (tmp_path / "out" / "shot").iterdir()) == [
        "shot.00007.png",
        "shot.00008.png",
    ]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
def test_animated_pictures_are_clips(tmp_path: Path, matte: Matte, suffix: str) -> None:
    images = [Image.fromarray(red_frame(number)) for number in range(4)]
    path = tmp_path / "in" / f"moving{suffix}"
    path.parent.mkdir()
    images[0].save(path, save_all=True, append_images=images[1:], duration=[40, 80, 40, 120], loop=0)
    save(tmp_path / "in" / f"still{suffix if suffix != '.gif' else '.png'}", red_frame(0))
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "manifest.jsonl",
        "moving.mp4",
        "still.png",
    ]
    found = probe(tmp_path / "out" / "moving.mp4")
    assert found.times == [Fraction(ms, 1000) for ms in (0, 40, 120, 160)]
    assert found.seconds == Fraction(280, 1000)
    for number, frame in enumerate(found.frames):
        red = red_frame(number)[:, :, 1] == 0
        assert frame[:, :, 0][red].mean() > 0.9 * 65535
        assert frame[:, :, 0][~red].mean() < 0.1 * 65535


def test_transparent_animations_keep_their_alpha(tmp_path: Path, matte: Matte) -> None:
    images = []
    for number in range(2):
        pixels = np.dstack([red_frame(number), np.full(SIZE, 255, np.uint8)])
        pixels[:30, :, 3] = 0
        images.append(Image.fromarray(pixels))
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=40, lossless=True)
    assert matte(tmp_path / "a.webp", "--out", tmp_path / "out", "--format", "png") == 0
    alpha = load(tmp_path / "out" / "a" / "a.0002.png")
    assert alpha[:30].max() == 0
    assert alpha[36:42, 40:60].min() > 240


def test_clips_are_known_by_what_they_hold(tmp_path: Path, matte: Matte) -> None:
    folder = tmp_path / "in"
    draw_clip(folder / "a.mkv", frames=2).rename(folder / "none")
    draw_clip(folder / "b.mp4", frames=2).rename(folder / "photo.jpg")
    draw_clip(folder / "disc.vob", frames=2, codec="mpeg2video")
    save(folder / "d.png", red_frame(0)).rename(folder / "still.mp4")
    (folder / "notes").write_text("nothing to see")
    assert matte(folder, "--out", tmp_path / "out") == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["disc.mp4", "manifest.jsonl", "none.mp4", "photo.mp4", "still.png"]


def test_a_preview_is_small_and_beside_the_result(tmp_path: Path, matte: Matte) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=10, sound_seconds=0.4)
    assert matte(clip, "--out", tmp_path / "out", "--preview") == 0
    found = probe(tmp_path / "out" / "clip.preview.mp4")
    assert [frame.shape[:2] for frame in found.frames] == 3 * [(SIZE[0] // 4, SIZE[1] // 4)]
    assert found.times == [Fraction(k, 25) for k in (0, 4, 8)]
    red = red_frame(4)[2::4, 2::4, 1] == 0
    assert found.frames[1][:, :, 0][red].mean() > 0.85 * 65535
    assert matte(clip, "--out", tmp_path / "out") == 0
    assert len(probe(tmp_path / "out" / "clip.mp4").times) == 10, "and takes nothing's place"
    assert matte(clip, "--out", tmp_path / "out", "--preview", "--format", "png") == 0
    assert len(list((tmp_path / "out" / "clip.preview").iterdir())) == 3


def test_a_dry_run_says_what_a_clip_will_cost(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=100, sound_seconds=4.0)
    common = (clip, "--out", tmp_path / "out", "--format", "ffv1")
    assert matte(*common, "--dry-run", "--json") == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert (item["frames"], item["seconds"], item["state"]) == (100, 4.0, "new")
    assert item["work_seconds"] > 0
    assert not (tmp_path / "out").exists()
    assert matte(*common, "--dry-run") == 0
    assert "  100 frames, 0:00:04 long, about " in capsys.readouterr().out
    assert matte(*common) == 0
    size = (tmp_path / "out" / "clip.mkv").stat().st_size
    assert item["bytes"] == pytest.approx(size, rel=0.5), "about: the first frames are not like all"


def test_no_frames_in_the_span_is_said(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=10)
    assert matte(clip, "--out", tmp_path / "out", "--start", "5f", "--end", "3f") == 2
    assert "lies before --start" in capsys.readouterr().err
    assert matte(clip, "--out", tmp_path / "out", "--start", "8f", "--end", "0.1") == 1
    assert "no frames between --start and --end" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]
