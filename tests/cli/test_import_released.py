"""`stylematte models import`: the released 374 tensors become weights that other commands know by name."""

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.checkpoints import load_weights
from models.released_checkpoints import load_published
from stylematte_cli.app import main
from tests.models import released
from tests.models.released import RELEASED, SMALL

KEY = "pixel_decoder.decoder.level_embed"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Not to be changed."""
    return released.tensors(RELEASED)


@pytest.fixture(scope="module")
def imported(tensors, tmp_path_factory) -> Iterator[Path]:
    """The folder of one's own weights after an import of all 374 tensors; not to be changed."""
    folder = tmp_path_factory.mktemp("released")
    checkpoint = folder / "stylematte_synth.pth"
    torch.save(tensors, checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEMATTE_HOME", str(folder / "home"))
        assert main(["models", "import", str(checkpoint), "--licence", "CC-BY-SA-4.0", "-q"]) == 0
    yield folder / "home"
    shutil.rmtree(folder)  # 280 MB that pytest would keep


@pytest.fixture(scope="module")
def small_tensors() -> dict[str, torch.Tensor]:
    """Of a smaller network of the same kind; not to be changed."""
    return released.tensors(SMALL)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder of one's own weights, while the command takes checkpoints of the smaller network."""
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        "models.released_checkpoints.load_published",
        functools.partial(load_published, preset="test_official"),
    )
    return tmp_path / "home"


@pytest.fixture
def checkpoint(small_tensors, home, tmp_path) -> Path:
    path = tmp_path / "stylematte_synth.pth"
    torch.save(small_tensors, path)
    return path


def refused(capsys, *arguments, code: int) -> str:
    assert main([str(a) for a in arguments]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("stylematte: error: ")
    return error


def test_weights_and_card(imported, tensors):
    assert sorted(p.name for p in imported.iterdir()) == [
        "stylematte_synth.json",
        "stylematte_synth.safetensors",
    ]
    data = (imported / "stylematte_synth.safetensors").read_bytes()
    card = json.loads((imported / "stylematte_synth.json").read_text())
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    assert (card["file"], card["bytes"]) == ("stylematte_synth.safetensors", len(data))
    assert card["licence"] == "CC-BY-SA-4.0"
    checkpoint = imported.parent / "stylematte_synth.pth"
    assert card["provenance"]["imported_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    model, provenance = load_weights(imported / "stylematte_synth.safetensors")
    assert model.preset.name == "official"
    assert provenance == card["provenance"]
    assert sum(p.numel() for p in model.parameters()) == 34_912_123
    assert torch.equal(model.head.weight, tensors["conv.weight"])
    block = model.encoder.backbone.swin.encoder.layers[2].blocks[5]
    theirs = "pixel_decoder.encoder.encoder.layers.2.blocks.5"
    assert torch.equal(block.attention.k_proj.bias, tensors[f"{theirs}.attention.self.key.bias"])
    assert torch.equal(block.mlp.fc2.weight, tensors[f"{theirs}.output.dense.weight"])


def test_other_commands_know_the_name(imported, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("STYLEMATTE_HOME", str(imported))
    assert main(["models"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("stylematte_synth"))
    assert line.split()[1] == "training"
    assert main(["models", "show", "stylematte_synth", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sha256_agrees_with_card"] is True
    assert (facts["kind"], facts["contract"]) == ("training", {})
    seen = []
    monkeypatch.setattr(
        "models.checkpoints.load_weights", lambda path: seen.append(path) or load_weights(path)
    )
    monkeypatch.setattr("export.build.export_onnx", lambda model, origin: pytest.exit("far enough"))
    with pytest.raises(pytest.exit.Exception):
        main(["export", "--weights", "stylematte_synth", "--out", str(tmp_path), "-q"])
    assert seen == [imported / "stylematte_synth.safetensors"]


def test_matting_with_them_says_what_is_to_be_run(imported, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("STYLEMATTE_HOME", str(imported))
    (tmp_path / "a.jpg").write_bytes(b"x")
    error = refused(
        capsys,
        "matte",
        tmp_path / "a.jpg",
        "--weights",
        "stylematte_synth",
        "--out",
        tmp_path / "out",
        code=3,
    )
    assert "'stylematte_synth' are here for training" in error
    assert f"stylematte export --weights stylematte_synth --out {imported}" in error


def test_a_name_of_ones_own_and_the_line_that_goes_on(checkpoint, home, capsys):
    assert main(["models", "import", str(checkpoint), "--name", "synth"]) == 0
    assert f"next: stylematte export --weights synth --out {home}" in capsys.readouterr().out
    assert load_weights(home / "synth.safetensors")[0].preset.name == "test_official"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), f"1 tensors are missing, first {KEY}"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 tensors are unknown, first extra"),
        (lambda t: t.update({KEY: torch.zeros(3, 16)}), f"{KEY} is (3, 16), the network expects (3, 32)"),
    ],
)
def test_another_network_is_refused_and_nothing_is_left(
    small_tensors, home, tmp_path, capsys, change, message
):
    changed = dict(small_tensors)
    change(changed)
    torch.save(changed, tmp_path / "other.pth")
    assert message in refused(capsys, "models", "import", tmp_path / "other.pth", code=3)
    assert not list(home.glob("**/*"))


def test_files_that_are_no_checkpoint(home, tmp_path, capsys):
    path = tmp_path / "w.pth"
    path.write_bytes(b"no pickle")
    assert "w.pth: damaged, or not a file of plain tensors" in refused(
        capsys, "models", "import", path, code=3
    )
    torch.save({"model": torch.nn.Linear(1, 1)}, path)  # a class: it would have to be run
    assert "not a file of plain tensors" in refused(capsys, "models", "import", path, code=3)
    assert "gone.pth" in refused(capsys, "models", "import", tmp_path / "gone.pth", code=3)


def test_a_full_disk_leaves_nothing(checkpoint, home, capsys, monkeypatch):
    def full(model, path, provenance):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("models.checkpoints.save_weights", full)
    assert "No space left" in refused(capsys, "models", "import", checkpoint, code=3)
    assert list(home.iterdir()) == []


def test_names(checkpoint, home, capsys):
    home.mkdir()
    (home / "stylematte_synth.safetensors").write_bytes(b"old")
    error = refused(capsys, "models", "import", checkpoint, code=3)
    assert "already there" in error
    assert "--overwrite" in error
    assert (home / "stylematte_synth.safetensors").read_bytes() == b"old"
    assert "an included model" in refused(capsys, "models", "import", checkpoint, "--name", "nano", code=2)
    assert "not a file name" in refused(capsys, "models", "import", checkpoint, "--name", "a/b", code=2)


def test_overwriting(checkpoint, home):
    home.mkdir()
    (home / "stylematte_synth.safetensors").write_bytes(b"old")
    assert main(["models", "import", str(checkpoint), "--overwrite", "-q"]) == 0
    assert load_weights(home / "stylematte_synth.safetensors")[0].preset.name == "test_official"
