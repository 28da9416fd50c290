"""Every way up against a float64 NumPy version of its formula."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.upsamplers import (
    Bilinear,
    ConvGuidedFilter,
    DeepGuidedFilter,
    FastGuidedFilter,
    FineGuidedFilter,
)
from tests.models.references import Map, guided_coefficients, guided_logits


def maps(rng: np.random.Generator, batch: int, coarse: tuple[int, int], fine: tuple[int, int]):
    """A coarse guide, logits and a fine guide, float32, (batch, 1, …)."""
    guide, logits = rng.normal(0, 1, (2, batch, 1, *coarse)).astype(np.float32)
    return guide, logits * 5, rng.normal(0, 1, (batch, 1, *fine)).astype(np.float32)


@pytest.mark.parametrize("radius_px", [1, 2, 4])
@pytest.mark.parametrize("coarse", [(8, 8), (7, 13), (3, 2), (1, 1)])  # radius 4 reaches over the last two
@pytest.mark.parametrize("averaged", [True, False])
def test_fast_coefficients(rng, radius_px, coarse, averaged):
    guide, logits, _ = maps(rng, 2, coarse, (1, 1))
    layer = FastGuidedFilter(radius_px, 1e-2, averaged)
    got = layer(*map(torch.from_numpy, (guide, logits))).numpy()
    assert got.shape == (2, 2, *coarse)
    for image in range(2):
        arrays = (x[image, 0].astype(np.float64) for x in (guide, logits))
        wanted = guided_coefficients(*arrays, radius_px, 1e-2, averaged)
        np.testing.assert_allclose(got[image], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("radius_px", [1, 2, 4])
@pytest.mark.parametrize("fine", [(32, 32), (29, 51), (5, 3), (1, 9)])
def test_logits_at_full_size(rng, radius_px, fine):
    guide, logits, fine_guide = maps(rng, 2, (7, 13), fine)
    layer = FastGuidedFilter(radius_px, 1e-2)
    coefficients = layer(torch.from_numpy(guide), torch.from_numpy(logits))
    got = layer.upsample(coefficients, torch.from_numpy(fine_guide)).numpy()
    assert got.shape == (2, 1, *fine)
    for image in range(2):
        arrays = [x[image, 0].astype(np.float64) for x in (guide, logits, fine_guide)]
        np.testing.assert_allclose(
            got[image, 0], guided_logits(*arrays, radius_px, 1e-2), atol=5e-5, rtol=1e-5
        )


def test_flat_guide_passes_the_mean_of_the_logits(rng):
    logits = torch.from_numpy(rng.normal(0, 1, (1, 1, 9, 9)).astype(np.float32))
    a, b = FastGuidedFilter(9, 1e-4)(torch.full_like(logits, 0.5), logits)[0]
    np.testing.assert_allclose(a, 0, atol=1e-2)
    np.testing.assert_allclose(a * 0.5 + b, logits.mean(), atol=1e-5)


def test_a_nearly_flat_guide_loses_no_digits(rng):
    """Far from 0, with steps of 1e-3 and logits of ±50: E[xy] − E[x]E[y] in float32 is off by 0.1 here."""
    guide = (2.2 + 1e-3 * rng.normal(0, 1, (1, 1, 40, 40))).astype(np.float32)
    logits = rng.normal(0, 50, (1, 1, 40, 40)).astype(np.float32)
    got = FastGuidedFilter(1, 1e-4)(torch.from_numpy(guide), torch.from_numpy(logits))[0].numpy()
    wanted = guided_coefficients(guide[0, 0].astype(np.float64), logits[0, 0].astype(np.float64), 1, 1e-4)
    np.testing.assert_allclose(got[0] * guide[0, 0] + got[1], wanted[0] * guide[0, 0] + wanted[1], atol=1e-3)


@pytest.mark.parametrize("fine", [(32, 32), (29, 51), (5, 3), (1, 9)])
def test_bilinear_is_torchs_own(rng, fine):
    guide, logits, fine_guide = map(torch.from_numpy, maps(rng, 2, (7, 13), fine))
    layer = Bilinear()
    got = layer.upsample(layer(guide, logits, guide), fine_guide)
    wanted = nn.functional.interpolate(logits, fine, mode="bilinear", align_corners=True)
    assert torch.equal(got, wanted)


def weighted_moments(guide: Map, logits: Map, weights: Map) -> tuple[Map, Map, Map, Map]:
    """Window by window: means, variance, covariance, (h, w) each; weights (n, n)."""
    n, (h, w) = len(weights) // 2, guide.shape
    moments = np.zeros((4, h, w))
    for y in range(h):
        for x in range(w):
            rows, columns = (
                np.arange(max(0, y - n), min(h, y + n + 1)),
                np.arange(max(0, x - n), min(w, x + n + 1)),
            )
            near = np.ix_(rows, columns)
            share = weights[np.ix_(rows - y + n, columns - x + n)]
            g, p = (np.average(m[near], weights=share) for m in (guide, logits))
            moments[:, y, x] = (
                g, p,
                np.average((guide[near] - g) ** 2, weights=share),
                np.average((guide[near] - g) * (logits[near] - p), weights=share),
            )  # fmt: skip
    return tuple(moments)


def convolved(layer: nn.Conv2d, x: Map) -> Map:
    """(C, h, w) → (O, h, w) in float64, zeros outside."""
    kernel, (_, height, width) = layer.weight.detach().double().numpy(), x.shape
    reach = kernel.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    total = np.zeros((len(kernel), height, width))
    for i, j in np.ndindex(*kernel.shape[2:]):
        total += np.einsum("oi,ihw->ohw", kernel[..., i, j], padded[:, i : i + height, j : j + width])
    return total if layer.bias is None else total + layer.bias.detach().double().numpy()[:, None, None]


def normed(layer: nn.Module, x: Map) -> Map:
    """Convolution and batch norm in float64."""
    mean, var, weight, bias = (
        getattr(layer.norm, k).detach().double().numpy()[:, None, None]
        for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (convolved(layer.conv, x) - mean) / np.sqrt(var + 1e-5) * weight + bias


def small_network(fit: nn.Sequential, x: Map) -> Map:
    """(C, h, w) → (h, w): 1×1 convolutions, batch norms and ReLU6 in float64."""
    for layer in fit[:2]:
        x = normed(layer, x).clip(0, 6)
    return convolved(fit[2], x)[0]


@torch.no_grad()
def draw_numbers(layer: nn.Module) -> None:
    """Fill weights and norms with random numbers that all matter."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.2 if tensor.ndim == 1 else torch.randn_like(tensor) * 0.3
            )


