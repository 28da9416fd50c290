"""`stylematte train`: what it refuses before any work, and the whole road from photos to a matte."""

import dataclasses
import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from models.checkpoints import load_weights
from models.presets import PRESETS
from stylematte.errors import InputError
from stylematte_cli.app import main
from tests.training import drawn
from training import loop
from training import run as run_module
from training.data.loading import open_loader, read_batches
from training.data.readers import DataError, is_held_out
from training.losses import LOSSES
from training.recipe_files import RECIPES, recipe_names


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return drawn.draw_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "mine.toml"
    path.write_text(drawn.TOML)
    return path


@pytest.fixture(scope="module")
def trained(data, recipe, tmp_path_factory) -> Path:
    """Run folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "deep" / "run"
    assert run(recipe, "--data", data, "--out", out, "--workers", 0, "--every", 5, "--quiet") == 0
    return out


def run(*arguments) -> int:
    return main(["train", *map(str, arguments)])


def refused(capsys, *arguments, code: int) -> str:
    assert run(*arguments) == code
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("stylematte: error: ")
    assert "Traceback" not in captured.err
    return line


def test_the_list_says_what_each_recipe_needs_and_gives(capsys):
    assert run("--list") == 0
    text = capsys.readouterr().out
    assert "\n  needs P3M-10k (https://github.com/JizhiziLi/P3M)\n  gives weights of the matting" in text
    assert "\nfinetune: Fine-tunes" in text
    assert "  needs photos and masks: --image DIR --mask DIR, or" in text
    assert "gives a generator of RGBA images of 256 px\n" in text
    assert "\nablation/bilinear: The reference without guided filter" in text
    assert run("--list", "--json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["recipes"]}
    assert set(listed) == {*recipe_names(), *recipe_names(generators=True)}
    assert listed["stylematte"]["sets"] == ["P3M-10k"]  # the others are optional


def test_one_recipe_is_explained_in_full(capsys, recipe):
    assert run("stylematte", "--list") == 0
    text = capsys.readouterr().out
    assert "  network tiny\n  segmentation: 15 epochs of 4 photos, 800 px; fine bce, fine dice\n" in text
    assert "animals (optional): " in text
    assert "    AM-2k: mattes, layout am-2k; stages animals\n" in text
    assert "    P3M-10k: scored, 50 photos, full size, layout p3m-500-p\n" in text
    assert run("ablation/conv_gf", "--list") == 0
    text = capsys.readouterr().out
    assert "  network tiny, upsampler = conv_gf\n" in text
    assert "AM-2k" not in text  # no stage of it reads them
    assert run(recipe, "--list", "--set", "stages.matting.steps=9") == 0
    assert "  matting: 9 steps of 2 photos, 64-96 px; fine l2, fine laplacian\n" in capsys.readouterr().out


def test_data_and_out_are_folders_here_if_not_given(capsys, data, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, recipe, code=3)
    assert line.startswith("stylematte: error: data: no such folder. --data is the folder of")
    (tmp_path / "data").symlink_to(data)
    assert run(recipe, "--dry-run") == 0
    assert f"  into {Path('runs/mine')}\n" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_a_dry_run_says_what_would_be_done(capsys, data, recipe, tmp_path):
    half_gone = Path(shutil.copytree(data, tmp_path / "data"))
    shutil.rmtree(half_gone / drawn.CUTOUTS)
    text = drawn.TOML.replace("share = 0.3", "share = 0.0").replace("steps = 6", "epochs = 3")
    text += f"""
