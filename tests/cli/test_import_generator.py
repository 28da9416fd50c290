"""`stylematte models import humans.pkl`: a published generator becomes weights of ours."""

import json
import os
from pathlib import Path

import pytest
import torch

from models.gan.checkpoints import load_generator
from stylematte_cli.app import main
from tests.cli.test_import_released import refused
from tests.models.gan.published import write
from tests.models.gan.test_pickles import Call, generator


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", ["humans.pkl", "humans.bin"])
@torch.no_grad()
def test_weights_and_card(home, tmp_path, capsys, name):
    theirs = generator()
    source = write(tmp_path / name, theirs)
    assert main(["models", "import", str(source), "--licence", "NVIDIA non-commercial"]) == 0
    assert "next: stylematte synth --weights humans " in capsys.readouterr().out
    card = json.loads((home / "humans.json").read_text())
    assert card["licence"] == "NVIDIA non-commercial"
    assert card["summary"] == ("StyleGAN3-T for images of 16 px with 4 channels; for `stylematte synth`.")
    ours, provenance = load_generator(home / "humans.safetensors")
    assert provenance == card["provenance"]
    assert provenance["imported_from"] == name
    z = torch.randn(1, 6)
    assert torch.equal(ours(z), theirs(z))
    assert main(["export", "--weights", "humans", "--out", str(tmp_path)]) == 3
    assert "use it with `stylematte synth`" in capsys.readouterr().err


def test_a_file_that_wants_to_run_something(home, tmp_path, capsys):
    trace = tmp_path / "trace"
    source = write(tmp_path / "humans.pkl", generator(), D=Call(os.system, f"touch {trace}"))
    error = refused(capsys, "models", "import", source, code=3)
    assert "refused: it would call posix.system" in error
    assert not trace.exists()
    assert not home.exists()


def test_damaged_and_missing_files(home, tmp_path, capsys):
    source = write(tmp_path / "humans.pkl", generator())
    source.write_bytes(source.read_bytes()[:1000])
    assert "humans.pkl: damaged, or not a pickle" in refused(capsys, "models", "import", source, code=3)
    assert "gone.pkl" in refused(capsys, "models", "import", tmp_path / "gone.pkl", code=3)
    assert not home.exists()
