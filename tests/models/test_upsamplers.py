"""The guided filter against a float64 NumPy version."""

import numpy as np
import pytest
import torch

from models.upsamplers import FastGuidedFilter
from tests.models.references import guided_coefficients, guided_logits


def maps(rng: np.random.Generator, batch: int, coarse: tuple[int, int], fine: tuple[int, int]):
    """A coarse guide, logits and a fine guide, float32, (batch, 1, …)."""
    guide, logits = rng.normal(0, 1, (2, batch, 1, *coarse)).astype(np.float32)
    return guide, logits * 5, rng.normal(0, 1, (batch, 1, *fine)).astype(np.float32)


@pytest.mark.parametrize("radius_px", [1, 2, 4])
@pytest.mark.parametrize("coarse", [(8, 8), (7, 13), (3, 2), (1, 1)])  # radius 4 reaches over the last two
def test_coefficients(rng, radius_px, coarse):
    guide, logits, _ = maps(rng, 2, coarse, (1, 1))
    got = FastGuidedFilter(radius_px, 1e-2).coefficients(*map(torch.from_numpy, (guide, logits))).numpy()
    assert got.shape == (2, 2, *coarse)
    for picture in range(2):
        wanted = guided_coefficients(
            guide[picture, 0].astype(np.float64), logits[picture, 0].astype(np.float64), radius_px, 1e-2
        )
        np.testing.assert_allclose(got[picture], wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("radius_px", [1, 2, 4])
@pytest.mark.parametrize("fine", [(32, 32), (29, 51), (5, 3), (1, 9)])
def test_logits_at_full_size(rng, radius_px, fine):
    guide, logits, fine_guide = maps(rng, 2, (7, 13), fine)
    layer = FastGuidedFilter(radius_px, 1e-2)
    coefficients = layer.coefficients(torch.from_numpy(guide), torch.from_numpy(logits))
    got = layer.upsample(coefficients, torch.from_numpy(fine_guide)).numpy()
    assert got.shape == (2, 1, *fine)
    for picture in range(2):
        arrays = [x[picture, 0].astype(np.float64) for x in (guide, logits, fine_guide)]
        np.testing.assert_allclose(
            got[picture, 0], guided_logits(*arrays, radius_px, 1e-2), atol=5e-4, rtol=1e-4
        )


def test_flat_guide_passes_the_mean_of_the_logits(rng):
    logits = torch.from_numpy(rng.normal(0, 1, (1, 1, 9, 9)).astype(np.float32))
    a, b = FastGuidedFilter(9, 1e-4).coefficients(torch.full_like(logits, 0.5), logits)[0]
    np.testing.assert_allclose(a, 0, atol=1e-2)
    np.testing.assert_allclose(a * 0.5 + b, logits.mean(), atol=1e-5)
