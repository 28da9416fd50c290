"""`stylematte train`: what it refuses before any work, and the whole road from photos to a matte."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch._utils import ExceptionWrapper

from stylematte_cli.app import main
from stylematte_cli.commands.toolkit import translated_errors
from stylematte_cli.errors import InputError
from tests.training import drawn
from training import loop
from training.data.readers import DataError


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


def test_without_arguments_it_lists_the_recipes(capsys):
    assert run() == 0
    text = capsys.readouterr().out
    assert "nano: network nano" in text
    assert "segmentation: " in text
    assert "people_portrait" in text
    assert "stylematte train RECIPE --data DIR --out DIR" in text


@pytest.mark.parametrize("given", [[], ["--data", "x"], ["--out", "x"]])
def test_data_and_out_are_needed(capsys, recipe, given):
    assert "--data and --out are needed" in refused(capsys, recipe, *given, code=2)


def test_recipes_that_cannot_be_used(capsys, tmp_path):
    there = ("--data", tmp_path, "--out", tmp_path / "out")
    assert "no recipe giant; there are" in refused(capsys, "giant", *there, code=3)
    (tmp_path / "bad.toml").write_text(drawn.TOML.replace("batch_size", "batchsize", 1))
    assert "bad.toml: [[stages]]: unknown key batchsize" in refused(
        capsys, tmp_path / "bad.toml", *there, code=3
    )
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_meant(capsys, recipe, data, tmp_path):
    there = (recipe, "--data", data, "--out", tmp_path / "out")
    assert "--precision fp8" in refused(capsys, *there, "--precision", "fp8", code=2)
    assert "--device tpu" in refused(capsys, *there, "--device", "tpu", code=4)
    assert "--device cuda:99" in refused(capsys, *there, "--device", "cuda:99", code=4)
    line = refused(capsys, *there, "--backbone-weights", tmp_path / "none.safetensors", code=4)
    assert "none.safetensors is not there" in line
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there(capsys, recipe, data, tmp_path):
    line = refused(capsys, recipe, "--data", tmp_path, "--out", tmp_path / "out", code=3)
    assert "people_drawn: no such data set folder" in line
    broken = shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(broken / drawn.PEOPLE / "mask")
    line = refused(capsys, recipe, "--data", broken, "--out", tmp_path / "out", code=3)
    assert "needs a folder mask/" in line
    (broken / drawn.PEOPLE / "hair" / "photo_1.png").unlink()
    line = refused(capsys, recipe, "--data", broken, "--out", tmp_path / "out", code=3)
    assert "1 pictures have no hair, first photo_1.png" in line


def test_encoder_weights_of_something_else(capsys, recipe, data, trained, tmp_path):
    (tmp_path / "w.safetensors").write_text("hello")
    arguments = ("--mattes", trained / "mattes", "--backbone-weights", tmp_path / "w.safetensors")
    line = refused(capsys, recipe, "--data", data, "--out", tmp_path / "out", *arguments, code=3)
    assert "w.safetensors: not weights of this encoder" in line


def test_a_folder_in_use_is_refused_without_resume(capsys, recipe, data, trained):
    before = (trained / "state.pt").read_bytes()
    line = refused(capsys, recipe, "--data", data, "--out", trained, code=3)
    assert "holds a run already. Give --resume" in line
    assert (trained / "state.pt").read_bytes() == before


def test_resume_wants_the_same_recipe(capsys, data, trained, tmp_path):
    (tmp_path / "other.toml").write_text(drawn.TOML.replace("seed = 3", "seed = 4"))
    line = refused(
        capsys, tmp_path / "other.toml", "--data", data, "--out", trained, "--resume", "--workers", 0, code=5
    )
    assert "holds a run of another recipe" in line


def test_ctrl_c_and_resume(capsys, recipe, data, trained, tmp_path, monkeypatch):
    step = loop.StageRun._step

    def pressed(self, number, batch):
        if self.number == 1 and number == 1:
            raise KeyboardInterrupt
        return step(self, number, batch)

    out = tmp_path / "run"
    arguments = (recipe, "--data", data, "--out", out, "--mattes", trained / "mattes", "--workers", 0)
    with monkeypatch.context() as patch:
        patch.setattr(loop.StageRun, "_step", pressed)
        assert run(*arguments, "--every", 5) == 130
    capsys.readouterr()
    assert run(*arguments, "--every", 5, "--resume") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "going on at stage 1, step 6"
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
    monkeypatch.setitem(loop.LOSSES, "bce", lambda logits, alpha, weight: logits.sum() * float("nan"))
    line = refused(
        *(capsys, recipe, "--data", data, "--out", tmp_path, "--mattes", trained / "mattes", "--workers", 0),
        code=5,
    )
    assert "loss is nan at step 0 of segmentation" in line


def test_what_a_loader_process_met_is_said_without_its_traceback():
    try:
        raise DataError("data/a.png: not a picture that can be read")
    except DataError:
        from_process = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(InputError) as caught, translated_errors():
        from_process.reraise()
    assert caught.value.message == "data/a.png: not a picture that can be read"


def test_cuda_is_taken_where_auto_finds_it(monkeypatch):
    import torch

    from stylematte_cli.commands.train import _usable_device

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [_usable_device(d) for d in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _usable_device("auto") == "cpu"
