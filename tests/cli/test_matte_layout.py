"""`stylematte matte --layout dataset`: what it writes, training reads."""

import cv2
import numpy as np
import pytest

from stylematte_cli.app import main
from training.config import DataSet
from training.data.subjects import read_data_set


@pytest.fixture
def photos(tmp_path):
    for name in ("a/one.jpg", "a/b/two.png", "a-b/two.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    return tmp_path / "photos"


def test_photos_and_alphas_lie_side_by_side(red_model, photos, tmp_path):
    out = tmp_path / "data" / "mine"
    command = ["matte", str(photos), "--out", str(out), "--weights", str(red_model), "--layout", "dataset"]
    assert main(command) == 0
    samples = read_data_set(tmp_path / "data", DataSet("mine", "mattes", 1.0))
    assert len(samples) == 3
    assert {sample.image.stem for sample in samples} == {path.stem for path in (out / "alpha").iterdir()}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "image" / "a-one.jpg").unlink()
    assert main(command) == 0  # finished files stay, and what is lacking comes back
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    assert (out / "image" / "a-one.jpg").is_file()


def test_a_copy_can_be_edited(red_model, photos, tmp_path):
    out = tmp_path / "out"
    main(
        [
            "matte",
            str(photos / "a" / "one.jpg"),
            "--out",
            str(out),
            "--weights",
            str(red_model),
            "--layout",
            "dataset",
        ]
    )
    (out / "image" / "one.jpg").write_bytes(b"edited")
    assert (photos / "a" / "one.jpg").read_bytes() != b"edited"


def test_other_results_are_refused(red_model, photos, tmp_path, capsys):
    command = ["matte", str(photos), "--out", str(tmp_path / "o"), "--weights", str(red_model)]
    assert main([*command, "--layout", "dataset", "--output", "cutout"]) == 2
    assert "--layout dataset" in capsys.readouterr().err
