"""Generators on disk."""

import json

import pytest
import torch
from safetensors.torch import save_file

from models.checkpoints import CheckpointError, load_weights, save_weights
from models.gan.checkpoints import load_generator, save_generator
from models.stylematte import build_model
from tests.models.gan.test_generator import lively


@torch.no_grad()
def test_round_trip(tmp_path):
    for kind in "tr":
        generator, z = lively(kind), torch.randn(2, 12)
        save_generator(generator, tmp_path / "g.safetensors", {"kimg": 7})
        loaded, provenance = load_generator(tmp_path / "g.safetensors")
        assert (loaded.config, provenance, loaded.training) == (generator.config, {"kimg": 7}, False)
        assert torch.equal(loaded(z, 0.5), generator(z, 0.5))
    save_generator(loaded, tmp_path / "again.safetensors", {"kimg": 7})
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "g.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "g.safetensors"]


@torch.no_grad()
def test_in_half_what_was_learnt_is_rounded_and_nothing_else(tmp_path):
    generator, z = lively("t"), torch.randn(2, 12)
    save_generator(generator, tmp_path / "whole.safetensors", {})
    save_generator(generator, tmp_path / "half.safetensors", {}, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "whole.safetensors").stat().st_size
    loaded, _ = load_generator(tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, generator.get_parameter(name).half().float()), name
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, generator.get_buffer(name)), name
    assert torch.allclose(loaded(z), generator(z), atol=0.02)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_generator(path)
    save_weights(build_model("nano"), path)
    with pytest.raises(CheckpointError, match="this is not a generator, but a matting network, nano"):
        load_generator(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a generator, but weights of another tool"):
        load_generator(path)
    save_generator(lively(), path, {})
    with pytest.raises(CheckpointError, match="use it with `stylematte synth`"):
        load_weights(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_generator(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size_px": 48}, "cannot build the generator: size_px 48 is not a power of two"),
        ({"later": 1}, "cannot build the generator: .*later"),
        ({"size_px": 16}, "tensors are missing"),
        ([], "cannot build"),
    ],
)
def test_configurations_of_another_version(tmp_path, config, message):
    path = tmp_path / "w.safetensors"
    metadata = {"network": "stylegan3", "config": json.dumps(config)}
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        load_generator(path)
