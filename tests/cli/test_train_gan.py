"""`stylematte train gan/…`: what it says and refuses, and the mattes that it makes first."""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from stylematte_cli.app import main
from tests.conftest import red_detector
from tests.training import drawn
from tests.training.gan import runs
from tests.training.test_processes import TWO_PROCESSES
from training.checkpoint import load_state

FLAT = runs.TOML.replace(f'folder = "{runs.FACES}"', 'folder = "portraits"')


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "mine.toml"
    path.write_text(FLAT)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A flat folder of photos: the subject is red."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for number in range(9):
        image = rng.integers(90, 110, (48, 40, 3), np.uint8)
        image[12:36, 10:30] = (250, 5, 5)
        drawn.save(root / f"{number}.png", image)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "red.onnx"
    onnx.save(red_detector(), path)
    return path


def run(*arguments) -> int:
    return main(["train", *map(str, arguments)])


def refused(capsys, *arguments, code: int) -> str:
    assert run(*arguments) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("stylematte: error: ")
    return line


def test_recipes_explain_themselves(capsys):
    assert run("--list") == 0
    said = capsys.readouterr().out
    assert "\ngan/faces-1024: StyleGAN3-T of RGBA portraits at 1024 px" in said
    assert run("gan", "--list") == 0
    said = capsys.readouterr().out
    assert "  network StyleGAN3-T, 256 px, 4 channels\n  10000 kimg in batches of 32" in said
    assert (
        "  second discriminator on clip: photos against composites\n  augmentation: adaptive, target 0.6\n"
        in said
    )
    assert "    FFHQ: photos, layout ffhq" in said


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--stages", "matting"], "--stages"),
        (["--weights", "nano"], "--init"),
        (["--image", ".", "--mask", "."], "--image"),
        (["--student", "nano"], "--student"),
        (["--check-data"], "--check-data"),
        (["--precision", "bf16"], "--precision"),
    ],
)
def test_what_only_matting_understands_is_refused(capsys, recipe, given, named):
    line = refused(capsys, recipe, *given, code=2)
    assert f"{named} is for recipes of matting networks" in line


def test_what_cannot_be_meant(capsys, recipe, photos, tmp_path):
    assert "no such folder" in refused(capsys, recipe, "--data", tmp_path / "none", code=3)
    there = (recipe, "--data", photos, "--out", tmp_path / "out")
    assert "contains no run to resume" in refused(capsys, *there, "--resume", code=3)
    assert "no backbone" in refused(capsys, *there, "--backbone-weights", "x.safetensors", code=2)
    assert "--detector is for recipes that train a generator" in refused(
        capsys, "nano", "--detector", "nano", code=2
    )
    assert "--stop-after is for recipes that train a generator" in refused(
        capsys, "nano", "--stop-after", "9", code=2
    )
    assert "no such folder" not in refused(
        capsys, recipe, "--data", tmp_path, "--out", tmp_path / "out", code=3
    )
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts(capsys, recipe, photos, tmp_path):
    where = ("--data", photos, "--out", tmp_path / "run")
    assert run(recipe, *where, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "  9 images to train on, of which 9 will be matted first\n  10 steps, into " in said
    assert run(recipe, *where, "--dry-run", "--json", "--set", "kimg=0.16") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["to_matte"], found["steps"], found["dry_run"]) == (9, 9, 20, True)
    assert not (tmp_path / "run").exists()


def test_photos_are_matted_first_and_scores_are_taken(capsys, recipe, photos, model, tmp_path):
    out = tmp_path / "run"
    words = (recipe, "--data", photos, "--out", out, "--teacher", model, "--detector", "nano")
    assert run(*words) == 0
    captured = capsys.readouterr()
    assert f"matting 9 photos first, into {out / 'mattes'}" in captured.err
    matte = cv2.imread(str(out / "mattes" / photos.name / "3.alpha.png"), cv2.IMREAD_GRAYSCALE)
    assert matte.shape == (48, 40)
    assert matte[16:32, 14:26].min() > 250
    assert matte[:8].max() < 5
    assert "scores: FID by encoder of nano (" in captured.out
    assert "9 real and 8 generated images" in captured.out
    log = (out / "log.csv").read_text()
    assert log.count(",fid,") == log.count(",fid_composite,") == 2
    assert captured.out.splitlines()[-1].startswith(
        f"weights: {out / 'best.safetensors'}; next: stylematte synth"
    )
    assert run(*words, "--resume", "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_what_it_made_draws(capsys, recipe, photos, model, tmp_path):
    out = tmp_path / "run"
    words = (recipe, "--data", photos, "--out", out, "--teacher", model, "--detector", "none", "--quiet")
    assert run(*words) == 0
    weights = str(out / "best.safetensors")
    folder = tmp_path / "drawn"
    arguments = ["--weights", weights, "--n", "2", "--truncation", "1", "--out", str(folder), "--quiet"]
    assert main(["synth", *arguments]) == 0
    assert len(list(folder.glob("*.png"))) == 2
    config = json.loads((out / "config.json").read_text())
    assert config["sets"] == [{"folder": "portraits", "layout": "plain"}]


TWO = """
import sys, torch
from accelerate import PartialState
from accelerate.utils import gather_object
from pathlib import Path
from training.gan import loop
from training.gan.config import load_gan_recipe
snapshot, made = loop.GanModels.__init__, []
def keep(self, *arguments):
    made.append(self)
    snapshot(self, *arguments)
loop.GanModels.__init__ = keep
recipe, root, out = sys.argv[1:]
options = loop.GanOptions(Path(out), Path(out), workers=0)
loop.train_gan(load_gan_recipe(recipe), Path(root), options, lambda line: None)
state = made[0].state_dict()
mine = [t for part in ("generator", "average", "discriminator", "augment") for t in state[part].values()]
sums = gather_object([[float(t.double().sum()) for t in mine]])
assert len(sums) == 2 and sums[0] == sums[1], sums
PartialState().destroy_process_group()
threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads  # at the end they could abort the process
"""


def test_two_processes_are_one_run(tmp_path):
    root = runs.draw_faces(tmp_path / "data")
    (tmp_path / "mine.toml").write_text(runs.TOML)
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [*TWO_PROCESSES, str(script), str(tmp_path / "mine.toml"), str(root), str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert load_state(tmp_path / "out" / "state.pt")["step"] == 10
