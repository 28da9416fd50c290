"""`stylematte matte` on clips: what comes out has the frames, times, sound and colours of the source."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stylematte_cli.app import main
from tests.clips import SIZE, UNEVEN, draw_clip, probe, red_frame
from tests.images import load, save

Matte = Callable[..., int]

MILLISECOND = Fraction(1, 1000)
SUFFIXES = {"prores": ".mov", "webm": ".webm", "mp4": ".mp4", "hevc": ".mp4", "ffv1": ".mkv"}


@pytest.fixture
def matte(red_model: Path) -> Matte:
    """Runs `stylematte matte` with the red detector, in this process."""

    def run(*arguments: object) -> int:
        words = [str(argument) for argument in arguments]
        return main(["matte", *words, "--weights", str(red_model), "--device", "cpu", "--quiet"])

    return run


def assert_is_red_alpha(alpha: np.ndarray, number: int, white: int = 65535) -> None:
    """White where frame `number` is red, black elsewhere, not compared near the outline."""
    truth = (red_frame(number)[:, :, 1] == 0).astype(np.uint8)
    kernel = np.ones((9, 9), np.uint8)
    assert alpha[cv2.erode(truth, kernel) == 1].min() > 0.97 * white
    assert alpha[cv2.dilate(truth, kernel) == 0].max() < 0.03 * white


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("output", ["alpha", "composite"])
def test_uneven_times_sound_tags_and_time_code_are_kept(
    tmp_path: Path, matte: Matte, kind: str, output: str
) -> None:
    is_webm = kind == "webm"
    clip = draw_clip(
        tmp_path / ("clip.mkv" if is_webm else "clip.mov"),
        time_base=MILLISECOND if is_webm else Fraction(1, 30000),
        times=[33, 66, 150, 166, 200, 400] if is_webm else UNEVEN,
        sound_seconds=0.8,  # longer than the frames are shown
        sound_codec="libopus" if is_webm else "aac",
        timecode="01:02:03:04",
        pixel_shape=Fraction(4, 3),
    )
    extra = ["--output", "composite", "--background", "lime"] if output == "composite" else []
    assert matte(clip, "--out", tmp_path / "out", "--format", kind, *extra) == 0
    before, after = probe(clip), probe(tmp_path / "out" / f"clip{SUFFIXES[kind]}")
    assert len(after.times) == len(before.times)
    slack = MILLISECOND / 2 if kind in ("webm", "ffv1") else 0  # Matroska counts in milliseconds
    assert all(abs(a - b) <= slack for a, b in zip(after.times, before.times, strict=True))
    assert [[data for _, data in stream] for stream in after.sound] == [
        [data for _, data in stream] for stream in before.sound
    ]
    for ours, theirs in zip(after.sound[0], before.sound[0], strict=True):
        assert abs(ours[0] - theirs[0]) <= MILLISECOND
    assert after.timecode == "01:02:03:04"
    if kind not in ("webm", "ffv1"):  # Matroska gets none from PyAV, and the tool says so
        assert after.pixel_shape == Fraction(4, 3)
        assert after.seconds == before.seconds
    assert after.rotations == {0}
    if kind == "ffv1":  # whose grey and RGB have no range and no matrix of Y'CbCr
        assert after.tags[1:3] == (1, 1)
    else:
        assert after.tags == (1, 1, 1, 1)
    if output == "alpha":
        for number, frame in enumerate(after.frames):
            assert_is_red_alpha(frame[:, :, 0], number)
    else:
        inside, outside = after.frames[0][30, 40] / 257, after.frames[0][90, 120] / 257
        assert np.abs(inside - (255, 0, 0)).max() <= 12
        assert np.abs(outside - (0, 255, 0)).max() <= 12


@pytest.mark.parametrize(("kind", "bits"), [("prores", 10), ("webm", 8), ("ffv1", 8)])
def test_cutouts_are_straight_and_their_alpha_is_linear(
    tmp_path: Path, matte: Matte, kind: str, bits: int
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4")
    assert matte(clip, "--out", tmp_path / "out", "--output", "cutout", "--format", kind) == 0
    common = ("--format", "tiff", "--bit-depth", 16, "--output", "cutout")
    assert matte(clip, "--out", tmp_path / "truth", *common) == 0
    found = probe(tmp_path / "out" / f"clip{SUFFIXES[kind]}")
    assert found.comment == "stylematte cutout, straight colours, linear alpha"
    step = 65535 / (2**bits - 1)
    for number, frame in enumerate(found.frames):
        truth = load(tmp_path / "truth" / "clip" / f"clip.{number + 1:04}.tif")[:, :, 3].astype(int)
        difference = np.abs(frame[:, :, 3].astype(int) - truth)
        if kind == "webm":  # which is lossy, alpha too
            assert difference.mean() <= 2 * step
        else:
            assert difference.max() <= 1.01 * step
        colours = frame[:, :, :3][truth > 6000] / 257
        assert np.abs(np.median(colours, axis=0) - (255, 0, 0)).max() <= 4
        # Multiplied by an alpha below 0.69 red would be 175 at most.
        soft = frame[:, :, 0][(truth > 20000) & (truth < 45000)] / 257
        assert soft.size > 10
        assert np.median(soft) > 190


def test_premultiplied_on_request(tmp_path: Path, matte: Matte) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=1)
    common = (clip, "--output", "cutout", "--format", "ffv1", "--bit-depth", 16)
    assert matte(*common, "--out", tmp_path / "straight") == 0
    assert matte(*common, "--out", tmp_path / "pre", "--alpha", "premultiplied") == 0
    straight = probe(tmp_path / "straight" / "clip.mkv").frames[0].astype(float)
    found = probe(tmp_path / "pre" / "clip.mkv")
    assert found.comment == "stylematte cutout, premultiplied colours, linear alpha"
    expected = straight[:, :, :3] * straight[:, :, 3:] / 65535
    assert np.abs(found.frames[0][:, :, :3] - expected).max() <= 1
    assert np.array_equal(found.frames[0][:, :, 3], straight[:, :, 3])
    (line,) = (tmp_path / "pre" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["settings"]["colours"] == "premultiplied"
    assert json.loads(line)["frames"] == 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("kind", ["prores", "mp4", "ffv1"])
def test_a_turned_clip_comes_out_upright(tmp_path: Path, matte: Matte, degrees: int, kind: str) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=2, rotation=degrees, pixel_shape=Fraction(4, 3))
    assert probe(clip).rotations == {{270: 90}.get(degrees, -degrees)}, "counter-clockwise, says PyAV"
    assert matte(clip, "--out", tmp_path / "out", "--format", kind) == 0
    found = probe(tmp_path / "out" / f"clip{SUFFIXES[kind]}")
    assert found.rotations == {0}
    upright = [np.rot90(red_frame(number), -degrees // 90) for number in range(2)]
    assert found.frames[0].shape[:2] == upright[0].shape[:2]
    if kind != "ffv1":
        assert found.pixel_shape == (Fraction(4, 3) if degrees == 180 else Fraction(3, 4))
    for frame, image in zip(found.frames, upright, strict=True):
        red = cv2.erode((image[:, :, 1] == 0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 1
        assert frame[:, :, 0][red].min() > 0.97 * 65535
        assert np.mean(frame[:, :, 0] > 32768) == pytest.approx(np.mean(image[:, :, 1] == 0), rel=0.1)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_odd_sizes_and_a_single_frame(tmp_path: Path, matte: Matte, kind: str) -> None:
    clip = draw_clip(tmp_path / "clip.mkv", frames=1, size=(97, 127), codec="ffv1", pixel_format="yuv444p")
    assert matte(clip, "--out", tmp_path / "out", "--format", kind) == 0
    found = probe(tmp_path / "out" / f"clip{SUFFIXES[kind]}")
    assert [frame.shape for frame in found.frames] == [(97, 127, 3)]
    assert found.times == [0]
    assert found.sound == []


@pytest.mark.parametrize("pixel_format", ["yuv422p10le", "yuv420p12le"])
def test_ten_and_twelve_bits_stay_deep(tmp_path: Path, matte: Matte, pixel_format: str) -> None:
    clip = draw_clip(
        tmp_path / "clip.mkv", frames=2, codec="ffv1", pixel_format=pixel_format, tags=(1, 9, 16, 9)
    )
    for kind, expected in {"hevc": "yuv420p10le", "prores": "yuv444p12le", "ffv1": "gbrp16le"}.items():
        assert matte(clip, "--out", tmp_path / kind, "--format", kind, "--background", "white") == 0
        found = probe(tmp_path / kind / f"clip{SUFFIXES[kind]}")
        assert found.pixel_format == expected
        assert found.tags[1:3] == (9, 16), "BT.2020 and PQ are said, and nothing is converted"
    assert matte(clip, "--out", tmp_path / "tiff", "--format", "tiff", "--background", "white") == 0
    assert load(tmp_path / "tiff" / "clip" / "clip.0002.tif").dtype == np.uint16


def test_start_end_and_every(tmp_path: Path, matte: Matte) -> None:
    clip = draw_clip(
        tmp_path / "clip.mov", frames=20, sound_seconds=0.8, sound_codec="pcm_s16le", timecode="00:00:59:20"
    )
    arguments = ("--format", "prores", "--start", "0.2", "--end", "0.6", "--every", 2)
    assert matte(clip, "--out", tmp_path / "out", *arguments) == 0
    found = probe(tmp_path / "out" / "clip.mov")
    assert found.times == [Fraction(k, 25) for k in (0, 2, 4, 6, 8)]
    assert found.timecode == "00:01:00:00"
    for place, frame in enumerate(found.frames):
        assert_is_red_alpha(frame[:, :, 0], 5 + 2 * place)
    whole = b"".join(data for _, data in probe(clip).sound[0])
    part = b"".join(data for _, data in found.sound[0])
    assert part in whole
    begin = whole.index(part) / 4 / 48000
    assert 0.2 <= begin <= 0.225
    assert begin + len(part) / 4 / 48000 == pytest.approx(0.6, abs=0.025)

    arguments = ("--format", "prores", "--start", "6f", "--end", "10f")
    assert matte(clip, "--out", tmp_path / "numbers", *arguments) == 0
    found = probe(tmp_path / "numbers" / "clip.mov")
    assert len(found.times) == 5
    sound = b"".join(data for _, data in found.sound[0])
    assert sound in whole
    assert len(sound) / 4 / 48000 == pytest.approx(0.2, abs=0.025)

    assert matte(clip, "--out", tmp_path / "png", "--format", "png", "--start", "6f", "--end", "8f") == 0
    names = sorted(path.name for path in (tmp_path / "png" / "clip").iterdir())
    assert names == ["clip.0006.png", "clip.0007.png", "clip.0008.png"]
    assert_is_red_alpha(load(tmp_path / "png" / "clip" / "clip.0006.png"), 5, 255)


def test_a_sequence_keeps_its_numbers(tmp_path: Path, matte: Matte) -> None:
    for number in (1001, 1002, 1003, 1005):
        save(tmp_path / "in" / f"shot_v2.{number}.png", red_frame(number - 1001))
    pattern = tmp_path / "in" / "shot_v2.####.png"
    assert matte(pattern, "--out", tmp_path / "out", "--format", "exr") == 0
    names = sorted(path.name for path in (tmp_path / "out" / "shot_v2").iterdir())
    assert names == [f"shot_v2.{number}.exr" for number in (1001, 1002, 1003, 1005)]

    assert matte(pattern, "--out", tmp_path / "mov", "--format", "prores", "--rate", "30000/1001") == 0
    found = probe(tmp_path / "mov" / "shot_v2.mov")
    assert found.times == [Fraction(k * 1001, 30000) for k in (0, 1, 2, 4)], "1004 is missing, and so in time"
    assert_is_red_alpha(found.frames[3][:, :, 0], 4)

    # The mattes in turn are a sequence of EXR files.
    assert matte(tmp_path / "out" / "shot_v2" / "shot_v2.%04d.exr", "--out", tmp_path / "again") == 0
    assert len(probe(tmp_path / "again" / "shot_v2.mp4").times) == 4


def test_a_sequence_goes_on_where_it_stopped(tmp_path: Path, matte: Matte) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=5)
    command = (clip, "--out", tmp_path / "out", "--format", "png")
    assert matte(*command) == 0
    folder = tmp_path / "out" / "clip"
    manifest = tmp_path / "out" / "manifest.jsonl"
    begun, ended = manifest.read_text().splitlines()
    assert (json.loads(begun)["outcome"], json.loads(ended)["outcome"]) == ("begun", "ok")
    manifest.write_text(begun + "\n")  # as a kill in the middle leaves it
    (folder / "clip.0004.png").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert matte(*command) == 0
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert_is_red_alpha(load(folder / "clip.0004.png"), 3, 255)

    assert matte(*command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == after, "done is done"
    assert matte(*command, "--every", 2) == 0
    assert sorted(path.name for path in folder.iterdir()) == [f"clip.000{k}.png" for k in (1, 3, 5)]


def test_folders_mix_photos_and_clips(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a" / "photo.jpg", red_frame(0))
    draw_clip(tmp_path / "in" / "a" / "clip.mp4", frames=3)
    draw_clip(tmp_path / "in" / "b.mkv", frames=2)
    (tmp_path / "in" / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    assert matte(tmp_path / "in", "--out", tmp_path / "out", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [failure["input"] for failure in report["failed"]] == [str(tmp_path / "in" / "cut.mp4")]
    assert sorted(clip["frames"] for clip in report["clips"]) == [2, 3]
    names = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert names == ["a/clip.mp4", "a/photo.png", "b.mp4", "manifest.jsonl"]
    stamp = (tmp_path / "out" / "b.mp4").stat().st_mtime_ns
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / "b.mp4").stat().st_mtime_ns == stamp, "finished clips are kept"


def test_a_clip_behind_a_clip_starts_again(tmp_path: Path, matte: Matte) -> None:
    clip = draw_clip(
        tmp_path / "clip.mkv",
        frames=7,
        codec="ffv1",
        pixel_format="bgr0",
        time_base=MILLISECOND,
        times=[k * 40 for k in range(7)],
    )
    with av.open(str(tmp_path / "behind.mkv"), "w") as container:  # half as fast: each lasts two frames
        stream = container.add_stream("ffv1", rate=Fraction(25, 2))
        stream.height, stream.width, stream.pix_fmt = 32, 48, "bgr0"
        for number, shade in enumerate((0, 100, 200)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), shade, np.uint8), "rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = number, Fraction(2, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    arguments = ("--background", tmp_path / "behind.mkv", "--format", "ffv1")
    assert matte(clip, "--out", tmp_path / "out", *arguments) == 0
    found = probe(tmp_path / "out" / "clip.mkv")
    shades = [frame[90, 5, 0] / 257 for frame in found.frames]
    assert shades == pytest.approx([0, 0, 100, 100, 200, 200, 0], abs=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "cutout", "--format", "mp4"], "mp4 cannot hold the transparency"),
        (
            ["--output", "cutout", "--format", "png", "--alpha", "premultiplied"],
            "png cannot be premultiplied",
        ),
        (["--start", "soon"], "not a time or a frame"),
        (["--rate", "0"], "not a frame rate"),
        (["--format", "webm", "--bit-depth", "16"], "holds 8 bits"),
        (["--light-wrap", "5"], "light wrap needs a background"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=1)
    assert matte(clip, "--out", tmp_path / "out", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_for_clips_want_a_clip(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "photo.png", red_frame(0))
    assert matte(photo, "--out", tmp_path / "out", "--stabilize") == 2
    assert "--stabilize: for clips" in capsys.readouterr().err
    behind = draw_clip(tmp_path / "behind.mp4", frames=1)
    assert matte(photo, "--out", tmp_path / "out", "--background", behind) == 2
    assert "only be the background of clips" in capsys.readouterr().err


def test_unusable_clips_are_named_in_one_line(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = draw_clip(tmp_path / "whole.mp4", frames=12).read_bytes()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), "s16", "stereo")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (tmp_path / "empty.mov").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    reasons = {
        "sound.mp4": "contains no video",
        "empty.mov": "damaged, truncated, or not a video",
        "cut.mp4": "damaged, truncated, or not a video",
        "none.mp4": "no such file",
    }
    for name, reason in reasons.items():
        assert matte(tmp_path / name, "--out", tmp_path / "out") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
        assert str(tmp_path / name) in line
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_a_clip_cut_short_leaves_nothing_and_says_where(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4", "bf": "0", "g": "1"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(red_frame(number), "rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])  # index first, frames missing
    assert matte(path, "--out", tmp_path / "out") == 1
    line = capsys.readouterr().err
    assert "clip.mp4: " in line
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]
    hint = line.split("--end ")[1].split()[0]
    assert matte(path, "--out", tmp_path / "out", "--end", hint) == 0, "what the hint says works"
    assert 4 <= len(probe(tmp_path / "out" / "clip.mp4").times) <= 9


def test_sound_that_a_container_cannot_hold_becomes_another_and_that_is_said(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=5, sound_seconds=1.5)
    assert matte(clip, "--out", tmp_path / "out", "--format", "webm", "--start", "0.04") == 0
    line = "sound in aac becomes opus, for players of WebM"
    assert line in capsys.readouterr().err
    (written,) = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(written)["notes"] == [line]
    samples = []
    for path in (clip, tmp_path / "out" / "clip.webm"):
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("flt", "mono", 48000)
            decoded = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
            times = [frame.time for frame in decoded]
            samples.append((min(times), np.concatenate([frame.to_ndarray()[0] for frame in decoded])))
    (_, before), (begin, after) = samples
    assert abs(begin) < 0.025
    assert len(after) / 48000 == pytest.approx(1.5 - 0.04, abs=0.05)
    loud = np.abs(after[4800:-9600])
    assert loud.max() == pytest.approx(np.abs(before[4800:-9600]).max(), rel=0.1), "as loud as before"
