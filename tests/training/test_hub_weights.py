"""Weights as the Hugging Face hub has them, written here by the package that made those."""

import dataclasses
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors.torch import load_file, save_file

from models.checkpoints import CheckpointError
from models.presets import PRESETS
from models.stylematte import StyleMatte, build_model
from stylematte.errors import MissingError
from tests.models import released
from tests.training import drawn
from training.backbone import load_backbone
from training.data.readers import DataError

RECIPE = drawn.recipe()
X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
V2 = "swinv2.encoder.layers.0.blocks.1.attention.self"


@pytest.fixture(scope="module")
def swinv2(tmp_path_factory) -> Path:
    """Folder of a classifier on Swin version 2; not to be changed."""
    from transformers import Swinv2Config, Swinv2ForImageClassification

    folder = tmp_path_factory.mktemp("swinv2")
    config = Swinv2Config(
        embed_dim=8, depths=[2] * 4, num_heads=[1, 2, 4, 8], window_size=4, image_size=256, num_labels=3
    )
    Swinv2ForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tensors(swinv2) -> dict[str, torch.Tensor]:
    return load_file(swinv2 / "model.safetensors")


def load(preset: str, source: object, root: Path = Path("nowhere")) -> StyleMatte:
    model = build_model(preset).eval()
    load_backbone(model, source, RECIPE, root)
    return model


def test_version_2_says_what_the_package_says(swinv2):
    from transformers import Swinv2Backbone

    theirs = Swinv2Backbone.from_pretrained(swinv2, out_features=released.STAGES).eval()
    for source in (swinv2, swinv2 / "model.safetensors"):
        with torch.inference_mode():
            got, wanted = load("test_swin", source).encoder(X), theirs(X).feature_maps
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_mask2former_fills_encoder_and_pixel_decoder(tmp_path):
    from transformers import Mask2FormerForUniversalSegmentation

    size = released.SMALL
    theirs = Mask2FormerForUniversalSegmentation(released.mask2former_config(size)).eval()
    theirs.save_pretrained(tmp_path)
    model = load("test_official", tmp_path)
    with torch.inference_mode():
        got = model.pixel_decoder(model.encoder(X))
        out = theirs.model.pixel_level_module(X)
    for a, b in zip(got, [out.decoder_last_hidden_state, *reversed(out.decoder_hidden_states)], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_files_of_torch_save(tensors, tmp_path):
    tensors[f"{V2}.relative_position_index"] = torch.zeros(16, 16)  # older files hold tables too
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    encoder = load("test_swin", tmp_path).encoder
    block = encoder.backbone.encoder.layers[0].blocks[1]
    assert torch.equal(block.get_parameter("attention.self.key.weight"), tensors[f"{V2}.key.weight"])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("logit_scale", None, rf"1 tensors are missing, first {V2}\.logit_scale"),
        ("key.weight", torch.zeros(4, 8), r"key\.weight is \(4, 8\), the network expects \(8, 8\)"),
        ("relative_coords_table", torch.zeros(1, 15, 15, 2), "made for another window size"),
    ],
)
def test_a_file_that_does_not_fit(tensors, tmp_path, name, tensor, message):
    tensors.pop(f"{V2}.{name}", None)
    if tensor is not None:
        tensors[f"{V2}.{name}"] = tensor
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load("test_swin", tmp_path / "w.safetensors")
    assert str(caught.value).startswith(str(tmp_path / "w.safetensors"))


def test_files_of_something_else(tmp_path):
    (tmp_path / "w.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: not a readable safetensors file"):
        load("test_swin", tmp_path / "w.safetensors")
    (tmp_path / "w.bin").write_text("hello")
    with pytest.raises(CheckpointError, match=r"w\.bin: damaged"):
        load("test_swin", tmp_path / "w.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: contains neither model\.safetensors nor pytorch_model\.bin"):
        load("test_swin", tmp_path / "empty")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> dict[str, list]:
    """Stands for the hub and its cache, which is empty and out of reach; returns what was asked of it."""
    asked: dict[str, list] = {"cache": [], "network": []}

    def download(repository: str, name: str) -> str:
        asked["network"].append((repository, name))
        raise LocalEntryNotFoundError("cannot find the requested files in the local cache.\nCheck your line.")

    def cached(repository: str, name: str) -> None:
        asked["cache"].append((repository, name))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    preset = dataclasses.replace(PRESETS["test_swin"], hub="org/swin")
    monkeypatch.setitem(PRESETS, "test_swin", preset)
    return asked


def test_the_hub_out_of_reach(hub):
    with pytest.raises(MissingError) as caught:
        load("test_swin", "hub")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        "org/swin is not in the Hugging Face cache and cannot be downloaded (cannot find"
    )
    assert "https://huggingface.co/org/swin/resolve/main/model.safetensors" in message
    assert "--backbone-weights FILE" in message
    assert hub["network"] == [("org/swin", "model.safetensors")]  # every try takes its time


def test_the_hubs_cache_comes_first(hub, swinv2, tensors, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _, name: str(swinv2 / name))
    weight = load("test_swin", "hub").encoder.backbone.embeddings.patch_embeddings.projection.weight
    assert torch.equal(weight, tensors["swinv2.embeddings.patch_embeddings.projection.weight"])
    assert not hub["network"]


def test_a_repository_without_safetensors(hub, tensors, tmp_path, monkeypatch):
    import httpx2

    torch.save(tensors, tmp_path / "pytorch_model.bin")

    def download(repository: str, name: str) -> str:
        if name == "model.safetensors":
            response = httpx2.Response(404, request=httpx2.Request("HEAD", "https://huggingface.co"))
            raise RemoteEntryNotFoundError("no such file", response=response)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    weight = load("test_swin", "hub").encoder.backbone.embeddings.patch_embeddings.projection.weight
    assert torch.equal(weight, tensors["swinv2.embeddings.patch_embeddings.projection.weight"])


def test_a_preset_without_a_repository():
    with pytest.raises(DataError, match="preset test has no weights on the hub"):
        load("test", "hub")
    assert all(PRESETS[name].hub for name in ("tiny", "base", "official"))
