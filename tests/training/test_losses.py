"""Losses against NumPy and SciPy, and what weight 0 means to them."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.models.references import sigmoid
from training.losses import LOSSES, bce, dice, l2, laplacian


@pytest.fixture
def maps(rng):
    """Logits, alpha and weight, (2, 1, 24, 36) float64."""
    shape = (2, 1, 24, 36)
    weight = rng.uniform(0.1, 1, shape)
    return rng.normal(0, 3, shape), rng.uniform(0, 1, shape), weight


def run(loss, maps) -> float:
    return float(loss(*(torch.from_numpy(x) for x in maps)))


def weighted(values, weight) -> float:
    return (values * weight).mean()


def test_bce(maps):
    logits, alpha, weight = maps
    p = sigmoid(logits)
    values = -(alpha * np.log(p) + (1 - alpha) * np.log(1 - p))
    assert run(bce, maps) == pytest.approx(weighted(values, weight), rel=1e-6)


def test_bce_of_sure_logits_is_finite():
    logits = torch.tensor([[[[500.0, -500.0]]]])
    assert bce(logits, torch.tensor([[[[0.0, 0.0]]]]), torch.ones(1, 1, 1, 2)) == 250


def test_l2(maps):
    logits, alpha, weight = maps
    assert run(l2, maps) == pytest.approx(weighted((sigmoid(logits) - alpha) ** 2, weight), rel=1e-6)


def test_dice_by_hand():
    half, sure = 0.0, 500.0  # logits of 0.5 and 1
    logits = torch.tensor([[[[half, half, half, half]]], [[[sure, sure, -sure, -sure]]]])
    alpha = torch.tensor([[[[1.0, 1, 0, 0]]], [[[1.0, 1, 0, 0]]]])
    weight = torch.ones_like(alpha)
    # First picture: overlap 1, total 2 + 2, so 1 - (2 + 1) / (4 + 1); the second is right.
    assert float(dice(logits, alpha, weight)) == pytest.approx((0.4 + 0) / 2)
    weight[0, 0, 0, 3] = 0  # total 1.5 + 2
    assert float(dice(logits, alpha, weight)) == pytest.approx((1 - 3 / 4.5) / 2)
    assert float(dice(torch.full((1, 1, 1, 4), -sure), torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 1, 4))) == 0


def pyramid(x: np.ndarray, levels: int) -> list[np.ndarray]:
    """Band-pass levels of (h, w), with the border mirrored about the edge pixel."""
    bands = []
    for _ in range(levels):
        blurred = x
        for axis in (0, 1):
            blurred = ndimage.convolve1d(blurred, np.array([1, 4, 6, 4, 1]) / 16, axis, mode="mirror")
        bands.append(x - blurred)
        x = blurred[::2, ::2]
    return bands


def test_laplacian(maps):
    logits, alpha, weight = maps
    predicted = [pyramid(picture[0], 3) for picture in sigmoid(logits)]
    wanted = [pyramid(picture[0], 3) for picture in alpha]
    total = 0.0
    for level in range(3):
        bands = [np.abs(p[level] - w[level]) for p, w in zip(predicted, wanted, strict=True)]
        total += weighted(np.stack(bands), weight[:, 0, :: 2**level, :: 2**level])
    assert run(laplacian, maps) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_of_weight_zero_have_no_say(name, maps, rng):
    logits, alpha, weight = (torch.from_numpy(x) for x in maps)
    unknown = torch.from_numpy(rng.random(weight.shape) < 0.5)
    weight = weight.masked_fill(unknown, 0)
    logits.requires_grad_()
    loss = LOSSES[name](logits, alpha, weight)
    loss.backward()
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()
    other_logits = torch.where(unknown, -logits.detach(), logits.detach())
    other_alpha = torch.where(unknown, 1 - alpha, alpha)
    assert float(LOSSES[name](other_logits, other_alpha, weight)) == pytest.approx(loss.item())


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_believe_is_no_loss(name, maps):
    logits, alpha, _ = (torch.from_numpy(x) for x in maps)
    assert float(LOSSES[name](logits, alpha, torch.zeros_like(alpha))) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_answer_costs_nothing(name):
    alpha = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    assert float(LOSSES[name](200 * alpha - 100, alpha, torch.ones_like(alpha))) < 1e-9
