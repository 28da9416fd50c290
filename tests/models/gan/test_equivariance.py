"""Images move and turn with the input's transform, in decibels as the paper measures them.

Reference:
    Karras et al., "Alias-Free Generative Adversarial Networks", 2021, section 2.2 and appendix E: EQ-T, EQ-R.
"""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.gan.alias_free import FilteredLeakyReLU
from models.gan.generator import Generator
from tests.models.gan.test_generator import lively

SIZE = 64


@pytest.fixture
def pointwise(monkeypatch):
    """Leaky ReLU at the signal's own rate; the filters change the rate alone."""
    within = FilteredLeakyReLU.forward

    def forward(self, x):
        slope, self.slope = self.slope, 1.0
        try:
            return within(self, F.leaky_relu(x, slope))
        finally:
            self.slope = slope

    def use():
        monkeypatch.setattr(FilteredLeakyReLU, "forward", forward)

    return use


def psnr(difference: np.ndarray) -> float:
    """Of images in [-1, 1], whose range is 2."""
    return 10 * math.log10(4 / np.square(difference).mean())


def network(kind: str) -> Generator:
    """Its images spread over about the nominal range."""
    return lively(kind, SIZE, channel_base=512, channel_max=24, layers=8, output_gain=0.5)


@torch.no_grad()
def eq_t(generator: Generator, z: Tensor) -> float:
    """Moved by whole pixels, up to an eighth of the side."""
    still = generator(z).numpy()
    differences = []
    for down, right in ((8, 0), (0, 5), (3, 7)):
        lookup = torch.eye(3)
        lookup[0, 2], lookup[1, 2] = -right / SIZE, -down / SIZE
        moved = generator(z, transform=lookup).numpy()
        differences.append((moved[..., down:, right:] - still[..., : SIZE - down, : SIZE - right]).ravel())
    return psnr(np.concatenate(differences))


@torch.no_grad()
def eq_r(generator: Generator, z: Tensor) -> float:
    """Turned by any angle, compared in a disc; the image is turned by splines of fifth order."""
    still = generator(z).double().numpy()
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    disc = np.hypot(axis[:, None], axis) < 0.4 * SIZE
    differences = []
    for degrees in (30.0, 77.0, 140.0):
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        lookup = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        turned = generator(z, transform=lookup).numpy()
        # Of places as (row, column), where the generator has (x, y).
        matrix = np.array([[cosine, sine], [-sine, cosine]])
        middle = np.full(2, (SIZE - 1) / 2)
        for image, channel in np.ndindex(still.shape[:2]):
            expected = ndimage.affine_transform(
                still[image, channel], matrix, middle - matrix @ middle, order=5, mode="nearest"
            )
            differences.append((turned[image, channel] - expected)[disc])
    return psnr(np.concatenate(differences))


def test_translation(pointwise):
    generator, z = network("t"), torch.randn(2, 12)
    alias_free = eq_t(generator, z)
    assert generator(z).std() > 0.3
    pointwise()
    assert alias_free > 60
    assert alias_free > eq_t(generator, z) + 6


def test_rotation(pointwise):
    (t, z), r = (network("t"), torch.randn(2, 12)), network("r")
    alias_free = eq_r(r, z)
    assert r(z).std() > 0.3
    assert alias_free > 55
    assert eq_r(t, z) < 30  # its kernels have a direction
    pointwise()
    assert alias_free > eq_r(r, z) + 6
