"""The loop: it moves both sides, stops and goes on exactly, and says what is wrong."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.gan.checkpoints import load_generator
from stylematte.errors import InputError
from stylematte.weights import ASSETS
from stylematte_cli.app import main
from tests.training import drawn
from tests.training.gan import runs
from tests.training.test_loop import KilledError, assert_same_state
from training.checkpoint import TrainingError, load_state
from training.config import RecipeError
from training.data.readers import DataError
from training.gan import loop as gan_loop
from training.gan import players, scores
from training.gan.loop import GanOptions, train_gan


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.draw_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return runs.load(tmp_path_factory.mktemp("recipes"))


def run(recipe, root, out, report=lambda line: None, on_step=None, **changes):
    options = GanOptions(out, out / "mattes", workers=0, **changes)
    return train_gan(recipe, root, options, report, on_step=on_step)


@pytest.fixture(scope="module")
def whole(recipe, root, tmp_path_factory):
    """Folder and lines of a run that nothing stopped."""
    out, lines = tmp_path_factory.mktemp("run"), []
    run(recipe, root, out, lines.append)
    return out, lines


def test_a_run_leaves_all_that_it_promises(whole, recipe):
    out, lines = whole
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and "events" not in p.name}
    assert names == {
        *("config.json", "log.csv", "state.pt", "last.safetensors", "best.safetensors"),
        *("snapshots/000000.040.safetensors", "snapshots/000000.080.safetensors", "sheets/reals.png"),
        *("sheets/000000.040.png", "sheets/000000.040_truncation.png"),
        *("sheets/000000.080.png", "sheets/000000.080_truncation.png"),
    }
    assert lines[0] == "StyleGAN3-T, 16 px; 12 images"
    assert lines[-1].startswith("0.1/0.08 kimg  generator ")
    generator, provenance = load_generator(out / "last.safetensors")
    assert provenance["kimg"] == 0.08
    assert generator.config == recipe.generator
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["name"] for r in rows} == {*("generator", "discriminator", "r1", "images_per_s", "augment_p")}
    assert {r["step"] for r in rows} == {"40", "80"}


def test_both_sides_learn(whole, recipe):
    state = load_state(whole[0] / "state.pt")["players"]
    torch.manual_seed(recipe.seed)
    fresh = players.GanModels(recipe, Accelerator(cpu=True)).state_dict()
    for name in ("generator", "average", "discriminator"):
        moved = [
            key
            for key, tensor in fresh[name].items()
            if not torch.equal(tensor, state[name][key]) and not key.endswith("_filter")
        ]
        assert any(key.endswith("weight") for key in moved)
    assert not torch.equal(fresh["generator"]["mapping.w_avg"], state["generator"]["mapping.w_avg"])
    assert_same_state(
        state["average"]["mapping.w_avg"], state["generator"]["mapping.w_avg"]
    )  # running means are taken over as they are


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(recipe, root, tmp_path, whole, accumulate):
    unbroken = whole[0]
    if accumulate > 1:
        unbroken = tmp_path / "whole"
        run(recipe, root, unbroken, accumulate=accumulate)

    def dies(done):
        if done == 8:  # two steps after a snapshot, one before the augmentation changes
            raise KilledError

    with pytest.raises(KilledError):
        run(recipe, root, tmp_path / "run", on_step=dies, accumulate=accumulate)
    assert load_state(tmp_path / "run" / "state.pt")["step"] == 5
    lines = []
    run(recipe, root, tmp_path / "run", lines.append, accumulate=accumulate)
    assert "resuming at 0.04 kimg" in lines
    states = [load_state(folder / "state.pt") for folder in (unbroken, tmp_path / "run")]
    assert_same_state(*states)
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (unbroken, tmp_path / "run")]
    kept = [[line for line in log if "images_per_s" not in line] for log in logs]
    assert kept[0] == kept[1]


def test_stopped_by_time_it_goes_on_to_the_same_bits(recipe, root, tmp_path, whole):
    lines = []
    run(recipe, root, tmp_path / "run", lines.append, stop_after_s=0)
    assert lines[-1] == "stopped after 0 s; the same command resumes"
    assert load_state(tmp_path / "run" / "state.pt")["step"] == 1
    run(recipe, root, tmp_path / "run")
    states = [load_state(folder / "state.pt")["players"] for folder in (whole[0], tmp_path / "run")]
    assert_same_state(*states)


def test_killed_while_saving_it_keeps_the_state_before(recipe, root, tmp_path):
    (tmp_path / "mine.toml").write_text(runs.TOML)
    words = ["train", tmp_path / "mine.toml", "--data", root, "--out", tmp_path / "run", "--detector", "none"]
    arguments = [str(word) for word in words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    died = subprocess.run(
        [sys.executable, "-c", drawn.DIES_WHILE_SAVING, *arguments],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert load_state(tmp_path / "run" / "state.pt")["step"] == 5
    assert main([*arguments, "--resume", "--quiet"]) == 0
    assert load_state(tmp_path / "run" / "state.pt")["step"] == recipe.steps
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_state(recipe, root, tmp_path, monkeypatch):
    loss = players.generator_loss
    calls = []

    def breaks(logits):
        calls.append(1)
        return loss(logits) * (torch.nan if len(calls) > 7 else 1)

    monkeypatch.setattr(players, "generator_loss", breaks)
    with pytest.raises(TrainingError, match=r"loss generator is not finite after 0\.08 kimg; .*state\.pt is"):
        run(recipe, root, tmp_path)
    state = load_state(tmp_path / "state.pt")
    assert state["step"] == 5
    assert all(t.isfinite().all() for t in state["players"]["generator"].values())


def test_folders_and_batches_that_do_not_fit(recipe, root, tmp_path, whole):
    other = dataclasses.replace(recipe, seed=6)
    with pytest.raises(InputError, match="run of another recipe"):
        run(other, root, whole[0])
    with pytest.raises(RecipeError, match="batch_size 8 is not a multiple of 1 processes times 3"):
        run(recipe, root, tmp_path, accumulate=3)
    wide = dataclasses.replace(recipe, discriminator=dataclasses.replace(recipe.discriminator, group=3))
    with pytest.raises(RecipeError, match="8 images per pass are not a multiple"):
        run(wide, root, tmp_path)
    with pytest.raises(DataError, match="no such data set folder"):
        run(recipe, tmp_path / "nowhere", tmp_path / "out")


def test_first_images_come_before_the_first_snapshot_and_change_nothing(
    recipe, root, tmp_path, monkeypatch, whole
):
    monkeypatch.setattr(gan_loop, "FIRST_LOOK_STEPS", 2)
    run(recipe, root, tmp_path)
    assert (tmp_path / "sheets" / "000000.016.png").exists()
    assert not (tmp_path / "snapshots" / "000000.016.safetensors").exists()
    assert_same_state(load_state(tmp_path / "state.pt"), load_state(whole[0] / "state.pt"))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Images("sheet")] == [16, 40, 80]


def test_a_generator_that_draws_no_numbers_has_no_score(recipe, root, tmp_path, monkeypatch):
    drawn = scores.draw
    monkeypatch.setattr(scores, "draw", lambda *a: drawn(*a) * torch.nan)
    options = {"detector": "nano", "folders": (ASSETS,)}
    with pytest.raises(TrainingError, match=r"no score after 0\.04 kimg: the generator's images"):
        run(recipe, root, tmp_path, **options)
    assert not (tmp_path / "best.safetensors").exists()


def test_what_is_finished_is_left_alone(recipe, root, whole):
    before = (whole[0] / "state.pt").stat().st_mtime_ns
    assert run(recipe, root, whole[0]) == {}
    assert (whole[0] / "state.pt").stat().st_mtime_ns == before


def test_sheets_show_the_images_over_a_checkerboard(whole):
    sheet = cv2.imread(str(whole[0] / "sheets" / "reals.png"))
    assert sheet.shape == (2 * 16, 8 * 16, 3)
    corner = cv2.imread(str(whole[0] / "sheets" / "000000.080.png")).shape
    assert corner == (6 * 16, 8 * 16, 3)
    assert np.unique(sheet[20:, 100:].reshape(-1, 3), axis=0).tolist() == [[90] * 3, [165] * 3]  # no image


def test_the_config_says_what_was_learnt(whole, recipe):
    config = json.loads((whole[0] / "config.json").read_text())
    assert config["generator"]["size_px"] == 16
    assert all("versions" in start for start in config.pop("starts"))
    assert config == json.loads(json.dumps(recipe.digest() | {"origin": {}}))
