"""Photos through the command: colours behind them, privacy, damage, pages, and folders."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from PIL import Image

from stylematte.media import colour, formats
from stylematte.media.decode import decode_image
from stylematte.media.images import encode_image, read_image
from tests.drawn_photos import (
    ADOBE,
    DAMAGED,
    P3_GAMMA,
    PROPHOTO,
    gps_photo,
    photographic,
    pillow,
    tiff,
)
from tests.images import exif_of, load, red_image, red_region, save

Matte = Callable[..., int]


def shown(path: Path) -> np.ndarray:
    """What a viewer shows of a result: sRGB."""
    return decode_image(path.read_bytes(), "x").srgb


@pytest.mark.parametrize("icc", [P3_GAMMA, ADOBE, PROPHOTO])
def test_what_is_laid_behind_a_photo_is_shown_as_given(tmp_path: Path, matte: Matte, icc: bytes) -> None:
    grey = np.full((96, 128, 3), 128, np.uint8)
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode_image(grey, "png", icc=icc))
    assert matte(photo, "--out", tmp_path / "a", "--background", "#3cb44b") == 0
    result = tmp_path / "a" / "photo.png"
    assert read_image(result).icc == icc
    assert np.abs(shown(result).astype(int) - (0x3C, 0xB4, 0x4B)).max() <= 2

    behind = save(tmp_path / "behind.png", np.full((20, 20, 3), (200, 60, 90), np.uint8))
    assert matte(photo, "--out", tmp_path / "b", "--background", behind) == 0
    assert np.abs(shown(tmp_path / "b" / "photo.png").astype(int) - (200, 60, 90)).max() <= 2

    assert matte(photo, "--out", tmp_path / "c", "--output", "foreground", "--profile", "srgb") == 0
    assert read_image(tmp_path / "c" / "photo.png").icc == colour.srgb_profile()


def test_a_background_with_alpha_lies_over_white(tmp_path: Path, matte: Matte) -> None:
    photo = save(tmp_path / "photo.png", np.full((48, 64, 3), 128, np.uint8))
    half = np.full((48, 64, 4), (255, 0, 0, 128), np.uint8)
    behind = save(tmp_path / "behind.png", half)
    assert matte(photo, "--out", tmp_path / "out", "--background", behind) == 0
    assert np.abs(load(tmp_path / "out" / "photo.png").astype(int) - (255, 127, 127)).max() <= 1


def test_the_network_sees_srgb(tmp_path: Path, matte: Matte) -> None:
    """Red of sRGB is no pure red in ProPhoto's numbers, and still red to the model."""
    icc = PROPHOTO
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode_image(colour.from_srgb(red_image(), icc), "png", icc=icc))
    assert matte(photo, "--out", tmp_path / "out") == 0
    alpha = load(tmp_path / "out" / "photo.png")
    rows, columns = red_region(96, 128)
    assert alpha[rows, columns][8:-8, 8:-8].min() > 250
    assert alpha[80:].max() < 5


def test_place_and_numbers_stay_at_home(tmp_path: Path, matte: Matte) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(gps_photo())
    for policy in ("public", "keep", "none"):
        out = tmp_path / policy
        given = () if policy == "public" else ("--metadata", policy)
        assert matte(photo, "--out", out, "--output", "cutout", *given) == 0
        data = (out / "photo.png").read_bytes()
        assert (b"SN12345" in data) == (policy == "keep")
        assert b"\xff\xd8\xff" not in data
        assert bool(read_image(out / "photo.png").exif) == (policy != "none")
    assert exif_of(read_image(tmp_path / "public" / "photo.png").exif)[0x8298] == "(c) Ann"


