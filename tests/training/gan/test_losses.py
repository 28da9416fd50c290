"""Losses of both sides against values by hand, and what is shown to discriminators."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from training.gan import losses


def test_logistic_losses_by_hand():
    logits = torch.tensor([[0.0], [2.0]])
    softplus = [math.log(2), math.log(1 + math.exp(-2))]
    assert float(losses.generator_loss(logits)) == pytest.approx(sum(softplus) / 2, rel=1e-6)
    against = losses.discriminator_loss(torch.tensor([[1.0]]), torch.tensor([[-3.0]]))
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))
    assert float(against) == pytest.approx(expected, rel=1e-6)


def test_r1_of_a_quadratic():
    """D(x) = ½ xᵀ A x has the gradient A x for a symmetric A; the penalty's own is 2 A A x / N."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(12, 12))
    a = torch.from_numpy(half + half.T)
    images = torch.from_numpy(rng.normal(size=(5, 3, 2, 2))).requires_grad_()
    flat = images.flatten(1)
    logits = 0.5 * (flat @ a * flat).sum(1, keepdim=True)
    penalty = losses.r1_penalty(logits, images)
    gradients = flat.detach() @ a
    assert float(penalty.detach()) == pytest.approx(float(gradients.square().sum(1).mean()), rel=1e-12)
    (second,) = torch.autograd.grad(penalty, images)
    assert torch.allclose(second.flatten(1), 2 * gradients @ a / 5)


def test_composites_by_hand():
    rgba = torch.tensor([0.5, 3.0, -1.0, 0.0]).view(1, 4, 1, 1)  # alpha ½; green beyond white
    behind = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert losses.composite(rgba, behind).flatten().tolist() == [-0.25, 0.5, 0.0]
    opaque = torch.cat([rgba[:, :3], torch.full((1, 1, 1, 1), 1.7)], 1)
    assert losses.composite(opaque, behind).flatten().tolist() == [0.5, 1.0, -1.0]


def test_the_blur_is_scipys_and_fades():
    images = np.random.default_rng(0).normal(size=(2, 4, 24, 24))
    ours = losses.blur(torch.from_numpy(images), 2.0).numpy()
    theirs = gaussian_filter(images, (0, 0, 2, 2), mode="nearest", radius=(0, 0, 6, 6))
    assert np.abs(ours - theirs).max() < 1e-12
    pixels = torch.from_numpy(images)
    assert losses.blur(pixels, 0.0) is pixels
    assert [losses.fading_blur_px(10, seen, 200) for seen in (0, 50, 200, 300)] == [10, 7.5, 0, 0]


def test_the_probability_follows_the_sign():
    assert losses.adapted(0.2, 0.9, 0.6, 64, 0.64) == pytest.approx(0.3)
    assert losses.adapted(0.2, 0.3, 0.6, 64, 0.64) == pytest.approx(0.1)
    assert losses.adapted(0.2, 0.6, 0.6, 64, 0.64) == 0.2
    assert losses.adapted(0.99, 1.0, 0.6, 64, 0.64) == 1.0
    assert losses.adapted(0.05, -1.0, 0.6, 64, 0.64) == 0.0


def test_the_average_forgets_half_in_its_half_life():
    decay = losses.average_decay(20, 10**9, 10, 0.05)
    assert decay ** (10_000 / 20) == pytest.approx(0.5)
    assert losses.average_decay(20, 2000, 10, 0.05) == pytest.approx(0.5 ** (20 / 100))
    assert losses.average_decay(20, 0, 10, 0.05) == 0.0  # at the start it is the network itself
