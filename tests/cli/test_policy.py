"""--policy commercial: weights that do not clearly allow commercial use are refused before any work."""

import json

import cv2
import numpy as np
import onnx
import pytest

from stylematte_cli.app import main
from tests.conftest import red_detector


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Models of three licences, as their files say: none has a card."""
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name, licence in {"free": "MIT", "closed": "CC-BY-NC-4.0", "mute": ""}.items():
        model = red_detector()
        for entry in model.metadata_props:
            if entry.key == "stylematte.licence":
                entry.value = licence
        onnx.save(model, tmp_path / "home" / f"{name}.onnx")
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((40, 60, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize(("weights", "code"), [("free", 0), ("closed", 3), ("mute", 3)])
def test_matte(home, capsys, weights, code):
    command = ["matte", str(home / "photo.png"), "--out", str(home / "out"), "--weights", weights]
    assert main([*command, "--policy", "commercial"]) == code
    assert ("policy commercial" in capsys.readouterr().err) == bool(code)
    assert (home / "out").exists() == (code == 0)
    assert main(command) == 0


def test_the_environment_says_it_for_all_commands(home, capsys, monkeypatch):
    monkeypatch.setenv("STYLEMATTE_POLICY", "commercial")
    out = str(home / "out")
    for command in (
        ["matte", str(home / "photo.png"), "--weights", "closed", "--out", out],
        ["export", "--weights", "nano", "--out", out],
        ["train", "distill", "--data", str(home), "--teacher", "nano", "--dry-run", "--out", out],
    ):
        assert main(command) == 3, command
        assert "CC-BY-NC-4.0, which forbids commercial use" in capsys.readouterr().err
    assert not (home / "out").exists()


def test_the_manifest_names_the_licence(home):
    assert main(["matte", str(home / "photo.png"), "--out", str(home / "out"), "--weights", "free"]) == 0
    (line,) = (home / "out" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["licence"] == "MIT"


def test_a_policy_that_is_none_is_a_usage_error(home, capsys):
    command = ["matte", str(home / "photo.png"), "--out", str(home / "out"), "--weights", "free"]
    assert main([*command, "--policy", "strict"]) == 2
