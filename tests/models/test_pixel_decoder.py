"""The pixel decoder: its start, its sizes, its precision. What it computes is tested in test_published.py."""

from dataclasses import replace

import pytest
import torch

from models.presets import PRESETS
from models.stylematte import build_model


def features(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.randn(2, c, *size) for c, size in zip((8, 16, 32, 64), sizes, strict=True)]


@pytest.fixture
def decoder() -> torch.nn.Module:
    return build_model("test_swin").pixel_decoder.eval()


def test_maps_keep_their_sizes(decoder):
    sizes = [(25, 11), (13, 6), (7, 3), (4, 2)]
    with torch.inference_mode():
        maps = decoder(features(*sizes))
    assert [tuple(m.shape) for m in maps] == [(2, 32, *size) for size in sizes]


def test_attention_starts_as_in_the_package():
    from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig

    swin = SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = Mask2FormerConfig(backbone_config=swin, encoder_layers=6, decoder_layers=2, dim_feedforward=32)
    theirs = Mask2FormerModel(config).pixel_level_module.decoder.encoder.layers[5].self_attn
    ours = build_model("tiny").pixel_decoder.decoder.encoder.layers[5].self_attn
    torch.testing.assert_close(ours.sampling_offsets.bias, theirs.sampling_offsets.bias)
    for name in (
        "sampling_offsets.weight",
        "attention_weights.weight",
        "attention_weights.bias",
        "value_proj.bias",
    ):
        assert not ours.get_parameter(name).any()
        assert not theirs.get_parameter(name).any()
    assert 0.8 < ours.value_proj.weight.std() / theirs.value_proj.weight.std() < 1.25


def test_a_fresh_decoder_is_of_sound_size(decoder):
    """The package leaves one tensor unset: whatever memory held."""
    assert 0.5 < decoder.decoder.level_embed.std() < 2
    with torch.inference_mode():
        maps = decoder(features((16, 24), (8, 12), (4, 6), (2, 3)))
    assert all(0.3 < m.std() < 3 for m in maps)


def test_full_precision_under_autocast(decoder):
    inputs = features((16, 24), (8, 12), (4, 6), (2, 3))
    with torch.inference_mode():
        wanted = decoder(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            got = decoder(inputs)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)


def test_without_a_pyramid_the_head_sees_the_finest_map():
    model = build_model(replace(PRESETS["test_swin"], pyramid=False)).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        maps = model.pixel_decoder(model.encoder(model.normalise(image)))
        torch.testing.assert_close(model.coarse(image).logits, model.head(maps[0]))
    with_pyramid = build_model("test_swin")
    assert not any(name.startswith("fpn.") for name in model.state_dict())
    assert any(name.startswith("fpn.") for name in with_pyramid.state_dict())


def test_without_a_pyramid_a_small_encoders_head_sees_the_coarsest_map():
    model = build_model(replace(PRESETS["test"], pyramid=False)).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        maps = model.encoder(model.normalise(image))
        wanted = model.coarse(image)
        others = [torch.rand_like(m) for m in maps[-4:-1]]
        torch.testing.assert_close(model.fpn([*others, maps[-1]]), wanted.features)
    assert wanted.features.shape == (1, PRESETS["test"].fpn_channels, 16, 24)
