"""The training loop: it learns, it stops and goes on exactly, and nothing of a run is lost."""

import dataclasses
import json
import shlex
import sys

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.checkpoints import CheckpointError, load_weights
from models.presets import PRESETS
from models.stylematte import build_model
from stylematte.errors import InputError
from tests.training import drawn
from tests.training.loop_runs import FIRST, RECIPE, SECOND, KilledError, assert_same_state, read_log, run
from training import loop
from training.checkpoint import load_start, load_state
from training.config import RecipeError, Stage
from training.data.readers import DataError
from training.held_out import HeldOutSplit, held_out_items, predict, score
from training.loop import RunOptions, TrainingError, train
from training.losses import LOSSES
from training.optimiser import learning_rate
from training.processes import reseed


def test_twenty_steps_lower_the_loss(data_root, mattes, tmp_path):
    losses = []
    stage = Stage(
        "s", 20, 4, (96, 128), 1e-2, encoder_rate=1, warmup_steps=2, composite=0, coarse={"bce": 1.0}
    )
    recipe = dataclasses.replace(drawn.recipe(stage), sets=drawn.recipe().sets[:1])
    options = RunOptions(tmp_path, mattes, workers=0, every=20)
    train(recipe, data_root, options, report=lambda line: None, on_step=lambda *a: losses.append(a))
    assert [(stage, done) for stage, done, _ in losses] == [(0, done + 1) for done in range(20)]
    assert all(set(found) == {"loss", "coarse_bce"} for _, _, found in losses)
    losses = [found["loss"] for _, _, found in losses]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_run_leaves_what_it_promises(whole):
    out, scores, lines = whole
    assert {p.name for p in out.iterdir()} == {
        *("config.json", "log.csv", "tensorboard", "previews", "state.pt"),
        *("last.safetensors", "best.safetensors"),
    }
    config = json.loads((out / "config.json").read_text())
    (start,) = config.pop("starts")
    assert config == json.loads(json.dumps(RECIPE.digest())) | {"origin": {}}
    assert start["command"] == shlex.join(sys.argv)
    assert torch.__version__.startswith(start["versions"]["torch"].partition("+")[0])
    assert set(start["versions"]) >= {"python", "torch", "accelerate"}
    assert list((out / "tensorboard").iterdir())
    assert set(scores) == {"iou", "band", f"iou/{drawn.PEOPLE}", f"band/{drawn.PEOPLE}"}
    assert 0 <= scores["iou"] <= 1
    assert 0 <= scores["band"] <= 1
    assert any(line.startswith("matting 4/4  loss ") for line in lines)


def test_the_log_has_every_number(whole):
    out, scores, _ = whole
    log = read_log(out)
    assert list(log["loss"]) == [3, 6, 9, 10]
    assert list(log["coarse_dice"]) == [3, 6]
    assert list(log["fine_l2"]) == list(log["fine_laplacian"]) == [9, 10]
    for step in (3, 6):
        assert log["loss"][step] == pytest.approx(
            log["coarse_bce"][step] + log["coarse_dice"][step], rel=1e-4
        )
    assert log["iou"][10] == pytest.approx(scores["iou"], rel=1e-4)
    assert all(value > 0 for value in log["images_per_s"].values())


def test_the_board_has_rates_and_sheets(whole):
    board = EventAccumulator(str(whole[0] / "tensorboard")).Reload()
    assert [event.step for event in board.Images("previews")] == [3, 6, 9, 10]
    rates = {event.step: event.value for event in board.Scalars("learning_rate")}
    assert rates[6] == pytest.approx(learning_rate(FIRST, 5))
    assert rates[10] == pytest.approx(learning_rate(SECOND, 3))


def test_a_first_look_changes_nothing(data_root, mattes, tmp_path, monkeypatch):
    """It comes long before --every, chooses no weights, and a run goes on from its state."""
    run_long = {"workers": 0, "every": 100}
    for name, steps in (("never", 99), ("looked", 2)):
        monkeypatch.setattr(loop, "FIRST_LOOK_STEPS", steps)
        train(RECIPE, data_root, RunOptions(tmp_path / name, mattes, **run_long), report=lambda line: None)
    never, looked = (tmp_path / name for name in ("never", "looked"))
    assert list(read_log(looked)["iou"]) == [2, 6, 10]
    assert list(read_log(never)["iou"]) == [6, 10]
    assert (looked / "previews" / "000002.png").exists()
    assert_same_state(load_state(looked / "state.pt"), load_state(never / "state.pt"))
    for file in ("last.safetensors", "best.safetensors"):
        assert (looked / file).read_bytes() == (never / file).read_bytes()

    # Killed after the look, it goes on from there.
    def killed(stage, done, losses):
        if done == 5:
            raise KilledError

    again = tmp_path / "again"
    options = RunOptions(again, mattes, **run_long)
    with pytest.raises(KilledError):
        train(RECIPE, data_root, options, report=lambda line: None, on_step=killed)
    assert not (again / "best.safetensors").exists()  # weights of a first look are chosen by nobody
    lines = []
    train(RECIPE, data_root, options, report=lines.append)
    assert lines[0] == "resuming at stage 1, step 2"
    assert_same_state(load_state(again / "state.pt"), load_state(never / "state.pt"))
    assert len(json.loads((again / "config.json").read_text())["starts"]) == 2


