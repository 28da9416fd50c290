"""`stylematte models`: a list, one card, and a file that is not what its card says."""

import hashlib
import json
import shutil
import sys

import pytest

from stylematte_cli import weights
from stylematte_cli.app import main


@pytest.fixture
def places(tmp_path, monkeypatch, red_model):
    """A package with one shipped model and its card, and a cache folder with a model without."""
    shipped, cache = tmp_path / "assets", tmp_path / "cache"
    shipped.mkdir()
    cache.mkdir()
    monkeypatch.setattr(weights, "ASSETS", shipped)
    monkeypatch.setenv("STYLEMATTE_HOME", str(cache))
    shutil.copy(red_model, shipped / "nano.onnx")
    shutil.copy(red_model, cache / "mine.onnx")
    card = {
        "name": "nano",
        "sha256": hashlib.sha256(red_model.read_bytes()).hexdigest(),
        "licence": "CC0-1.0",
        "summary": "Finds what is red.",
        "provenance": {"pictures": 0},
    }
    (shipped / "nano.json").write_text(json.dumps(card))
    return shipped, cache


@pytest.mark.parametrize("command", [["models"], ["models", "list"]])
def test_list_has_a_line_a_model(places, capsys, command):
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "SIZE", "LICENCE", "WHERE", "SUMMARY"]
    assert lines[1].startswith("nano")
    assert "CC0-1.0" in lines[1]
    assert lines[1].endswith("Finds what is red.")
    assert lines[2].startswith("mine")
    assert "not stated" in lines[2]
    assert str(places[1]) in lines[2]


def test_list_as_json(places, capsys):
    assert main(["models", "list", "--json"]) == 0
    nano, mine = json.loads(capsys.readouterr().out)["models"]
    assert (nano["name"], nano["shipped"], nano["licence"]) == ("nano", True, "CC0-1.0")
    assert (mine["name"], mine["shipped"], mine["licence"]) == ("mine", False, "")
    assert nano["kind"] == mine["kind"] == "model"
    assert nano["bytes"] == (places[0] / "nano.onnx").stat().st_size


def test_list_of_nothing_says_where_models_would_lie(places, capsys):
    (places[0] / "nano.onnx").unlink()
    (places[1] / "mine.onnx").unlink()
    assert main(["models"]) == 0
    assert str(places[1]) in capsys.readouterr().out


def test_show_verifies_the_file_and_reads_card_and_contract(places, capsys):
    assert main(["models", "show", "nano", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sha256"] == hashlib.sha256((places[0] / "nano.onnx").read_bytes()).hexdigest()
    assert facts["sha256_agrees_with_card"] is True
    assert facts["provenance"] == {"pictures": 0}
    assert facts["contract"]["preset"] == "red-detector"
    assert facts["contract"]["working_size"] == 128
    assert main(["models", "show", "nano"]) == 0
    text = capsys.readouterr().out
    assert "(agrees with the card)" in text
    assert "red-detector" in text


def test_show_takes_the_licence_of_a_model_without_card_from_its_contract(places, capsys):
    assert main(["models", "show", str(places[1] / "mine.onnx"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["licence"] == "CC0-1.0"
    assert facts["sha256_agrees_with_card"] is None


def test_show_refuses_a_file_that_is_not_what_its_card_says(places, capsys):
    with (places[0] / "nano.onnx").open("ab") as file:
        file.write(b"\0")
    assert main(["models", "show", "nano"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "its card says" in captured.err


def test_show_without_a_runtime_prints_the_card_and_says_what_is_missing(places, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["models", "show", "nano"]) == 4
    captured = capsys.readouterr()
    assert "Finds what is red." in captured.out
    assert 'pip install "stylematte[cpu]"' in captured.err


def test_show_of_an_unknown_name_lists_the_names(places, capsys):
    assert main(["models", "show", "giant"]) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'giant'" in error
    assert "nano, mine" in error
