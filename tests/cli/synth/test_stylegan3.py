"""`stylematte synth` with weights of a StyleGAN3, and which it takes if none are named."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from models.gan.checkpoints import load_generator, save_generator
from models.gan.generator import Generator, GeneratorConfig, rgba_of
from stylematte import weights as weights_module
from stylematte.errors import UsageError
from stylematte_cli.app import main
from tests.cli.synth.runs import manifest, run
from training.synthesis.drawing import SamplingPlan
from training.synthesis.run import SynthesisRequest, synthesize


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The folder of what ships, and a home and a working folder without anything."""
    assets = tmp_path / "assets"
    (tmp_path / "work").mkdir()
    assets.mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(weights_module, "ASSETS", assets)
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    return assets


def test_without_a_generator_one_line_says_where_one_is_had(package, capsys):
    assert main(["synth", "--n", "10000", "--truncation", "0.7"]) == 4
    err = capsys.readouterr().err
    assert "weights 'faces', the default generator, are missing" in err
    assert "`stylematte models import humans.pkl --name faces`" in err
    assert "`stylematte train gan`" in err
    assert err.count("\n") == 1
    assert not any(Path.cwd().iterdir())


def test_a_generator_that_ships_draws_if_none_is_named(package, capsys):
    path = package / "faces.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path, {"network": "stylegan3"})
    assert main(["synth", "--n", "2", "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["out"], report["pictures"]) == ("synthetic", 2)
    assert report["settings"]["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert main(["models", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["models"]
    assert (listed["name"], listed["kind"], listed["shipped"]) == ("faces", "generator", True)
    with pytest.raises(UsageError, match="an included model has this name"):
        weights_module.new_path("faces")


def stylegan3(path: Path, channels: int = 4) -> Path:
    """Random weights of the smallest kind, the last layer enlarged until images differ."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        size_px=16, channels=channels, channel_base=256, channel_max=16, z_dim=8, w_dim=8
    )
    generator = Generator(config)
    with torch.no_grad():
        list(generator.synthesis.children())[-1].weight.mul_(40)
    save_generator(generator, path, {})
    return path


def test_a_stylegan3_file(tmp_path, capsys):
    """Number 4 by hand: noise, truncation and pose as the manifest has them."""
    weights, out = stylegan3(tmp_path / "g.safetensors"), tmp_path / "out"
    run(
        out,
        weights,
        "--n",
        6,
        "--truncation",
        "0.3:0.9",
        "--jitter",
        "0.1:20",
        "--batch-size",
        4,
        "--seed",
        5,
    )
    line = next(line for line in manifest(out) if line["index"] == 4)
    noise = np.random.default_rng((5, 4)).standard_normal(8, np.float32)
    angle, (x, y) = np.radians(line["turn_deg"]), line["shift"]
    movement = np.array([[np.cos(angle), -np.sin(angle), x], [np.sin(angle), np.cos(angle), y], [0, 0, 1]])
    generator, _ = load_generator(weights)
    with torch.no_grad():
        lookup = torch.from_numpy(np.linalg.inv(movement)).float()[None]
        wanted = rgba_of(generator(torch.from_numpy(noise)[None], line["truncation"], lookup))
    rgba = cv2.cvtColor(cv2.imread(str(out / line["output"]), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    np.testing.assert_allclose(rgba.transpose(2, 0, 1), wanted[0] * 255, atol=1.01)
    assert wanted.std() > 0.1


def test_a_stylegan3_file_without_alpha_is_refused(tmp_path, capsys):
    run(tmp_path / "out", stylegan3(tmp_path / "g.safetensors", 3), "--n", 6, code=3)
    assert "3 channels and no alpha" in capsys.readouterr().err


def test_a_stylegan3_file_that_is_none_is_refused(tmp_path, weights, capsys):
    run(tmp_path / "out", weights, "--n", 6, code=3)
    assert "safetensors" in capsys.readouterr().err


def test_a_stylegan3_in_bf16_is_a_setting_of_its_own(tmp_path, capsys):
    path = stylegan3(tmp_path / "g.safetensors")
    exact, fast = tmp_path / "fp32", tmp_path / "bf16"
    run(exact, path, "--n", 3)
    run(fast, path, "--n", 3, "--precision", "bf16")
    assert "precision" not in manifest(exact)[0]["settings"]
    assert manifest(fast)[0]["settings"]["precision"] == "bf16"
    a, b = ([cv2.imread(str(p), -1).astype(int) for p in sorted(d.glob("*.png"))] for d in (exact, fast))
    assert 0 < np.abs(np.array(a) - b).mean() < 3
    run(fast, path, "--n", 4, code=3)
    assert "precision" in capsys.readouterr().err


def test_a_stylegan3_in_bf16_is_for_cpus(tmp_path):
    request = SynthesisRequest(
        tmp_path / "out",
        stylegan3(tmp_path / "g.safetensors"),
        SamplingPlan(),
        precision="bf16",
        device="cuda:0",
    )
    with pytest.raises(UsageError, match="--precision bf16 is for CPUs"):
        synthesize(request, lambda *_: None)
