"""`stylematte models`: a list, one card, and a file that is not what its card says."""

import dataclasses
import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from models.checkpoints import read_tensors, save_weights, write_tensors
from models.gan.checkpoints import save_generator
from models.gan.generator import Generator, GeneratorConfig
from models.presets import PRESETS
from stylematte import weights
from stylematte_cli.app import main
from stylematte_cli.commands.model_card import card_lines
from tests.models.networks import lively


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
    assert lines[0].split() == ["NAME", "KIND", "SIZE", "LICENCE", "COMMERCIAL", "WHERE", "SUMMARY"]
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


def test_list_says_what_a_file_is_for_even_a_damaged_one(places, capsys):
    save_file({"x": np.zeros(1, np.float32)}, places[1] / "portraits.safetensors", {"network": "stylegan3"})
    save_file({"x": np.zeros(1, np.float32)}, places[1] / "own.safetensors", {"preset": "nano"})
    (places[1] / "cut.safetensors").write_bytes(b"half")
    assert main(["models", "list", "--json"]) == 0
    kinds = {m["name"]: m["kind"] for m in json.loads(capsys.readouterr().out)["models"]}
    assert kinds == {
        "nano": "model",
        "mine": "model",
        "portraits": "generator",
        "own": "training",
        "cut": "damaged",
    }


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
    assert "(matches the card)" in text
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
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main(["models", "show", "nano"]) == 4
    captured = capsys.readouterr()
    assert "Finds what is red." in captured.out
    assert 'pip install "stylematte[cpu]"' in captured.err


def shown(capsys, path) -> list[str]:
    assert main(["models", "show", str(path)]) == 0
    return capsys.readouterr().out.splitlines()


def row(lines, key) -> str:
    (line,) = [line for line in lines if line.startswith(f"  {key} ")]
    return line.removeprefix(f"  {key} ").strip()


def test_the_model_that_ships_fits_a_screen(capsys):
    lines = shown(capsys, "nano")
    assert len(lines) <= 20
    assert not [line for line in lines if "{" in line or "}" in line]
    assert row(lines, "licence") == "CC-BY-NC-4.0"
    assert row(lines, "network").startswith(
        "nano; input of about 480² pixels, sides multiples of 32; trained for sizes"
    )
    provenance = read_tensors(weights.ASSETS / "nano.safetensors")[2]  # the model's is of its weights
    trained_on = provenance["data"]["people_portrait"]["trained_on"]
    assert row(lines, "data").startswith(f"people portrait {trained_on}, people street ")
    assert row(lines, "parity").startswith("alpha differs from torch by at most ")
    assert row(lines, "steps") == f"{provenance['steps']:,}"


def test_weights_without_a_card_say_what_stands_in_them(tmp_path, capsys):
    preset = dataclasses.replace(PRESETS["test"], radius_px=2)
    path = tmp_path / "best.safetensors"
    save_weights(lively(preset), path, {"steps": 1200, "scores": {"iou": 0.91234567, "best": 3}})
    lines = shown(capsys, path)
    assert lines[0] == "best"
    assert row(lines, "kind") == "weights for training, and for `stylematte export`"
    assert row(lines, "licence") == "not stated"
    assert row(lines, "network") == 'test; with {"radius_px": 2}'
    assert row(lines, "steps") == "1,200"
    assert row(lines, "scores") == "iou 0.9123, best 3"
    assert row(lines, "more") == "run the same command with --json"
    assert main(["models", "show", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["provenance"] == {"steps": 1200, "scores": {"iou": 0.91234567, "best": 3}}
    assert facts["network"] == {"preset": "test", "changes": {"radius_px": 2}}
    assert facts["contract"] == {}


def test_weights_that_say_nothing(tmp_path, capsys):
    path = tmp_path / "plain.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {})
    lines = shown(capsys, path)
    assert row(lines, "trained on") == "not stated"
    path.write_bytes(b"nothing")
    assert main(["models", "show", str(path)]) == 3
    assert "plain.safetensors: not a readable safetensors file" in capsys.readouterr().err


def test_a_generator(tmp_path, capsys):
    tiny = GeneratorConfig(size_px=16, z_dim=8, w_dim=8, channel_base=128, channel_max=8, layers=4, margin=2)
    save_generator(Generator(tiny), tmp_path / "faces.safetensors", {"kimg": 2.5})
    lines = shown(capsys, tmp_path / "faces.safetensors")
    assert row(lines, "kind").startswith("weights of a generator")
    assert row(lines, "network").startswith("stylegan3: {")
    assert row(lines, "kimg") == "2.5"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a_b": 1200, "c": {"trained_on": 3}}, "a b 1,200, c 3"),
        ([{"name": "one", "steps": 1000}, {"name": "two"}], "one 1,000; two"),
        ({"deep": {"er": [1, 2]}}, '{"deep": {"er": [1, 2]}}'),
        (["x" * 200], '["' + "x" * 96 + " …"),
        (True, "true"),
        (None, "null"),
        ({}, "{}"),
        ("as it is", "as it is"),
    ],
)
def test_whatever_provenance_holds_takes_one_line(value, said):
    facts = dict.fromkeys(("name", "file", "where", "sha256", "licence", "summary"), "x")
    facts |= {"kind": "model", "bytes": 1, "sha256_agrees_with_card": None, "contract": {}, "network": {}}
    assert row(list(card_lines(facts | {"provenance": {"what": value}})), "what") == said


def test_show_of_an_unknown_name_lists_the_names(places, capsys):
    assert main(["models", "show", "giant"]) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'giant'" in error
    assert "nano, mine" in error
