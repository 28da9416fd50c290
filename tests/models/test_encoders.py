"""Encoders: shapes, and folded weights against the plain convolutions they were folded into."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.encoders import _SHAPES, build_encoder, from_signed_range, load_folded
from models.stylematte import MEAN, STD


def folded_weights(name: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Random kernels and biases by layer, scaled so that activations stay near 1."""
    shape = _SHAPES[name]
    weights: dict[str, Tensor] = {}

    def layer(key: str, outputs: int, inputs: int, kernel: int) -> None:
        spread = (inputs * kernel * kernel) ** -0.5
        weights[f"{key}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * spread
        weights[f"{key}.bias"] = torch.randn(outputs, generator=generator) * 0.5

    layer("stem", shape.stem, 3, 3)
    inputs, block = shape.stem, 0
    for expansion, outputs, repeats, _, kernel in shape.rows:
        for _ in range(repeats):
            hidden = inputs * expansion
            if expansion != 1:
                layer(f"blocks.{block}.expand", hidden, inputs, 1)
            layer(f"blocks.{block}.depthwise", hidden, 1, kernel)
            layer(f"blocks.{block}.project", outputs, hidden, 1)
            inputs, block = outputs, block + 1
    return weights


def plain_features(name: str, weights: dict[str, Tensor], x: Tensor) -> dict[int, Tensor]:
    """The folded network without any norm: the last map at every stride, stride → map."""

    def conv(x: Tensor, key: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = weights[f"{key}.weight"]
        # TensorFlow's SAME on even sides: k − s in all, the odd one right and below.
        total = max(weight.shape[-1] - stride, 0)
        before, after = total // 2, total - total // 2
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, weight, weights[f"{key}.bias"], stride, groups=groups)

    x = conv(x, "stem", stride=2).clamp(0, 6)
    features, reduction, block = {}, 2, 0
    for expansion, outputs, repeats, row_stride, _ in _SHAPES[name].rows:
        for repeat in range(repeats):
            stride = row_stride if repeat == 0 else 1
            y = x if expansion == 1 else conv(x, f"blocks.{block}.expand").clamp(0, 6)
            y = conv(y, f"blocks.{block}.depthwise", stride, groups=y.shape[1]).clamp(0, 6)
            y = conv(y, f"blocks.{block}.project")
            x = x + y if stride == 1 and x.shape[1] == outputs else y
            reduction *= stride
            features[reduction] = x
            block += 1
    return features


STRIDES = (2, 4, 8, 16, 32)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet_v2", [16, 24, 32, 96, 320]),
        ("efficientnet_lite0", [16, 24, 40, 112, 192]),
        ("mobilenet_v2_tiny", [8, 8, 12, 16, 24]),
    ],
)
def test_strides_and_channels(name, channels):
    encoder = build_encoder(name).eval()
    with torch.inference_mode():
        maps = encoder(torch.zeros(2, 3, 64, 96))
    assert encoder.channels == channels
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("name", ["mobilenet_v2_tiny", "mobilenet_v2", "efficientnet_lite0"])
def test_load_folded_keeps_the_function(name, generator):
    weights = folded_weights(name, generator)
    encoder = build_encoder(name).eval()
    load_folded(encoder, weights, torch.randn(4, 3, 64, 64, generator=generator))
    other = torch.randn(2, 3, 96, 64, generator=generator)  # not what the norms were measured on
    with torch.inference_mode():
        got = encoder(other)
    for stride, features in zip(STRIDES, got, strict=True):
        wanted = plain_features(name, weights, other)[stride]
        assert wanted.std() > 1e-3
        torch.testing.assert_close(features, wanted, atol=1e-4, rtol=1e-4)


def test_load_folded_measures_the_norms_on_the_photos(generator):
    encoder = build_encoder("mobilenet_v2_tiny").train()
    photos = torch.randn(6, 3, 64, 64, generator=generator)
    load_folded(encoder, folded_weights("mobilenet_v2_tiny", generator), photos)
    assert encoder.training
    outputs = []
    encoder.stem.norm.register_forward_hook(lambda norm, inputs, _: outputs.append(inputs[0]))
    encoder.eval()(photos)
    torch.testing.assert_close(encoder.stem.norm.running_mean, outputs[0].mean((0, 2, 3)))
    torch.testing.assert_close(encoder.stem.norm.running_var, outputs[0].var((0, 2, 3), correction=0))


def test_weights_for_signed_range_see_the_same_image(generator):
    weights = folded_weights("mobilenet_v2_tiny", generator)
    image = torch.rand(1, 3, 128, 128, generator=generator)
    wanted = plain_features("mobilenet_v2_tiny", weights, image * 2 - 1)
    mean, std = (torch.tensor(t).view(1, 3, 1, 1) for t in (MEAN, STD))
    encoder = build_encoder("mobilenet_v2_tiny").eval()
    normalised = (image - mean) / std
    load_folded(encoder, from_signed_range(weights, MEAN, STD), normalised)
    with torch.inference_mode():
        got = encoder(normalised)
    # Zeros beside the image are another colour in each range, so the right and lower edge differ.
    for stride, features in zip(STRIDES, got, strict=True):
        torch.testing.assert_close(
            features[..., :-2, :-2], wanted[stride][..., :-2, :-2], atol=1e-4, rtol=1e-4
        )


def test_load_folded_misses_a_layer(generator):
    weights = folded_weights("mobilenet_v2_tiny", generator)
    del weights["blocks.2.project.bias"]
    with pytest.raises(KeyError, match=r"blocks\.2\.project\.bias"):
        load_folded(build_encoder("mobilenet_v2_tiny"), weights, torch.randn(1, 3, 32, 32))