def test_scores_that_are_no_numbers_end_the_run(data_root, mattes, tmp_path, monkeypatch):
    monkeypatch.setattr(HeldOutSplit, "error", lambda self, scores: float("nan"))
    with pytest.raises(TrainingError, match="the scores of step 3 of segmentation are nan"):
        run(data_root, mattes, tmp_path)
    assert not (tmp_path / "best.safetensors").exists()


def test_previews_show_image_label_alpha_and_composite(whole, data_root):
    sheets = sorted((whole[0] / "previews").iterdir())
    assert [p.name for p in sheets] == ["000003.png", "000006.png", "000009.png", "000010.png"]
    sheet = cv2.imread(str(sheets[-1]))
    assert sheet.shape[1] == 1024
    sample, _ = held_out_items(data_root, RECIPE, 30)[0]
    photo = cv2.imread(str(sample.image))
    height = 1024 * photo.shape[0] // (4 * photo.shape[1])
    shown = cv2.resize(photo, (256, height), interpolation=cv2.INTER_AREA)
    assert np.abs(sheet[:height, :256].astype(int) - shown).mean() < 12
    label, alpha = sheet[:height, 264:504], sheet[:height, 520:760]  # columns blend where they meet
    assert np.ptp(label.astype(int), axis=2).max() <= 1  # grey
    assert np.ptp(alpha.astype(int), axis=2).max() <= 1
    assert label[height // 2, 120, 0] > 200  # the disc is in the middle
    assert label[2, 2, 0] < 50


def test_weights_carry_the_average_and_where_they_come_from(whole):
    model, provenance = load_weights(whole[0] / "last.safetensors")
    average = load_state(whole[0] / "state.pt")["average"]
    assert all(torch.equal(tensor, average[name]) for name, tensor in model.state_dict().items())
    assert provenance["steps"] == 10
    assert provenance["recipe"]["seed"] == 3
    assert set(provenance["scores"]) >= {"iou", "band"}


def test_what_a_stage_freezes_stays_and_learns_in_the_next(data_root, mattes, tmp_path):
    frozen = dataclasses.replace(FIRST, frozen=2)
    recipe = drawn.recipe(frozen, SECOND)
    torch.manual_seed(recipe.seed)
    start = build_model(recipe.build_preset())

    def killed(stage, done, losses):
        if stage == 1:
            raise KilledError

    with pytest.raises(KilledError):
        run(data_root, mattes, tmp_path, recipe, on_step=killed)
    seen = [load_state(tmp_path / "state.pt")["model"]]
    run(data_root, mattes, tmp_path, recipe)
    seen.append(load_state(tmp_path / "state.pt")["model"])

    def moved(one, other) -> set[int]:
        names = (
            n.removeprefix("encoder.") for n in one if n.startswith("encoder.") and "num_batches" not in n
        )
        return {
            start.encoder.level_of(n)
            for n in names
            if not torch.equal(one[f"encoder.{n}"], other[f"encoder.{n}"])
        }

    assert moved(start.state_dict(), seen[0]) == {2, 3, 4}
    assert moved(seen[0], seen[1]) == {0, 1, 2, 3, 4}


def test_drop_path_is_drawn_anew_at_every_step_and_in_every_process(data_root, mattes):
    model = build_model("test_swin").train()
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def answer(*place: int) -> torch.Tensor:
        reseed(*place)
        return model(image, image).coarse_logits.detach()

    assert torch.equal(answer(3, 0, 5, 0, 0), answer(3, 0, 5, 0, 0))
    others = [answer(4, 0, 5, 0, 0), answer(3, 1, 5, 0, 0), answer(3, 0, 6, 0, 0)]
    others += [answer(3, 0, 5, 1, 0), answer(3, 0, 5, 0, 1)]
    assert not any(torch.equal(answer(3, 0, 5, 0, 0), other) for other in others)


def test_norms_that_are_frozen_keep_their_statistics(data_root, mattes, tmp_path):
    for frozen in (True, False):
        stage = dataclasses.replace(FIRST, freeze_norms=frozen)
        run(data_root, mattes, tmp_path / str(frozen), drawn.recipe(stage))
        state = load_state(tmp_path / str(frozen) / "state.pt")["model"]
        means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
        assert all((mean == 0).all() for mean in means) == frozen


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(data_root, mattes, tmp_path, monkeypatch):
    calls = []

    def broken(logits, alpha, weight):
        calls.append(alpha)
        return logits.sum() * (float("nan") if len(calls) == 5 else 0)

    monkeypatch.setitem(LOSSES, "bce", broken)
    with pytest.raises(TrainingError, match=r"loss is nan at step 4 of segmentation.*nan_batch\.pt"):
        run(data_root, mattes, tmp_path)
    kept = torch.load(tmp_path / "nan_batch.pt", weights_only=True)
    assert set(kept["batch"]) == {"image", "guide", "alpha", "weight"}
    assert torch.equal(kept["batch"]["alpha"], calls[-1])
    assert kept["terms"]["coarse_bce"].isnan()
    state = load_state(tmp_path / "state.pt")  # still the good one of step 3
    assert state["step"] == 3
    assert all(t.isfinite().all() for t in state["model"].values())


def test_bfloat16_learns_and_keeps_float32_weights(data_root, mattes, tmp_path):
    scores = run(data_root, mattes, tmp_path, drawn.recipe(FIRST), precision="bf16")
    assert np.isfinite(list(scores.values())).all()
    model, _ = load_weights(tmp_path / "last.safetensors")
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_pretrained_weights_are_set_once(data_root, mattes, tmp_path):
    calls = []
    options = RunOptions(tmp_path, mattes, workers=0, every=6)
    for _ in range(2):
        train(drawn.recipe(FIRST), data_root, options, calls.append, lambda line: None)
    assert len(calls) == 1


def test_nothing_held_out_is_said_before_the_first_step(data_root, mattes, tmp_path):
    recipe = drawn.recipe(FIRST)
    only_cutouts = type(recipe)("test", recipe.sets[1:], recipe.stages)
    with pytest.raises(DataError, match="no held-out photo"):
        run(data_root, mattes, tmp_path, only_cutouts)


def test_a_missing_set_is_said_before_the_first_step(mattes, tmp_path):
    with pytest.raises(DataError, match="people_drawn: no such data set folder"):
        run(tmp_path, mattes, tmp_path / "out")


def test_scores_of_a_network_that_says_no_everywhere(data_root, mattes):
    model = build_model("test").eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-50)
    items = held_out_items(data_root, RECIPE, 30)
    scores = score(model, items, mattes, 96)
    assert scores["iou"] == 0
    bands = []
    for sample, _ in items:
        alpha, trimap = (
            cv2.imread(str(mattes / drawn.PEOPLE / f"{sample.image.stem}.{kind}.png"), 0)
            for kind in ("alpha", "trimap")
        )
        bands.append(alpha[trimap == 128].mean() / 255)
    assert scores["band"] == pytest.approx(np.mean(bands), rel=1e-5)
    assert predict(model, np.zeros((50, 170, 3), np.uint8), 96).shape == (50, 170)


def test_a_batch_that_cannot_be_divided(data_root, mattes, tmp_path):
    with pytest.raises(
        RecipeError, match="segmentation: batch_size 2 is not a multiple of 1 processes times 3"
    ):
        run(data_root, mattes, tmp_path / "out", accumulate=3)
    assert not (tmp_path / "out").exists()


def test_half_precision_is_for_gpus(data_root, mattes, tmp_path):
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        run(data_root, mattes, tmp_path / "out", precision="fp16")
    assert not (tmp_path / "out").exists()


def test_a_network_changed_by_the_recipe_is_saved_with_its_changes(data_root, mattes, tmp_path):
    recipe = dataclasses.replace(drawn.recipe(FIRST), network={"fpn_channels": 8, "eps": 1e-3})
    run(data_root, mattes, tmp_path, recipe)
    model, _ = load_weights(tmp_path / "last.safetensors")
    assert model.preset == recipe.build_preset()
    assert model.head.weight.shape == (1, 8, 3, 3)
    with pytest.raises(CheckpointError, match="of preset test, but the recipe trains test with other"):
        load_start(tmp_path / "last.safetensors", PRESETS["test"])
    assert load_start(tmp_path / "last.safetensors", recipe.build_preset()).preset.eps == 1e-3
