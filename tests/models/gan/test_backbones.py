"""Frozen backbones from files."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812

from models.gan.backbones import BackboneError, load_backbone, load_encoder
from tests.models.gan.backbones import clip_network, write_folded


@torch.no_grad()
def test_an_encoder_of_folded_weights(tmp_path):
    path = write_folded(tmp_path / "folded.safetensors")
    features = load_encoder(path, "mobilenet_v2_tiny", side=64)
    rgb = torch.rand(1, 3, 64, 64) * 2 - 1
    assert [tuple(m.shape) for m in features(rgb)] == [(1, 12, 8, 8), (1, 16, 4, 4), (1, 24)]
    folded = load_file(path)
    stem = features.network.stem
    seen = stem(features.normalise(rgb, 64))
    # The kept weights want RGB in [-1, 1], and are padded with a 0 that lies in the middle of that range.
    expected = F.conv2d(F.pad(rgb, (0, 1, 0, 1)), folded["stem.weight"], folded["stem.bias"], 2).clamp(0, 6)
    assert torch.allclose(seen[..., :-1, :-1], expected[..., :-1, :-1], atol=1e-4)


def test_clip_from_a_folder(tmp_path):
    network = clip_network()
    network.save_pretrained(tmp_path / "clip")
    features = load_backbone("clip", tmp_path / "clip")
    weight = "vision_model.embeddings.patch_embedding.weight"
    assert torch.equal(features.network.get_parameter(weight), network.get_parameter(weight))
    assert not any(p.requires_grad for p in features.parameters())


def test_what_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackboneError, match=r"cannot be loaded from .*empty .*Fetch config.json"):
        load_backbone("clip", tmp_path / "empty")
    with pytest.raises(BackboneError, match="needs its file"):
        load_backbone("mobilenet")
    with pytest.raises(BackboneError, match="'vgg' is neither"):
        load_backbone("vgg")
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(BackboneError, match=r"w\.safetensors: not MobileNetV2"):
        load_backbone("mobilenet", tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"folded\.safetensors: not MobileNetV2"):
        load_backbone("mobilenet", write_folded(tmp_path / "folded.safetensors"))
