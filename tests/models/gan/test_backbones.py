"""Frozen backbones from files."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import CheckpointError, load_encoder, save_weights
from models.gan.backbones import EncoderFeatures, load_frozen
from models.presets import PRESETS
from models.stylematte import build_model
from stylematte.errors import MissingError
from tests.models.gan.backbones import clip_network, write_folded


@torch.no_grad()
def test_an_encoder_of_folded_weights(tmp_path):
    path = write_folded(tmp_path / "folded.safetensors")
    features = EncoderFeatures(load_encoder(path, "mobilenet_v2_tiny")[0], side=64)
    rgb = torch.rand(1, 3, 64, 64) * 2 - 1
    assert [tuple(m.shape) for m in features(rgb)] == [(1, 12, 8, 8), (1, 16, 4, 4), (1, 24)]
    folded = load_file(path)
    stem = features.network.stem
    seen = stem(features.normalise(rgb, 64))
    # The kept weights want RGB in [-1, 1], and are padded with a 0 that lies in the middle of that range.
    expected = F.conv2d(F.pad(rgb, (0, 1, 0, 1)), folded["stem.weight"], folded["stem.bias"], 2).clamp(0, 6)
    assert torch.allclose(seen[..., :-1, :-1], expected[..., :-1, :-1], atol=1e-4)


@torch.no_grad()
def test_the_encoder_of_trained_weights(tmp_path):
    model = build_model(PRESETS["test"]).eval()
    save_weights(model, tmp_path / "w.safetensors")
    features = load_frozen("encoder", tmp_path / "w.safetensors")
    rgb = torch.rand(2, 3, features.side, features.side) * 2 - 1
    wanted = model.encoder(model.normalise(rgb / 2 + 0.5))
    for level, map_ in zip(features(rgb), (*wanted[-3:-1], wanted[-1].mean((2, 3))), strict=True):
        torch.testing.assert_close(level, map_)


def test_clip_from_a_folder(tmp_path):
    network = clip_network()
    network.save_pretrained(tmp_path / "clip")
    features = load_frozen("clip", tmp_path / "clip")
    weight = "vision_model.embeddings.patch_embedding.weight"
    assert torch.equal(features.network.get_parameter(weight), network.get_parameter(weight))
    assert not any(p.requires_grad for p in features.parameters())


def test_what_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match=r"cannot be loaded from .*empty .*Download config.json"):
        load_frozen("clip", tmp_path / "empty")
    with pytest.raises(MissingError, match="needs a file"):
        load_frozen("encoder")
    with pytest.raises(MissingError, match="'vgg' is neither"):
        load_frozen("vgg")
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: not a readable"):
        load_frozen("encoder", tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"folded\.safetensors: not a MobileNetV2"):
        load_frozen("encoder", write_folded(tmp_path / "folded.safetensors"))