@pytest.mark.parametrize("radius_px", [1, 2])
@pytest.mark.parametrize("deep", [False, True])
def test_learned_coefficients(rng, radius_px, deep):
    torch.manual_seed(4)
    layer = (DeepGuidedFilter(radius_px, channels=6) if deep else ConvGuidedFilter(radius_px)).eval()
    draw_numbers(layer)
    guide, logits, _ = maps(rng, 2, (7, 9), (1, 1))
    features = rng.normal(0, 1, (2, 6, 7, 9)).astype(np.float32)
    with torch.inference_mode():
        got = layer(*map(torch.from_numpy, (guide, logits, features))).numpy()
    window = np.exp(layer.window.detach().double().numpy()).reshape(2 * radius_px + 1, -1)
    for image in range(2):
        arrays = (x[image, 0].astype(np.float64) for x in (guide, logits))
        mean_guide, mean_logits, variance, covariance = weighted_moments(*arrays, window)
        seen = np.stack([covariance, variance])
        if deep:
            weight, bias = (
                layer.project.weight[..., 0, 0].detach().double(),
                layer.project.bias.detach().double(),
            )
            projected = np.einsum("oi,ihw->ohw", weight.numpy(), features[image].astype(np.float64))
            seen = np.concatenate([seen, projected + bias.numpy()[:, None, None]])
        a = small_network(layer.fit, seen)
        assert np.ptp(a) > 0.1
        np.testing.assert_allclose(got[image], [a, mean_logits - a * mean_guide], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [ConvGuidedFilter(1), DeepGuidedFilter(1, channels=6)])
