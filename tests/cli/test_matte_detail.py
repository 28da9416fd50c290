"""`stylematte matte --detail`: what it makes, and when a result is made anew."""

import json
from pathlib import Path

import numpy as np
import pytest

from stylematte_cli.app import main
from tests.images import load, save
from tests.refiners import red_strands, save_pair


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return save_pair(folder)


def run(tmp_path: Path, model: Path, *words: str) -> int:
    inputs = [
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--weights",
        str(model),
        "--device",
        "cpu",
    ]
    return main(["matte", *inputs, *words])


def test_more_detail_is_another_result(tmp_path: Path, model: Path, capsys) -> None:
    image, truth = red_strands(400, 500)
    save(tmp_path / "in" / "a.png", image)
    errors = []
    for words in ((), ("--detail", "off"), ("--detail", "max")):
        assert run(tmp_path, model, *words, "--json") == 0
        assert json.loads(capsys.readouterr().out)["done"] == 1
        errors.append(np.abs(load(tmp_path / "out" / "a.png") / 255 - truth).mean())
    auto, off, most = errors
    assert auto == most < 0.5 * off
    assert run(tmp_path, model, "--detail", "max", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["finished_before"]) == (0, 1)
    assert told["settings"]["detail"] == "max"


def test_a_plan_says_what_it_will_cost(tmp_path: Path, model: Path, capsys) -> None:
    save(tmp_path / "in" / "a.png", red_strands(100, 100)[0])
    assert run(tmp_path, model, "--detail", "3", "--dry-run") == 0
    assert "at most 3 megapixels" in capsys.readouterr().err
    assert run(tmp_path, model, "--detail", "off", "--dry-run") == 0
    assert "megapixels" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["fine", "0", "-2"])
def test_what_cannot_be_meant_is_refused(tmp_path: Path, model: Path, capsys, text: str) -> None:
    save(tmp_path / "in" / "a.png", red_strands(100, 100)[0])
    assert run(tmp_path, model, f"--detail={text}") == 2
    assert "detail" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
