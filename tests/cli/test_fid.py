"""`stylematte fid`: folders in, a score out; what it depends on, what is kept, and each refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stylematte.errors import InputError
from stylematte.media.backdrop import Backdrop
from stylematte_cli.app import main
from tests.training.drawn import save
from training import fid as scores
from training.fid_images import FidImages


class Means(scores.Detector):
    """Features that are known: the mean of each channel."""

    name, num_features, sha256 = "means", 3, "0" * 64
    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        Means.calls += len(images)
        return images.float().mean((2, 3))


@pytest.fixture(autouse=True)
def _known_detector(monkeypatch, tmp_path):
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(scores, "load_detector", lambda name, folders: Means())
    Means.calls = 0


@pytest.fixture
def folders(tmp_path, rng) -> tuple[Path, Path]:
    """Ten real images in two sizes, one in a subfolder; ten half transparent ones."""
    real, fake = tmp_path / "real", tmp_path / "fake"
    for i in range(10):
        size = (9, 12) if i % 3 else (20, 8)
        save(real / ("sub" if i == 4 else "") / f"{i}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        rgba = rng.integers(0, 200, (16, 16, 4), np.uint8)
        rgba[..., 3] = 128
        save(fake / f"{i}.png", rgba)
    return real, fake


def run_json(capsys, *arguments: object) -> dict:
    assert main(["fid", *map(str, arguments), "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_report(folders, capsys):
    report = run_json(capsys, *folders, "--kid", "--batch-size", 4)
    assert report["fid"] > 1
    assert report["kid"]["mean"] > 0
    assert (report["detector"], report["features"], report["mode"]) == ("means", 3, "rgb")
    assert report["real"]["pictures"] == report["generated"]["pictures"] == 10
    assert "few" in report["warnings"][0]
    assert main(["fid", *map(str, folders), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"FID  {report['fid']:.4f}")
    assert "detector means (3 features), mode rgb, 10 real and 10 generated" in out
    assert "only comparable with" in out
    assert "FID is too high" in err


def test_equal_folders_have_none(folders, capsys):
    assert run_json(capsys, folders[1], folders[1])["fid"] == pytest.approx(0, abs=1e-6)


def test_statistics_are_kept_until_anything_changes(folders, capsys):
    first = run_json(capsys, *folders)
    assert Means.calls == 20
    assert run_json(capsys, *folders) == first
    assert Means.calls == 20
    run_json(capsys, *folders, "--kid")  # it needs the features, which were not kept
    assert Means.calls == 40
    run_json(capsys, *folders, "--mode", "composite")
    run_json(capsys, *folders, "--mode", "composite", "--backgrounds", "red")
    assert Means.calls == 80
    (folders[1] / "0.png").unlink()
    assert run_json(capsys, *folders, "--no-cache")["fid"] != first["fid"]
    assert Means.calls == 99
    for path in (folders[0].parent / "home/fid").iterdir():
        path.write_bytes(b"broken")
    run_json(capsys, *folders)
    assert Means.calls == 118


def test_rgb_drops_alpha_and_composite_lays_it_on_a_background(folders, tmp_path):
    file = folders[1] / "3.png"
    colours = FidImages.find(folders[1], None).read(file)
    for text, behind in (("#ff0000", (255, 0, 0)), (str(tmp_path / "ground"), (0, 0, 255))):
        save(tmp_path / "ground/blue.png", np.full((4, 4, 3), (0, 0, 255), np.uint8))
        composite = FidImages.find(folders[1], Backdrop.parse(text)).read(file)
        wanted = 128 / 255 * colours + (1 - 128 / 255) * np.array(behind)
        np.testing.assert_allclose(composite, wanted, atol=0.51)
    opaque = folders[0] / "3.png"
    plain, laid = (FidImages.find(folders[0], b).read(opaque) for b in (None, Backdrop.parse("red")))
    np.testing.assert_array_equal(plain, laid)


def test_pairs_and_rejected_images(tmp_path, rng):
    rgba = rng.integers(0, 256, (8, 8, 4), np.uint8)
    save(tmp_path / "rgba/00.png", rgba)
    save(tmp_path / "rgba/rejected/01.png", rgba)
    save(tmp_path / "pairs/image/00.png", rgba[..., :3])
    save(tmp_path / "pairs/alpha/00.png", rgba[..., 3])
    for backdrop in (None, Backdrop.parse("red")):
        sets = [FidImages.find(tmp_path / name, backdrop) for name in ("rgba", "pairs")]
        assert [len(s.files) for s in sets] == [1, 1]
        whole, pair = (s.read(s.files[0]) for s in sets)
        np.testing.assert_allclose(whole, pair, atol=1)
    key = sets[1].key(Means())
    save(tmp_path / "pairs/alpha/00.png", rgba[:4, :, 3])
    assert sets[1].key(Means()) != key
    with pytest.raises(InputError, match="its size differs from"):
        sets[1].read(sets[1].files[0])


def test_what_is_behind_depends_on_the_name_alone(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", np.full((2, 2, 3), 60 * i, np.uint8))
    backdrop = Backdrop.parse(str(tmp_path))
    assert np.array_equal(backdrop.behind("a.png"), backdrop.behind("a.png"))
    assert len({int(backdrop.behind(f"{i}.png")[0, 0, 0]) for i in range(40)}) == 4


def test_refusals(folders, tmp_path, capsys):
    real, fake = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_bytes(b"no picture")
    for arguments, code, words in (
        ((real, tmp_path / "none"), 3, "no such folder"),
        ((real, tmp_path / "empty"), 3, "no images"),
        ((real, tmp_path / "bad"), 3, "x.png: not an image"),
        ((real, fake, "--backgrounds", "red"), 2, "--mode composite"),
        ((real, fake, "--mode", "composite", "--backgrounds", "reddish"), 2, "not a colour"),
        ((real, fake, "--mode", "alpha"), 2, "alpha"),
        ((real, fake, "--device", "cuda:9"), 4, "cuda:9"),
    ):
        assert main(["fid", *map(str, arguments)]) == code
        assert words in capsys.readouterr().err


def test_an_image_whose_features_are_no_numbers_is_named(folders, capsys, monkeypatch):
    whole = Means.forward

    def breaks(self, images):
        made = whole(self, images)
        made[images.float().mean((1, 2, 3)) > 240] = float("nan")
        return made

    monkeypatch.setattr(Means, "forward", breaks)
    save(folders[1] / "white.png", np.full((16, 16, 3), 255, np.uint8))
    assert main(["fid", *map(str, folders), "--device", "cpu", "--quiet"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{folders[1] / 'white.png'}: the detector returns features" in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_detector_is_named_with_its_place(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    assert main(["fid", *map(str, folders)]) == 4
    err = capsys.readouterr().err
    assert str(tmp_path / "home" / scores.INCEPTION) in err
    assert scores.INCEPTION_URL in err
    assert err.count("\n") == 1


def test_a_set_that_cannot_be_kept_is_scored_all_the_same(folders, tmp_path, capsys):
    (tmp_path / "home").write_text("no folder")
    assert main(["fid", *map(str, folders), "--device", "cpu"]) == 0
    assert "cannot be written: Not a directory" in capsys.readouterr().err
