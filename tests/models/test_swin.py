"""Swin encoders: windows against attention written out over all pixels, shapes, levels, stochastic depth."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from models.encoders import build_encoder
from models.swin import SHAPES, checkpoint_key

SIZES = [(12, 8), (10, 7), (4, 4), (3, 9), (1, 1)]  # in tokens, windows are 4 × 4


def double(layer: nn.Module, name: str) -> np.ndarray:
    return layer.get_parameter(name).detach().double().numpy()


def norm(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * double(layer, "weight") + double(layer, "bias")


def linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    x = x @ double(layer, "weight").T
    return x if layer.bias is None else x + double(layer, "bias")


def cosine_block(block: nn.Module, x: np.ndarray, window: int, shift: int, heads: int) -> np.ndarray:
    """One block on (h, w, C), in float64 and without windows: every token against every other.

    Liu et al., 2022, eq. 2-4 and figure 1: zeros fill up the last windows, and tokens attend within one
    window of the grid moved by the shift, which the border cuts.
    """
    h, w, channels = x.shape
    padded = np.zeros((math.ceil(h / window) * window, math.ceil(w / window) * window, channels))
    padded[:h, :w] = x
    attention = block.attention.get_submodule("self")
    places = np.stack(np.divmod(np.arange(padded[..., 0].size), padded.shape[1]), -1)  # (N, 2)
    tokens = padded.reshape(-1, channels)
    groups = (places - shift) // window
    together = (groups[:, None] == groups[None]).all(-1)  # (N, N)

    steps = (places[:, None] - places[None]) * 8 / (window - 1)
    coordinates = np.sign(steps) * np.log2(1 + abs(steps)) / np.log2(8)
    mlp = attention.continuous_position_bias_mlp
    bias = 16 / (1 + np.exp(-linear(mlp[2], np.maximum(linear(mlp[0], coordinates), 0))))  # (N, N, heads)

    def split(layer: nn.Module) -> np.ndarray:
        return (
            linear(layer, tokens).reshape(len(tokens), heads, -1).transpose(1, 0, 2)
        )  # (heads, N, C / heads)

    q, k, v = (split(layer) for layer in (attention.query, attention.key, attention.value))
    # A key has no bias, so those of the filling are 0 and stay 0.
    q, k = (t / np.maximum(np.linalg.norm(t, axis=-1, keepdims=True), 1e-12) for t in (q, k))
    scale = np.exp(np.minimum(double(attention, "logit_scale"), np.log(100)))  # (heads, 1, 1)
    scores = np.where(together, q @ k.transpose(0, 2, 1) * scale + bias.transpose(2, 0, 1), -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    out = linear(block.attention.output.dense, mixed.transpose(1, 0, 2).reshape(tokens.shape))
    x = x + norm(block.layernorm_before, out).reshape(padded.shape)[:h, :w]
    hidden = linear(block.intermediate.dense, x)
    hidden = hidden * np.vectorize(lambda t: 0.5 * (1 + math.erf(t / math.sqrt(2))))(hidden)
    return x + norm(block.layernorm_after, linear(block.output.dense, hidden))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("index", [0, 1])
def test_windows_of_version_2(size, index):
    torch.manual_seed(2)
    block = build_encoder("swinv2_test").eval().backbone.encoder.layers[2].blocks[index]
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            # Biases that differ between places and keys that differ from zeros, so that every rule shows.
            spread = 1.0 if "position" in name or "bias" in name else 0.4
            parameter.normal_(1 if "layernorm" in name and "weight" in name else 0, spread)
    x = torch.randn(1, size[0] * size[1], 32)
    with torch.inference_mode():
        got = block(x, size)[0][0].view(*size, 32).numpy()
    wanted = cosine_block(block, x[0].double().numpy().reshape(*size, 32), 4, shift=2 * index, heads=4)
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_every_second_block_is_shifted(name):
    """Also in the last stage, whose 8 × 8 map the published weights of version 2 saw in one window."""
    backbone = build_encoder(name).backbone
    stages = (backbone.swin if hasattr(backbone, "swin") else backbone).encoder.layers
    window = SHAPES[name].window
    assert [block.window_size for stage in stages for block in stage.blocks] == [window] * sum(
        SHAPES[name].depths
    )
    assert [block.shift_size for stage in stages for block in stage.blocks[:2]] == [0, window // 2] * 4


@pytest.mark.parametrize("name", ["swinv2_test", "swin_test"])
@pytest.mark.parametrize("size", [(64, 96), (100, 44), (4, 8)])
def test_strides_and_channels(name, size):
    encoder = build_encoder(name).eval()
    with torch.inference_mode():
        maps = encoder(torch.rand(2, 3, *size))
    assert encoder.channels == [8, 16, 32, 64]
    for features, channels, stride in zip(maps, encoder.channels, (4, 8, 16, 32), strict=True):
        assert features.shape == (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # The papers' tables say 28.3 M, 87.9 M and 28.3 M, classifier included.
        ("swinv2_tiny", 27_576_618),
        ("swinv2_base", 86_891_768),
        ("swin_tiny", 27_520_698),
    ],
)
def test_parameters(name, count):
    assert sum(p.numel() for p in build_encoder(name).parameters()) == count


@pytest.mark.parametrize("name", ["swinv2_test", "swin_test"])
def test_levels_rise_from_the_patches_to_the_last_stage(name):
    encoder = build_encoder(name)
    levels = {n: encoder.level_of(n) for n, _ in encoder.named_parameters()}
    assert set(levels.values()) == {0, 1, 2, 3, 4}
    for parameter, level in levels.items():
        if "patch_embeddings" in parameter or "embeddings.norm" in parameter:
            assert level == 0, parameter
        elif "layers.2.downsample" in parameter:  # leads from stride 16 to stride 32
            assert level == 4, parameter
        elif "layers.2." in parameter or "stage3" in parameter:
            assert level == 3, parameter


@pytest.mark.parametrize("name", ["swinv2_test", "swin_test"])
def test_stochastic_depth_in_training_alone(name):
    torch.manual_seed(0)
    encoder, x = build_encoder(name), torch.rand(2, 3, 64, 64)
    assert torch.equal(encoder.eval()(x)[3], encoder(x)[3])
    encoder.train()
    assert not torch.equal(encoder(x)[3], encoder(x)[3])
    rates = [layer.drop_prob for layer in encoder.modules() if type(layer).__name__.endswith("DropPath")]
    np.testing.assert_allclose(rates, np.linspace(0, 0.2, 8)[1:], rtol=1e-6)  # none in the first


def test_filed_names():
    block = "encoder.layers.0.blocks.1"
    assert checkpoint_key(f"swin.{block}.attention.q_proj.weight") == f"{block}.attention.self.query.weight"
    assert checkpoint_key(f"swin.{block}.mlp.fc2.bias") == f"{block}.output.dense.bias"
    assert checkpoint_key("hidden_states_norms.stage1.bias") == "hidden_states_norms.stage1.bias"
