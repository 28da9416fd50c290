"""`stylematte matte` on photos: the right pixels in the right files, and which options go together."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest

from stylematte.media.images import read_image
from stylematte_cli.app import main
from tests.conftest import bolder_red_detector, red_detector
from tests.images import (
    ASSETS,
    STORED,
    assert_is_red_matte,
    exif_bytes,
    exif_of,
    icc_bytes,
    load,
    red_image,
    red_region,
    save,
)

Matte = Callable[..., int]


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != "manifest.jsonl")


def test_folder_is_mirrored_in_whole_mattes(tmp_path: Path, matte: Matte) -> None:
    for name in ("a.jpg", "B.JPG", "Straße 日本.png", "sub/c.webp", "sub/deep.er/d.e.tiff", "sub/f.bmp"):
        shape = (96, 128) if len(name) % 2 else (128, 96)
        path = save((tmp_path / "in" / name).with_suffix(Path(name).suffix.lower()), red_image(*shape))
        path.rename(tmp_path / "in" / name)
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 0
    expected = ["B.png", "Straße 日本.png", "a.png", "sub/c.png", "sub/deep.er/d.e.png", "sub/f.png"]
    assert files(tmp_path / "out") == expected
    for name in expected:
        assert_is_red_matte(load(tmp_path / "out" / name))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photo_gives_an_upright_result(tmp_path: Path, matte: Matte, orientation: int) -> None:
    stored = STORED[orientation](red_image())
    photo = save(tmp_path / "photo.jpg", stored, exif=exif_bytes(orientation), icc=icc_bytes())
    assert matte(photo, "--out", tmp_path / "alpha") == 0
    assert_is_red_matte(load(tmp_path / "alpha" / "photo.png"))
    assert read_image(tmp_path / "alpha" / "photo.png").exif is None, "an alpha is data"

    assert matte(photo, "--out", tmp_path / "cutout", "--output", "cutout") == 0
    cutout = read_image(tmp_path / "cutout" / "photo.png")
    assert_is_red_matte(cutout.alpha)
    exif = exif_of(cutout.exif)
    assert (exif[271], exif[274], cutout.icc) == ("Cam", 1, icc_bytes())


def test_kinds_of_photos(tmp_path: Path, matte: Matte) -> None:
    folder = tmp_path / "in"
    save(folder / "sixteen.png", red_image(dtype=np.uint16))
    save(folder / "sixteen_tiff.tiff", red_image(dtype=np.uint16))
    save(folder / "rgba.png", np.dstack([red_image(), np.full((96, 128), 255, np.uint8)]))
    for name in ("cmyk.jpg", "palette.png", "palette_transparent.png", "grey_alpha.png", "progressive.jpg"):
        shutil.copy(ASSETS / name, folder)
    save(folder / "grey.png", red_image()[:, :, 1])
    save(folder / "one.png", np.array([[[255, 0, 0]]], np.uint8))
    save(folder / "strip.png", np.full((3, 20000, 3), (255, 0, 0), np.uint8))
    save(folder / "tower.png", np.full((20000, 3, 3), 90, np.uint8))
    assert matte(folder, "--out", tmp_path / "out") == 0
    alphas = {name: load(tmp_path / "out" / name) for name in files(tmp_path / "out")}
    assert len(alphas) == 12
    for name in ("sixteen.png", "sixteen_tiff.png", "rgba.png"):
        assert_is_red_matte(alphas[name])
    for name in ("cmyk.png", "palette.png", "palette_transparent.png", "progressive.png"):
        assert alphas[name].shape == (48, 64)
        assert (alphas[name][18, 32] > 240, alphas[name][40, 32] < 10) == (True, True), name
    assert alphas["grey_alpha.png"].max() < 10
    assert alphas["grey.png"].max() < 10, "no subject, no matte"
    assert (alphas["one.png"].shape, alphas["one.png"][0, 0]) == ((1, 1), 255)
    assert alphas["strip.png"].shape == (3, 20000)
    assert alphas["strip.png"].min() > 250
    assert alphas["tower.png"].shape == (20000, 3)
    assert alphas["tower.png"].max() < 5


@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "jpg"])
def test_outputs_and_formats(tmp_path: Path, matte: Matte, kind: str) -> None:
    image = red_image()
    photo = save(tmp_path / "photo.png", image)
    suffix = {"tiff": ".tif"}.get(kind, f".{kind}")
    slack = 0 if kind in ("png", "tiff") else 12
    inside = (30, 60)
    outside = (90, 120)

    assert matte(photo, "--out", tmp_path / "alpha", "--format", kind) == 0
    alpha = load(tmp_path / "alpha" / f"photo{suffix}")
    assert_is_red_matte(alpha if alpha.ndim == 2 else alpha[:, :, 0])

    assert matte(photo, "--out", tmp_path / "fg", "--format", kind, "--output", "foreground") == 0
    foreground = load(tmp_path / "fg" / f"photo{suffix}").astype(int)
    assert np.abs(foreground[inside] - (255, 0, 0)).max() <= slack
    assert np.abs(foreground[outside] - (255, 0, 0)).max() <= max(slack, 40), "the subject's colour goes on"

    if kind != "jpg":
        assert matte(photo, "--out", tmp_path / "cut", "--format", kind, "--output", "cutout") == 0
        cutout = read_image(tmp_path / "cut" / f"photo{suffix}")
        assert_is_red_matte(cutout.alpha)
        assert np.abs(cutout.pixels[inside].astype(int) - (255, 0, 0)).max() <= slack

    save(tmp_path / "sky.png", np.full((30, 90, 3), (0, 0, 255), np.uint8))
    for background, color in {
        "lime": (0, 255, 0),
        "#102030": (16, 32, 48),
        str(tmp_path / "sky.png"): (0, 0, 255),
        "blur:6": (127, 127, 127),
    }.items():
        arguments = ("--out", tmp_path / "comp", "--format", kind, "--background", background, "--overwrite")
        assert matte(photo, *arguments) == 0
        composite = load(tmp_path / "comp" / f"photo{suffix}").astype(int)
        assert composite.shape == image.shape
        assert np.abs(composite[inside] - (255, 0, 0)).max() <= slack + 1
        assert np.abs(composite[outside] - color).max() <= slack + 1


def test_bit_depths(tmp_path: Path, matte: Matte) -> None:
    ramp = np.zeros((64, 4096, 3), np.uint16)
    ramp[:, :, 0] = np.linspace(0, 65535, 4096)
    photo = save(tmp_path / "ramp.png", ramp)
    assert matte(photo, "--out", tmp_path / "a", "--bit-depth", 16) == 0
    alpha = load(tmp_path / "a" / "ramp.png")
    assert alpha.dtype == np.uint16
    assert len(np.unique(alpha)) > 600, "more steps than 8 bits have"
    assert matte(photo, "--out", tmp_path / "b") == 0
    np.testing.assert_allclose(load(tmp_path / "b" / "ramp.png") * 257.0, alpha, atol=129)
    assert matte(photo, "--out", tmp_path / "c", "--output", "cutout") == 0
    assert load(tmp_path / "c" / "ramp.png").dtype == np.uint16, "colours keep the photo's depth"
    assert matte(photo, "--out", tmp_path / "d", "--output", "cutout", "--bit-depth", 8) == 0
    assert load(tmp_path / "d" / "ramp.png").dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "cutout", "--format", "jpg"], "--format png"),
        (["--bit-depth", "16", "--format", "jpg"], "--format png or tiff"),
        (["--bit-depth", "16", "--format", "webp"], "--format png or tiff"),
        (["--output", "composite"], "--background white"),
        (["--output", "alpha", "--background", "red"], "--output composite"),
        (["--background", "reddish"], "not a colour"),
        (["--background", "blur:x"], "blur:25"),
        (["--size", "33000"], "--size"),
        (["--engine", "onnxx"], "onnxx"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    photo = save(tmp_path / "a.png", red_image())
    assert matte(photo, "--out", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "out").exists()


def test_missing_out_background_and_weights(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "a.png", red_image())
    assert matte(photo) == 2
    assert "--out DIR is missing" in capsys.readouterr().err
    assert matte(photo, "--out", tmp_path / "out", "--background", tmp_path / "sky.jpg") == 3
    assert "sky.jpg: no such image" in capsys.readouterr().err
    assert main(["matte", str(photo), "--out", str(tmp_path / "out"), "--weights", "nonesuch"]) == 4
    assert "nonesuch" in capsys.readouterr().err


def test_output_inside_the_input_and_links_in_circles(tmp_path: Path, matte: Matte) -> None:
    save(tmp_path / "a.png", red_image())
    save(tmp_path / "sub" / "b.png", red_image())
    (tmp_path / "sub" / "circle").symlink_to(tmp_path)
    for _ in range(2):
        assert matte(tmp_path, "--out", tmp_path / "mattes") == 0
        assert files(tmp_path / "mattes") == ["a.png", "sub/b.png"]


def test_second_run_does_what_is_new_or_changed(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for name in ("a", "b", "c"):
        save(tmp_path / "in" / f"{name}.png", red_image())

    def summary(*arguments: object) -> dict:
        code = matte(tmp_path / "in", "--out", out, "--json", "--quiet", *arguments)
        captured = capsys.readouterr()
        assert captured.err == ""
        report = json.loads(captured.out)
        assert code == (1 if report["failed"] else 0)
        return {key: report[key] for key in ("done", "finished_before", "kept")}

    assert summary() == {"done": 3, "finished_before": 0, "kept": 0}
    assert summary() == {"done": 0, "finished_before": 3, "kept": 0}
    save(tmp_path / "in" / "b.png", red_image(100, 90))
    (out / "c.png").unlink()
    assert summary() == {"done": 2, "finished_before": 1, "kept": 0}
    assert load(out / "b.png").shape == (100, 90)
    assert summary("--size", "64") == {"done": 3, "finished_before": 0, "kept": 0}
    assert summary("--size", "64", "--overwrite") == {"done": 3, "finished_before": 0, "kept": 0}


def test_mattes_of_another_file_of_the_same_weights_are_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a.png", np.full((64, 64, 3), (140, 120, 120), np.uint8))
    model, out = tmp_path / "model.onnx", tmp_path / "out"

    def run() -> dict:
        words = (
            "matte",
            tmp_path / "in",
            "--out",
            out,
            "--weights",
            model,
            "--device",
            "cpu",
            "--json",
            "-q",
        )
        assert main([str(word) for word in words]) == 0
        return json.loads(capsys.readouterr().out)

    onnx.save(red_detector(), model)
    first = run()
    assert first["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert load(out / "a.png").max() < 10
    onnx.save(bolder_red_detector(), model)
    second = run()
    assert second["weights_sha256"] == first["weights_sha256"]
    assert (second["done"], second["finished_before"]) == (1, 0)
    assert load(out / "a.png").min() > 100
    # What an old version wrote knows the weights alone.
    manifest = out / "manifest.jsonl"
    line = json.loads(manifest.read_text().splitlines()[-1])
    del line["model_sha256"], line["engine"]
    manifest.write_text(json.dumps(line | {"weights_sha256": first["weights_sha256"]}) + "\n")
    assert run()["done"] == 1
    assert run()["finished_before"] == 1


def test_files_of_others_are_kept_and_reported(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "a.png", red_image())
    theirs = tmp_path / "out" / "a.png"
    theirs.parent.mkdir()
    theirs.write_bytes(b"painted by hand")
    assert matte(photo, "--out", tmp_path / "out") == 0
    assert theirs.read_bytes() == b"painted by hand"
    assert str(theirs) in capsys.readouterr().err
    assert matte(photo, "--out", tmp_path / "out", "--overwrite") == 0
    assert_is_red_matte(load(theirs))


def test_dry_run_says_and_does_nothing(
    tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "a.png", red_image())
    assert matte(photo, "--out", tmp_path / "out", "--dry-run") == 0
    assert capsys.readouterr().out == f"new     {photo} -> {tmp_path / 'out' / 'a.png'}\n"
    assert not (tmp_path / "out").exists()
    assert matte(photo, "--out", tmp_path / "out", "--dry-run", "--json") == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert item == {"input": str(photo), "output": str(tmp_path / "out" / "a.png"), "state": "new"}


def test_json_names_what_failed(tmp_path: Path, matte: Matte, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "a.png", red_image())
    (tmp_path / "in" / "b.png").touch()
    assert matte(tmp_path / "in", "--out", tmp_path / "out", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["done"], report["interrupted"]) == (1, False)
    (failed,) = report["failed"]
    assert failed["input"] == str(tmp_path / "in" / "b.png")
    assert "empty" in failed["error"]
    assert report["provider"] == "CPUExecutionProvider"
    assert set(report["stage_seconds"]) == {"read", "network", "render", "write"}


def test_matte_of_an_enlarged_photo_agrees(tmp_path: Path, matte: Matte) -> None:
    image = red_image()
    save(tmp_path / "small.png", image)
    save(tmp_path / "large.png", cv2.resize(image, (512, 384), interpolation=cv2.INTER_CUBIC))
    assert matte(tmp_path / "small.png", tmp_path / "large.png", "--out", tmp_path / "out") == 0
    small, large = (load(tmp_path / "out" / f"{name}.png") for name in ("small", "large"))
    shrunk = cv2.resize(large, (128, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small).mean() < 3
    rows, columns = np.nonzero(large > 127)
    expected = red_region(384, 512)
    found = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    truth = (expected[0].start, expected[0].stop, expected[1].start, expected[1].stop)
    np.testing.assert_allclose(found, truth, atol=8, err_msg="half a cell of the network's 16 px grid")


def test_photos_as_exr_and_premultiplied_tiff(tmp_path: Path, matte: Matte) -> None:
    photo = save(tmp_path / "photo.png", red_image())
    assert matte(photo, "--out", tmp_path / "exr", "--output", "cutout", "--format", "exr") == 0
    with av.open(str(tmp_path / "exr" / "photo.exr"), format="exr_pipe") as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == "gbrapf16le"
    green, blue, red, alpha = (
        np.frombuffer(part, np.float16).reshape(part.height, -1)[:, : part.width] for part in frame.planes
    )
    assert (red[30, 60], green[30, 60], blue[30, 60], alpha[30, 60]) == (1, 0, 0, 1)
    assert alpha[90, 120] < 1e-3
    assert red[90, 120] < 1e-3, "premultiplied, as compositing programs expect"

    common = (photo, "--output", "cutout", "--format", "tiff", "--bit-depth", 16)
    assert matte(*common, "--out", tmp_path / "straight") == 0
    assert matte(*common, "--out", tmp_path / "pre", "--alpha", "premultiplied") == 0
    straight, pre = load(tmp_path / "straight" / "photo.tif"), load(tmp_path / "pre" / "photo.tif")
    expected = straight[:, :, :3].astype(float) * straight[:, :, 3:] / 65535
    assert np.abs(pre[:, :, :3] - expected).max() <= 1
    assert np.array_equal(pre[:, :, 3], straight[:, :, 3])
    for path, meaning in ((tmp_path / "straight", 2), (tmp_path / "pre", 1)):  # TIFF 6.0, ExtraSamples
        tags = struct.pack("<HHI", 338, 3, 1) + struct.pack("<H", meaning)
        assert tags in (path / "photo.tif").read_bytes()


def test_despill(tmp_path: Path, matte: Matte) -> None:
    image = red_image()
    image[red_region(96, 128)] = (255, 110, 0)
    photo = save(tmp_path / "photo.png", image)
    assert matte(photo, "--out", tmp_path / "out", "--output", "cutout", "--despill", "green") == 0
    assert load(tmp_path / "out" / "photo.png")[30, 60].tolist()[:3] == [255, 110, 0], "below the mean"
    assert matte(photo, "--out", tmp_path / "out", "--despill", "green") == 2, "an alpha has no colours"
