"""Discriminators: sizes as published, low-pass and spread by hand, two derivatives, what is frozen."""

import math

import numpy as np
import pytest
import torch
from scipy import signal
from torch.nn import functional as F  # noqa: N812

from models.gan.discriminators import Discriminator, MapHead, VisionAided, _minibatch_std, vision_loss
from models.gan.layers import EqualisedConv2d
from tests.models.gan.backbones import tiny_clip, tiny_encoder


@pytest.mark.parametrize(("size_px", "parameters"), [(1024, 29_012_545), (512, 28_982_913)])
def test_parameters(size_px, parameters):
    assert sum(p.numel() for p in Discriminator(size_px).parameters()) == parameters


@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_halving_against_scipy(kernel):
    """Low-pass first, then the convolution at every second place, centred as averaging 2 × 2 would be."""
    torch.manual_seed(0)
    layer = EqualisedConv2d(2, 3, kernel, down=True)
    x = torch.randn(1, 2, 12, 12)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    found = layer(x).numpy()
    assert found.shape == (1, 3, 6, 6)
    for output in range(3):
        total = np.zeros((12 + kernel + 2, 12 + kernel + 2))
        for channel in range(2):
            soft = signal.convolve2d(x[0, channel].double().numpy(), taps)
            own = layer.weight[output, channel].double().numpy() / math.sqrt(2 * kernel**2)
            total += signal.correlate2d(soft, own)
        # The middle of the full convolution is the image's; outputs lie half a pixel past even ones.
        first = (len(total) - 12 + 1) // 2
        expected = total[first:, first:][:12:2, :12:2]
        assert np.allclose(found[0, output], expected, rtol=0, atol=1e-5)


def test_spread_by_hand():
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4, 4)
    found = _minibatch_std(x, 4)  # groups of 3, the most that divide 6: images 0, 2, 4 and 1, 3, 5
    assert found.shape == (6, 1, 4, 4)
    for group in ([0, 2, 4], [1, 3, 5]):
        expected = np.sqrt(np.var(x[group].double().numpy(), 0) + 1e-8).mean()
        assert np.allclose(found[group].numpy(), expected, rtol=1e-5)
    assert _minibatch_std(x[:1], 4).max() < 1e-3


@pytest.mark.parametrize("count", [1, 5, 8])
def test_any_batch(count):
    assert Discriminator(16, channel_base=64, channel_max=8)(torch.randn(count, 4, 16, 16)).shape == (
        count,
        1,
    )


def test_second_derivatives_against_differences():
    """R1's gradient: of the squared gradient towards the image, by a weight."""
    torch.manual_seed(0)
    network = Discriminator(8, channel_base=32, channel_max=4, minibatch_std_group=2).double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.double, requires_grad=True)

    def penalty():
        (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    penalty().backward()
    for weight in (network.from_rgba.weight, network.blocks[0].skip.weight, network.blocks[0].conv1.weight):
        plain, expected, step = weight.data.flatten()[1].item(), weight.grad.flatten()[1].item(), 1e-5
        sides = []
        for change in (step, -step):
            weight.data.view(-1)[1] = plain + change
            sides.append(penalty().item())
        weight.data.view(-1)[1] = plain
        assert math.isclose((sides[0] - sides[1]) / (2 * step), expected, rel_tol=1e-4)


@torch.no_grad()
def test_what_clip_sees():
    features = tiny_clip()
    rgb = torch.rand(2, 3, 20, 20) * 2 - 1
    maps = features(rgb)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 4), (2, 16, 4, 4), (2, 6)]
    assert features.channels == [16, 16, 6]
    large = F.interpolate((rgb + 1) / 2, (32, 32), mode="bilinear", align_corners=False)
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    pixels = (large - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    out = features.network(pixels, output_hidden_states=True)
    for level, block in zip(maps[:2], (2, 3), strict=True):
        for row, column in ((0, 0), (1, 2)):
            token = out.hidden_states[block][:, 1 + 4 * row + column]
            assert torch.allclose(level[:, :, row, column], token, atol=1e-4)
    assert torch.allclose(maps[2], out.image_embeds, atol=1e-4)


@torch.no_grad()
def test_large_images_are_averaged():
    rgb = torch.rand(1, 3, 64, 64) * 2 - 1
    features = tiny_clip()
    small = F.avg_pool2d(rgb, 2)
    assert torch.allclose(features.normalise(rgb, 32), features.normalise(small, 32), atol=1e-5)


@pytest.mark.parametrize("make", [tiny_clip, tiny_encoder])
def test_only_heads_learn(make):
    torch.manual_seed(0)
    network = VisionAided(make()).train()
    rgb = (torch.rand(3, 3, 32, 32) * 2 - 1).requires_grad_()
    assert not network.backbone.training
    assert not network.backbone.network.training
    levels = network(rgb)
    assert levels[-1].shape == (3, 1)
    vision_loss(levels, 0.8).backward()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("heads.") for name in trained)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.heads.parameters())
    assert rgb.grad.abs().max() > 0


@torch.no_grad()
def test_head_of_a_map():
    """Convolution of spectral norm 1, leaky ReLU, low-pass at every second place, one logit."""
    torch.manual_seed(0)
    head = MapHead(3, hidden=4)
    for _ in range(30):
        head.train()(torch.randn(1, 3, 6, 6))  # every look improves the estimate of the norm
    head.eval()
    assert math.isclose(torch.linalg.matrix_norm(head.conv.weight.flatten(1), 2).item(), 1, rel_tol=1e-3)
    x = torch.randn(1, 3, 6, 6)
    hidden = F.leaky_relu(head.conv(x), 0.2)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    soft = [
        signal.correlate2d(np.pad(h.double().numpy(), ((1, 2), (1, 2)), "edge"), taps, "valid")[::2, ::2]
        for h in hidden[0]
    ]
    expected = (
        np.tensordot(head.out.weight[0, :, 0, 0].double().numpy(), np.stack(soft), 1) + head.out.bias.item()
    )
    assert np.allclose(head(x)[0, 0].numpy(), expected, atol=1e-5)


def test_vision_loss_by_hand():
    levels = (torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[0.5]]))

    def cross(logit, label):
        p = 1 / (1 + math.exp(-logit))
        return -label * math.log(p) - (1 - label) * math.log(1 - p)

    for label in (0.8, 0.0):
        expected = (cross(2.0, label) + cross(-1.0, label)) / 2 + cross(0.5, label)
        assert math.isclose(vision_loss(levels, label).item(), expected, rel_tol=1e-6)
