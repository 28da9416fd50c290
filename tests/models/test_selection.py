"""Selection: reconstruction against scikit-image, and what the shipped network does with priors."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.morphology import reconstruction

from models.selection import STEPS, connected
from stylematte import load

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.mark.parametrize("seed", range(3))
def test_connected_is_a_reconstruction(seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.random((12, 14)), 2)
    mask = (mask - mask.min()) / np.ptp(mask)
    seeds = np.zeros_like(mask)
    seeds[rng.integers(0, 12, 3), rng.integers(0, 14, 3)] = rng.uniform(0.5, 1, 3)
    wanted = reconstruction(np.minimum(seeds, mask), mask, footprint=np.ones((3, 3)))
    found = connected(*(torch.from_numpy(x)[None, None] for x in (seeds, mask)))
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-12)
    assert found.unique().numel() > 3


def test_connected_ends_after_its_steps():
    mask, seed = torch.ones(1, 1, 1, 2 * STEPS), torch.zeros(1, 1, 1, 2 * STEPS)
    seed[..., 0] = 1
    assert connected(seed, mask).sum() == STEPS + 1


@pytest.mark.parametrize("is_left", [True, False])
def test_the_shipped_network_returns_the_subject_that_a_point_marks(is_left):
    """Two subjects side by side: a woman and a cat."""
    halves = [cv2.imread(str(PHOTOS / name))[..., ::-1] for name in ("astronaut.png", "chelsea.png")]
    image = np.hstack([cv2.resize(half, (480, 480)) for half in halves])
    image[:, 470:490] = 128
    prior = np.zeros(image.shape[:2], np.float32)
    cv2.circle(prior, (200, 400) if is_left else (700, 250), 14, 1.0, -1)
    matter = load("nano", detail="off")
    before, after = matter(image).alpha, matter(image, prior=prior).alpha
    wanted, other = np.s_[:, :460], np.s_[:, 500:]
    if not is_left:
        wanted, other = other, wanted
    assert min(before[wanted].mean(), before[other].mean()) > 0.2  # both, without a prior
    assert after[wanted].mean() > 0.85 * before[wanted].mean()
    assert after[other].mean() < 0.2 * before[other].mean()