def test_learned_filters_start_as_the_mean_and_can_learn(rng, layer):
    guide, logits, _ = map(torch.from_numpy, maps(rng, 2, (7, 9), (1, 1)))
    features = torch.randn(2, 6, 7, 9)
    layer.train()
    a, b = layer(guide, logits, features).split(1, dim=1)
    assert not a.any()
    mean = nn.functional.avg_pool2d(logits, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(b, mean)

    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):  # towards the fast guided filter's A
        target = FastGuidedFilter(1, 1e-1, averaged=False)(guide, logits)[:, :1]
        loss = (layer(guide, logits, features)[:, :1] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert layer.window.grad.abs().max() > 0


def doubled(planes: Map) -> Map:
    """(C, h, w) → (C, 2h, 2w), bilinear with borders repeated."""
    return np.stack([cv2.resize(p, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR) for p in planes])


def fine_maps(rng: np.random.Generator) -> list[torch.Tensor]:
    """Guide, logits, features, finest map and grey image, (2, …)."""
    shapes = ((1, 7, 9), (1, 7, 9), (6, 7, 9), (3, 14, 18), (1, 28, 36))
    return [torch.from_numpy(rng.normal(0, 1, (2, *shape)).astype(np.float32)) for shape in shapes]


def test_fine_coefficients(rng):
    torch.manual_seed(4)
    layer = FineGuidedFilter(channels=6, finest=3, width=4).eval()
    draw_numbers(layer)
    maps = fine_maps(rng)
    with torch.inference_mode():
        got = layer(*maps).numpy()
    for image in range(2):
        _, logits, features, finest, grey = (m[image].double().numpy() for m in maps)
        x = doubled(normed(layer.narrow, features)) + normed(layer.lateral, finest)
        x = normed(layer.smooth, np.maximum(x, 0)).clip(0, 6)
        a, correction = convolved(layer.last, x)
        mean = grey[0].reshape(14, 2, 18, 2).mean((1, 3))
        assert np.ptp(a) > 0.1
        wanted = [a, doubled(logits)[0] + correction - a * mean]
        np.testing.assert_allclose(got[image], wanted, atol=2e-5, rtol=1e-5)


def test_the_fine_filter_starts_as_the_logits_made_large_and_can_learn(rng):
    layer, maps = FineGuidedFilter(channels=6, finest=3).train(), fine_maps(rng)
    a, b = layer(*maps).split(1, dim=1)
    assert not a.any()
    np.testing.assert_allclose(b[1].detach(), doubled(maps[1][1].numpy()), atol=1e-6)

    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    target = torch.cat([maps[3][:, :1], b.detach() + maps[3][:, 1:2]], dim=1)  # of the finest map alone
    losses = []
    for _ in range(60):
        loss = (layer(*maps) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


def test_what_follows_the_guide_adds_nothing_on_average(rng):
    """A everywhere 3, no correction: the logits at half of working size stay what they were."""
    layer, maps = FineGuidedFilter(channels=6, finest=3).eval(), fine_maps(rng)
    with torch.no_grad():
        layer.last.bias[0] = 3
        a, b = layer(*maps).split(1, dim=1)
    fine_a, fine_b = (nn.functional.interpolate(x, scale_factor=2) for x in (a, b))
    fine = fine_a * maps[4] + fine_b
    mean = fine[1, 0].reshape(14, 2, 18, 2).mean((1, 3))
    np.testing.assert_allclose(mean, doubled(maps[1][1].numpy())[0], atol=1e-5)
    assert (fine[1, 0] - mean.repeat_interleave(2, 0).repeat_interleave(2, 1)).abs().max() > 1
