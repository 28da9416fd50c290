"""`stylematte compare`: agreement of models whose answers are known."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from stylematte.comparison import compare, compare_alphas
from stylematte.matter import Matte
from stylematte.media.images import read_image
from stylematte_cli.app import main
from tests.drawn_photos import P3_GAMMA


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, red_columns in enumerate((20, 40)):
        image = np.full((60, 80, 3), 90, np.uint8)
        image[:, :red_columns] = (0, 0, 255)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_a_model_agrees_with_itself(red_model, photos, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["compare", str(red_model), str(red_model), str(photos), "--out", str(out)]
    assert main([*command, "--json"]) == 1  # one photo cannot be read
    report = json.loads(capsys.readouterr().out)
    (pair,) = report["pairs"]
    assert (pair["iou"], pair["mean_difference"], pair["band_difference"]) == (1, 0, 0)
    assert len(report["photos"]) == 2
    assert "broken.jpg" in report["failed"][0]["input"]
    sheet = cv2.imread(str(out / "sheet.png"))
    assert sheet.shape[0] == 28 + 2 * 244
    assert sheet.shape[1] == 3 * (320 + 4)
    assert main(command) == 3
    assert "already exists" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 1
    assert "SECONDS" in capsys.readouterr().out


def test_models_see_srgb_at_any_depth(tmp_path):
    image = np.full((60, 80, 3), (40, 200, 90), np.uint8)
    Image.fromarray(image).save(tmp_path / "p3.png", icc_profile=P3_GAMMA)
    cv2.imwrite(
        str(tmp_path / "deep.png"), np.full((60, 80, 3), 51520, np.uint16)
    )  # 200.47 of 255, and 201.25 of 256
    seen = []

    def matter(image):
        seen.append(image)
        return Matte(image, np.zeros((2, 1, 1), np.float32), None, given_alpha=np.zeros((60, 80), np.float32))

    for result in compare([tmp_path / "p3.png", tmp_path / "deep.png"], [matter, matter]):
        assert result.error is None
    np.testing.assert_array_equal(seen[0], read_image(tmp_path / "p3.png").srgb)
    assert np.abs(seen[0].astype(int) - image).max() > 10
    assert seen[2].dtype == np.uint8
    assert (seen[2] == 200).all()


def test_measures_of_two_alphas():
    first, second = np.zeros((50, 100), np.uint8), np.zeros((50, 100), np.uint8)
    first[:, :40], second[:, :20] = 255, 255
    pair = compare_alphas(first, second)
    assert pair.iou == 0.5
    assert pair.mean_difference == pytest.approx(0.2)
    assert pair.band_difference == 0  # both are hard
    second[:, 20:40] = 128  # soft; around it lies a column of each
    pair = compare_alphas(first, second)
    assert pair.iou == 1
    assert pair.band_difference == pytest.approx(20 * (127 / 255) / 22)
    assert compare_alphas(first * 0, second * 0).iou == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nano", "photos"], 2, "1 model(s) given"),
        (["nano", "nano", "nowhere"], 3, "no such photo"),
        (["nano", "unknown", "."], 4, "unknown"),
    ],
)
def test_what_cannot_be_meant(photos, tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.chdir(photos)
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