def test_damage_fails_by_name_or_is_kept_when_asked(
    tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = pillow(photographic(), "JPEG", quality=92)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sound.jpg").write_bytes(whole)
    for index, change in enumerate(DAMAGED.values()):
        (tmp_path / "in" / f"{index}.jpg").write_bytes(change(whole))
    assert matte(tmp_path / "in", "--out", tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["sound.png"]
    assert f"1 done, {len(DAMAGED)} failed" in capfd.readouterr().err
    assert matte(tmp_path / "in" / "0.jpg", "--out", tmp_path / "out", "--keep-damaged") == 0
    assert "0.jpg: damaged or truncated" in capfd.readouterr().err


def test_a_page_by_its_number(tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str]) -> None:
    pages = np.stack([np.full((96, 128, 3), 128, np.uint8), red_image()])
    scan = tmp_path / "scan.tif"
    scan.write_bytes(tiff(pages, photometric="rgb"))
    assert matte(scan, f"{scan}[1]", "--out", tmp_path / "out") == 0
    assert "the first of 2 pages" in capfd.readouterr().err
    assert load(tmp_path / "out" / "scan.png").max() < 5
    assert load(tmp_path / "out" / "scan[1].png").max() > 250


def test_a_folder_tells_what_it_passes_over(
    tmp_path: Path, matte: Matte, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in" / "a.jpg", red_image())
    for name in ("b.heic", "c.heic", "d.CR2", "e.psd", "f.jxl"):
        (tmp_path / "in" / name).write_bytes(b"x")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert matte(tmp_path / "in", "--out", tmp_path / "out", "--json") == 0
    out, err = capfd.readouterr()
    expected = {"HEIC": 2, "camera raw file": 1, "Photoshop document": 1, "JPEG XL": 1}
    assert json.loads(out)["passed_over"] == expected
    assert "2 file(s) of type HEIC. pip install 'stylematte[heic]'" in err
    assert "1 done, 5 skipped" in err


def test_an_animation_is_a_clip(tmp_path: Path, matte: Matte) -> None:
    frames = [Image.fromarray(red_image()), Image.fromarray(255 - red_image())]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    assert matte(tmp_path / "a.webp", "--out", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").glob("a.*")] == ["a.mp4"]


def test_light_survives_into_exr(tmp_path: Path, matte: Matte) -> None:
    """Values above 1 and below 0 of an EXR come out as they were; other formats get sRGB."""
    light = np.full((96, 128, 3), 0.18, np.float32)
    rows, columns = red_region(96, 128)
    light[rows, columns] = (40.0, -0.02, 0.0)
    planes = {key: np.ascontiguousarray(light[:, :, index]) for index, key in enumerate("RGB")}
    shot = tmp_path / "shot.exr"
    OpenEXR.File({"type": OpenEXR.scanlineimage}, planes).write(str(shot))
    for output in ("cutout", "foreground", "composite"):
        behind = ("--background", "white") if output == "composite" else ()
        assert matte(shot, "--out", tmp_path / output, "--output", output, "--format", "exr", *behind) == 0
        result = read_image(tmp_path / output / "shot.exr")
        np.testing.assert_allclose(result.pixels[24, 50], (40.0, -0.02, 0.0), rtol=1e-6)
        assert result.light is not None
        assert result.light.is_single, "float in, float out"
    assert np.abs(read_image(tmp_path / "composite" / "shot.exr").pixels[90, 10] - 1).max() < 1e-3
    assert read_image(tmp_path / "cutout" / "shot.exr").alpha[90, 10] < 1e-3
    assert matte(shot, "--out", tmp_path / "png", "--output", "composite", "--background", "#3cb44b") == 0
    assert load(tmp_path / "png" / "shot.png")[90, 10].tolist() == [0x3C, 0xB4, 0x4B]


def test_layers_of_a_composite_make_it_up_again(tmp_path: Path, matte: Matte) -> None:
    light = np.full((96, 128, 3), 0.18, np.float32)
    rows, columns = red_region(96, 128)
    light[rows, columns] = (4.0, -0.02, 0.0)
    planes = {key: np.ascontiguousarray(light[:, :, index]) for index, key in enumerate("RGB")}
    shot = tmp_path / "shot.exr"
    OpenEXR.File({"type": OpenEXR.scanlineimage}, planes).write(str(shot))
    asked = ("--format", "exr", "--layers", "--exr-compression", "piz", "--background", "#3cb44b")
    assert matte(shot, "--out", tmp_path / "out", *asked) == 0
    part = OpenEXR.File(str(tmp_path / "out" / "shot.exr"), separate_channels=True).parts[0]
    assert part.header["compression"] == OpenEXR.PIZ_COMPRESSION
    found = {key: channel.pixels for key, channel in part.channels.items()}
    for key in "RGB":
        alpha = found["alpha.A"]
        again = alpha * found[f"foreground.{key}"] + (1 - alpha) * found[f"background.{key}"]
        np.testing.assert_allclose(again, found[key], atol=1e-5)
    assert found["background.G"][0, 0] == pytest.approx(((0xB4 / 255 + 0.055) / 1.055) ** 2.4, abs=1e-5)

    assert matte(shot, "--out", tmp_path / "b", "--format", "exr", "--output", "cutout", "--layers") == 0
    part = OpenEXR.File(str(tmp_path / "b" / "shot.exr"), separate_channels=True).parts[0]
    assert sorted(part.channels) == sorted(
        ["R", "G", "B", "A", "alpha.A", "foreground.R", "foreground.G", "foreground.B"]
    )
    assert matte(shot, "--out", tmp_path / "c", "--layers") == 2


def test_exr_frames_keep_their_light_layers_and_numbers(tmp_path: Path, matte: Matte) -> None:
    light = np.full((48, 64, 3), 0.18, np.float32)
    rows, columns = red_region(48, 64)
    light[rows, columns] = (4.0, -0.02, 0.0)
    planes = {key: np.ascontiguousarray(light[:, :, index]) for index, key in enumerate("RGB")}
    for number in (1001, 1002):
        OpenEXR.File({"type": OpenEXR.scanlineimage}, planes).write(str(tmp_path / f"shot.{number}.exr"))
    asked = ("--output", "cutout", "--format", "exr", "--layers", "--exr-compression", "dwaa")
    assert matte(tmp_path / "shot.####.exr", "--out", tmp_path / "out", *asked) == 0
    for number in (1001, 1002):
        path = tmp_path / "out" / "shot" / f"shot.{number}.exr"
        part = OpenEXR.File(str(path), separate_channels=True).parts[0]
        assert part.header["compression"] == OpenEXR.DWAA_COMPRESSION
        assert part.channels["foreground.R"].pixels[12, 25] == pytest.approx(4, rel=0.05)
        assert "alpha.A" in part.channels