[[stages]]
name = "cut-outs"
steps = 4
batch_size = 2
side = [64, 96]
learning_rate = 2e-3
optional = true
shares = {{ {drawn.CUTOUTS} = 1.0 }}
fine = {{ l2 = 1.0 }}
"""
    (tmp_path / "mine.toml").write_text(text)
    arguments = ("--data", half_gone, "--out", tmp_path / "out", "--dry-run")
    assert run(tmp_path / "mine.toml", *arguments) == 0
    said = capsys.readouterr().out
    trained = sum(1 for p in sorted((data / drawn.PEOPLE / "image").iterdir()) if not held_out(p))
    assert f"  segmentation: {-(-3 * trained // 4)} steps of 4 photos" in said
    assert f"samples {drawn.PEOPLE} 86%, {drawn.BACKGROUNDS} 14%" in said
    assert f"  {drawn.PEOPLE}: {trained} images to train on, {10 - trained} held out\n" in said
    assert f"stage cut-outs skipped: {half_gone / drawn.CUTOUTS} does not exist" in said
    assert not (tmp_path / "out").exists()
    line = refused(capsys, tmp_path / "mine.toml", *arguments, "--stages", "cut-outs", code=3)
    assert f"{drawn.CUTOUTS}: no such data set folder" in line  # asked for by name, so it must be there


def held_out(photo: Path) -> bool:
    return is_held_out(f"{drawn.PEOPLE}/{photo.stem}", drawn.HELD_OUT_EVERY)


def test_the_data_is_checked(capsys, data, recipe, tmp_path):
    assert run(recipe, "--data", data, "--check-data") == 0
    assert f"{drawn.PEOPLE} (photos, layout plain): 10 images" in capsys.readouterr().out
    broken = Path(shutil.copytree(data, tmp_path / "data"))
    (broken / drawn.PEOPLE / "mask" / "photo_1.png").unlink()
    assert run(recipe, "--data", broken, "--check-data", "--json") == 3
    assert json.loads(capsys.readouterr().out)["errors"] > 0


def test_near_copies_of_held_out_photos_are_found_by_a_full_check(capsys, data, recipe, tmp_path):
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    photos = sorted((data / drawn.PEOPLE / "image").iterdir())
    scored = next(p for p in photos if held_out(p))
    twin = next(p for p in photos if not held_out(p))
    for kind in ("image", "mask", "hair"):
        folder = copied / drawn.PEOPLE / kind
        shutil.copy(folder / scored.name, folder / twin.name)
    assert run(recipe, "--data", copied, "--check-data") == 0
    assert "have a near duplicate" not in capsys.readouterr().out
    assert run(recipe, "--data", copied, "--full-check", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_full"]
    assert report["sets"][0]["twins"] >= 1
    assert run(recipe, "--data", copied, "--full-check") == 0
    assert "held-out images have a near duplicate in the training part" in capsys.readouterr().out


def test_recipes_that_cannot_be_used(capsys, tmp_path):
    there = ("--data", tmp_path, "--out", tmp_path / "out")
    assert "unknown recipe giant; choose from" in refused(capsys, "giant", *there, code=3)
    (tmp_path / "bad.toml").write_text(drawn.TOML.replace("batch_size", "batchsize", 1))
    assert "bad.toml: [[stages]]: unknown key batchsize" in refused(
        capsys, tmp_path / "bad.toml", *there, code=3
    )
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_meant(capsys, recipe, data, tmp_path):
    there = (recipe, "--data", data, "--out", tmp_path / "out")
    assert "--precision fp8" in refused(capsys, *there, "--precision", "fp8", code=2)
    assert "fp16 needs a GPU" in refused(capsys, *there, "--precision", "fp16", code=2)
    line = refused(capsys, *there, "--accumulate", 3, code=3)
    assert "batch_size 4 is not a multiple of 1 processes times 3" in line
    assert "--student giant is not a network" in refused(capsys, *there, "--student", "giant", code=2)
    assert "--stages: unknown stage 'x'; the recipe has seg" in refused(
        capsys, *there, "--stages", "x", code=3
    )
    assert "--device tpu" in refused(capsys, *there, "--device", "tpu", code=4)
    assert "--device cuda:99" in refused(capsys, *there, "--device", "cuda:99", code=4)
    line = refused(capsys, *there, "--backbone-weights", tmp_path / "none.safetensors", code=4)
    assert "none.safetensors does not exist" in line
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there(capsys, recipe, data, tmp_path):
    line = refused(capsys, recipe, "--data", tmp_path / "gone", "--out", tmp_path / "out", code=3)
    assert "gone: no such folder" in line
    line = refused(capsys, recipe, "--data", tmp_path, "--out", tmp_path / "out", code=3)
    assert "people_drawn: no such data set folder" in line
    broken = shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(broken / drawn.PEOPLE / "mask")
    line = refused(capsys, recipe, "--data", broken, "--out", tmp_path / "out", code=3)
    assert "needs a folder mask/" in line
    (broken / drawn.PEOPLE / "hair" / "photo_1.png").unlink()
    line = refused(capsys, recipe, "--data", broken, "--out", tmp_path / "out", code=3)
    assert "1 images have no hair, first photo_1.png" in line


def test_encoder_weights_of_something_else(capsys, recipe, data, trained, tmp_path):
    (tmp_path / "w.safetensors").write_text("hello")
    arguments = ("--mattes", trained / "mattes", "--backbone-weights", tmp_path / "w.safetensors")
    line = refused(capsys, recipe, "--data", data, "--out", tmp_path / "out", *arguments, code=3)
    assert "w.safetensors: not weights of this encoder" in line


def test_weights_to_start_from(capsys, recipe, data, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    arguments = (recipe, "--data", data, "--out", tmp_path / "out", "--mattes", trained / "mattes")
    arguments += ("--workers", 0, "--stages", "matting")
    line = refused(capsys, *arguments, "--init", "nano", code=3)
    assert "nano.safetensors: weights of preset nano, but the recipe trains test" in line
    line = refused(capsys, *arguments, "--init", "nanno", code=4)
    assert "--init: weights 'nanno' do not exist" in line
    best = trained / "best.safetensors"
    line = refused(capsys, *arguments, "--init", best, "--backbone-weights", "hub", code=2)
    assert "exclude each other" in line
    assert not (tmp_path / "out").exists()
    seen = []

    def look(recipe, root, options, initialise, *others, **more):
        def initialised(model):
            initialise(model)
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

        return loop.train(recipe, root, options, initialised, *others, **more)

    monkeypatch.setattr(run_module, "train", look)
    assert run(*arguments, "--weights", best) == 0
    wanted, _ = load_weights(best)
    assert all(torch.equal(seen[0][name], tensor) for name, tensor in wanted.state_dict().items())
    origin = json.loads((tmp_path / "out" / "config.json").read_text())["origin"]
    assert origin == {"weights": hashlib.sha256(best.read_bytes()).hexdigest()}


def test_the_hub_is_asked_where_the_network_has_weights_there(
    capsys, recipe, data, trained, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr("training.run.load_backbone", lambda model, source, *_: asked.append(source))
    monkeypatch.setattr(
        run_module, "train", lambda recipe, root, options, begin, *_, **__: begin and begin(recipe)
    )
    has_some = dataclasses.replace(PRESETS["test"], hub="somebody/some-weights")
    common = ("--data", data, "--mattes", trained / "mattes", "--workers", 0)
    assert run(recipe, *common, "--out", tmp_path / "a") == 0
    assert "encoder weights: random initialisation" in capsys.readouterr().err
    monkeypatch.setitem(PRESETS, "test", has_some)
    assert run(recipe, *common, "--out", tmp_path / "b") == 0
    assert "encoder weights: somebody/some-weights" in capsys.readouterr().err
    assert run(recipe, *common, "--out", tmp_path / "c", "--backbone-weights", "none") == 0
    assert asked == ["hub"]


def test_a_folder_of_another_run_is_refused(capsys, data, trained, tmp_path):
    before = {path: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    (tmp_path / "other.toml").write_text(drawn.TOML.replace("seed = 3", "seed = 4"))
    common = ("--data", data, "--out", trained, "--workers", 0)
    line = refused(capsys, tmp_path / "other.toml", *common, code=3)
    assert "contains a run of another recipe" in line
    assert {path: path.read_bytes() for path in trained.iterdir() if path.is_file()} == before


def test_resume_insists_on_a_run(capsys, recipe, data, tmp_path):
    line = refused(capsys, recipe, "--data", data, "--out", tmp_path / "out", "--resume", code=3)
    assert "contains no run to resume" in line
    assert not (tmp_path / "out").exists()


def test_ctrl_c_and_the_same_command_again(capsys, recipe, data, trained, tmp_path, monkeypatch):
    def pressed(stage, done, losses):
        if (stage, done) == (1, 2):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    arguments = (recipe, "--data", data, "--out", out, "--mattes", trained / "mattes", "--workers", 0)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", partial(loop.train, on_step=pressed))
        assert run(*arguments, "--every", 5) == 130
    capsys.readouterr()
    assert run(*arguments, "--every", 5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  resumes the run in {out}" in lines
    assert "resuming at stage 1, step 6" in lines
    assert lines[-1].startswith(f"weights: {out / 'best.safetensors'}; next: stylematte export")
    assert (out / "last.safetensors").read_bytes() == (trained / "last.safetensors").read_bytes()


def test_from_photos_to_a_matte(trained, data, tmp_path, capsys):
    models, mattes = tmp_path / "models", tmp_path / "out"
    photo = data / drawn.PEOPLE / "image" / "photo_2.png"
    weights = str(trained / "best.safetensors")
    assert main(["export", "--weights", weights, "--out", str(models), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    arguments = ["matte", str(photo), "--weights", exported["file"], "--device", "cpu", "--out", str(mattes)]
    assert main([*arguments, "--quiet"]) == 0
    alpha = cv2.imread(str(mattes / "photo_2.png"), cv2.IMREAD_UNCHANGED)
    assert alpha.dtype == np.uint8
    assert alpha.shape == cv2.imread(str(photo)).shape[:2]


def test_a_batch_that_is_no_number_ends_with_one_line(capsys, recipe, data, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "bce", lambda logits, alpha, weight: logits.sum() * float("nan"))
    line = refused(
        *(capsys, recipe, "--data", data, "--out", tmp_path, "--mattes", trained / "mattes", "--workers", 0),
        code=5,
    )
    assert "loss is nan at step 0 of segmentation" in line


class Unreadable(Dataset):
    def __getitem__(self, number: int) -> int:
        if number == 3:
            raise DataError("data/a.png: not a readable image", "mend it", ["a", "b"])
        return number


def test_what_a_loader_process_met_is_said_without_its_traceback():
    batches = read_batches(open_loader(Unreadable(), [[0, 1], [2, 3]], workers=1, pin_memory=False))
    assert next(batches).tolist() == [0, 1]
    with pytest.raises(InputError) as caught:
        next(batches)
    assert type(caught.value) is DataError
    assert caught.value.message == "data/a.png: not a readable image"
    assert (caught.value.hint, caught.value.details) == ("mend it", ("a", "b"))


def test_cuda_is_taken_where_auto_finds_it(monkeypatch):
    import torch

    from training.devices import usable_device

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [usable_device(d) for d in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert usable_device("auto") == "cpu"


def test_a_student_learns_from_a_teacher(capsys, trained, data, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(data / drawn.PEOPLE / "image", photos)
    text = (RECIPES / "distill.toml").read_text()
    for old, new in {
        "steps = 4000": "steps = 3", "batch_size = 8": "batch_size = 2",
        "[208, 320]": "[64, 64]", "[352, 544]": "[64, 96]", "held_out_every = 10": "held_out_every = 2",
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "small.toml").write_text(text)
    arguments = (tmp_path / "small.toml", "--data", photos, "--out", tmp_path / "out", "--workers", 0)
    assert "its photos have no labels; give a teacher" in refused(capsys, *arguments, code=3)
    teacher = trained / "best.safetensors"
    assert run(*arguments, "--teacher", teacher, "--student", "test", "--every", 3) == 0
    assert "  scores: " in capsys.readouterr().out
    model, provenance = load_weights(tmp_path / "out" / "best.safetensors")
    assert model.preset.name == "test"
    assert provenance["origin"] == {"teacher": hashlib.sha256(teacher.read_bytes()).hexdigest()}
