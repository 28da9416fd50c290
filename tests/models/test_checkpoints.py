"""Weights on disk: what comes back, and every file that is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints import CheckpointError, load_weights, save_weights, write_tensors
from models.presets import PRESETS
from models.stylematte import StyleMatte, build_model
from stylematte.weights import ASSETS
from tests.models.networks import lively


@pytest.fixture
def model() -> StyleMatte:
    return lively("test")


@pytest.fixture
def path(tmp_path, model):
    save_weights(model, tmp_path / "w.safetensors", {"steps": 7})
    return tmp_path / "w.safetensors"


def rewrite(path, change, preset="test", provenance="{}") -> None:
    """Save the file again with its tensors changed."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"preset": preset, "provenance": provenance})


def test_round_trip(path, model):
    loaded, provenance = load_weights(path)
    assert provenance == {"steps": 7}
    assert not loaded.training
    assert loaded.preset == model.preset
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("preset", ["test", "test_nano"])
def test_weights_that_know_no_prior_make_the_network_they_were(tmp_path, preset):
    old = lively(dataclasses.replace(PRESETS[preset], prior=False))
    tensors = {name: tensor.contiguous() for name, tensor in old.state_dict().items()}
    save_file(tensors, tmp_path / "old.safetensors", metadata={"preset": preset})
    loaded, _ = load_weights(tmp_path / "old.safetensors")
    assert loaded.preset == PRESETS[preset]
    image, guide = torch.rand(2, 3, 64, 96), torch.rand(2, 3, 100, 150)
    with torch.inference_mode():
        wanted = old(image, guide).fine_logits
        torch.testing.assert_close(loaded(image, guide).fine_logits, wanted, atol=1e-4, rtol=1e-5)
        if loaded.preset.prior:
            prior = torch.rand(2, 1, 64, 96)
            torch.testing.assert_close(loaded(image, guide, prior).fine_logits, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("extra", ["encoder.stem.conv.prior", "selection.gate.weight"])
def test_what_earlier_networks_had_for_priors_is_left_out(tmp_path, extra):
    old = lively(dataclasses.replace(PRESETS["test_nano"], prior=False))
    tensors = {name: tensor.contiguous() for name, tensor in old.state_dict().items()}
    tensors[extra] = torch.rand(8, 1, 3, 3)
    save_file(tensors, tmp_path / "old.safetensors", metadata={"preset": "test_nano"})
    loaded, _ = load_weights(tmp_path / "old.safetensors")
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        wanted = old.coarse(image).logits
        torch.testing.assert_close(loaded.coarse(image, torch.rand(1, 1, 64, 96)).logits, wanted)


def test_the_shipped_weights_load():
    model, _ = load_weights(ASSETS / "nano.safetensors")
    own = model.state_dict()
    for name, tensor in load_file(ASSETS / "nano.safetensors").items():
        assert torch.equal(own[name], tensor.float() if tensor.is_floating_point() else tensor), name
    assert model.selection.last.weight.any()


def test_a_selection_comes_back(tmp_path):
    model = lively("test_nano")
    save_weights(model, tmp_path / "w.safetensors")
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(loaded.selection.last.weight, model.selection.last.weight)
    assert loaded.selection.last.weight.any()


def test_same_weights_make_the_same_file(tmp_path, model):
    path, files = tmp_path / "w.safetensors", set()
    for _ in range(20):  # the order of two metadata keys is drawn anew at every save
        save_weights(model, path, {"steps": 7})
        files.add(path.read_bytes())
    assert len(files) == 1


def test_half_is_close_and_small(tmp_path):
    model = lively("nano")
    save_weights(model, tmp_path / "full.safetensors")
    save_weights(model, tmp_path / "half.safetensors", half=True)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert 0.45 < half / full < 0.55
    loaded, _ = load_weights(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        difference = loaded(image, image).alpha - model(image, image).alpha
    assert 0 < difference.abs().max() < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), "1 tensors are missing, first head.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 tensors are unknown, first extra"),
        (
            lambda t: t.update({"head.bias": torch.zeros(2)}),
            r"head\.bias is \(2,\), the network expects \(1,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(path, change, message):
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_preset_of_another_tool(path):
    rewrite(path, lambda tensors: None, preset="modnet")
    with pytest.raises(CheckpointError, match=r"unknown preset 'modnet'; choose from nano, "):
        load_weights(path)


def test_provenance_that_cannot_be_read(path):
    rewrite(path, lambda tensors: None, provenance="{")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_weights(path)


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_a_truncated_file(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        load_weights(tmp_path / "none.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, model, monkeypatch):
    before = path.read_bytes()

    def half_a_file(target, file):
        target.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_a_file)
    with pytest.raises(OSError, match="No space left"):
        save_weights(model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("metadata", [{}, {"preset": "giant"}])
def test_networks_for_tests_are_not_offered(tmp_path, metadata):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, metadata)
    with pytest.raises(CheckpointError, match=r"; choose from nano, tiny, base, official$"):
        load_weights(path)
    with pytest.raises(KeyError, match=r'choose from nano, tiny, base, official"$'):
        build_model("giant")


@pytest.mark.parametrize("network", ["{", "[]", '{"depth": 3}'])
def test_changes_of_a_preset_that_cannot_be_read(tmp_path, network):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {"preset": "test", "network": network})
    with pytest.raises(CheckpointError, match=r"w\.safetensors: this version cannot build the network: "):
        load_weights(path)
