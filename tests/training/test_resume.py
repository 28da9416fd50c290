"""A training run that is resumed is the run that nothing stopped."""

import dataclasses
import json

import pytest
import torch

from models.checkpoints import load_weights
from stylematte.errors import InputError
from tests.training import drawn
from tests.training.loop_runs import FIRST, RECIPE, SECOND, KilledError, assert_same_state, read_log, run
from training import checkpoint, loop
from training.checkpoint import load_state, save_state
from training.processes import join_processes


def killed_and_resumed(data_root, mattes, out, killed_at, recipe=RECIPE, **changes):
    """Kill a run in the step after so many, and go on with it; returns its last scores."""
    steps = []

    def killed(stage, done, losses):
        if len(steps) == killed_at:
            raise KilledError
        steps.append(done)

    with pytest.raises(KilledError):
        run(data_root, mattes, out, recipe, on_step=killed, **changes)
    lines = []
    scores = run(data_root, mattes, out, recipe, report=lines.append, **changes)
    assert lines[0].startswith("resuming at stage ")
    return scores


@pytest.mark.parametrize("killed_at", [4, 5, 7, 9])
def test_a_resumed_run_is_the_run_that_nothing_stopped(whole, data_root, mattes, tmp_path, killed_at):
    scores = killed_and_resumed(data_root, mattes, tmp_path, killed_at)
    out, wanted, _ = whole
    assert scores == wanted
    one, other = load_state(tmp_path / "state.pt"), load_state(out / "state.pt")
    assert set(one) == {"stage", "step", "best", "recipe", "origin", "model", "average", "optimiser"}
    assert_same_state(one, other)
    log, wanted_log = read_log(tmp_path), read_log(out)
    assert list(log.pop("images_per_s")) == list(wanted_log.pop("images_per_s"))
    assert log == wanted_log
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == len((out / "log.csv").read_text().splitlines())  # none twice


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("test", {"precision": "bf16"}),
        ("test", {"accumulate": 2}),
        ("test_swin", {}),  # with drop path
    ],
)
def test_so_it_is_whatever_the_network_and_the_precision(data_root, mattes, tmp_path, preset, changes):
    stage = dataclasses.replace(FIRST, side=(64, 64), composite=0.0)
    recipe = dataclasses.replace(drawn.recipe(stage), preset=preset)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(data_root, mattes, whole, recipe, **changes)
    killed_and_resumed(data_root, mattes, resumed, 5, recipe, **changes)
    assert_same_state(load_state(resumed / "state.pt"), load_state(whole / "state.pt"))


def test_killed_while_the_state_is_written_it_goes_on_from_the_one_before(
    whole, data_root, mattes, tmp_path, monkeypatch
):
    saves = []

    def killed(path, state):
        saves.append(state["step"])
        if len(saves) == 2:
            raise KilledError
        save_state(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", killed)
        with pytest.raises(KilledError):
            run(data_root, mattes, tmp_path)
    lines = []
    run(data_root, mattes, tmp_path, report=lines.append)
    assert lines[0] == "resuming at stage 1, step 3"
    assert_same_state(load_state(tmp_path / "state.pt")["model"], load_state(whole[0] / "state.pt")["model"])


def test_a_finished_run_stays_as_it_is(data_root, mattes, tmp_path):
    run(data_root, mattes, tmp_path, drawn.recipe(FIRST))
    before = (tmp_path / "last.safetensors").read_bytes()
    run(data_root, mattes, tmp_path, drawn.recipe(FIRST))
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_another_recipe_is_refused(whole, data_root, mattes):
    before = (whole[0] / "config.json").read_bytes()
    with pytest.raises(InputError, match="contains a run of another recipe"):
        run(data_root, mattes, whole[0], drawn.recipe(FIRST, SECOND, seed=4))
    assert (whole[0] / "config.json").read_bytes() == before


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1, "model": {"w": torch.ones(3)}})

    def full_disk(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_state(path, {"step": 2})
    assert load_state(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    (tmp_path / ".state.pt.part").write_bytes(b"half")
    save_state(tmp_path / "state.pt", {"step": 3})
    assert load_state(tmp_path / "state.pt") == {"step": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04 half a zip"])
def test_a_damaged_state_is_named(tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.pt"):
        load_state(tmp_path / "state.pt")


def test_a_run_is_not_gone_on_with_under_another_teacher_or_start(data_root, mattes, tmp_path):
    run(data_root, mattes, tmp_path, drawn.recipe(FIRST), origin={"teacher": "a" * 64})
    assert json.loads((tmp_path / "config.json").read_text())["origin"] == {"teacher": "a" * 64}
    assert load_weights(tmp_path / "last.safetensors")[1]["origin"] == {"teacher": "a" * 64}
    with pytest.raises(InputError, match=r"started from other weights \(teacher\)"):
        run(data_root, mattes, tmp_path, drawn.recipe(FIRST), origin={"teacher": "b" * 64})
    with pytest.raises(InputError, match="started from other weights"):
        run(data_root, mattes, tmp_path, drawn.recipe(FIRST))


def test_the_scaler_of_half_precision_is_saved_and_gone_on_with(data_root, mattes, tmp_path, monkeypatch):
    """On a processor, with the parts that accelerate puts together on a GPU."""

    def with_scaler(*arguments):
        accelerator = join_processes("cpu")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        accelerator.unscale_gradients = lambda: accelerator.scaler.unscale_(
            accelerator._optimizers[0].optimizer
        )
        return accelerator

    monkeypatch.setattr(loop, "join_processes", with_scaler)
    recipe, whole, resumed = drawn.recipe(FIRST, SECOND), tmp_path / "whole", tmp_path / "resumed"
    run(data_root, mattes, whole, recipe)
    killed_and_resumed(data_root, mattes, resumed, 5, recipe)
    state = load_state(resumed / "state.pt")
    assert state["scaler"]["scale"] == 2.0**13  # doubled after every third of ten steps
    assert_same_state(state, load_state(whole / "state.pt"))
