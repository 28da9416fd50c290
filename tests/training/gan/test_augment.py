"""Augmentation: each operation against SciPy or a value by hand, and nothing where nothing falls."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from models.gan import augment
from models.gan.augment import COLOUR, GEOMETRY, OPERATIONS, Augment

SIDE = 32


@pytest.fixture
def image() -> torch.Tensor:
    """(1, 4, 32, 32), smooth, so that two ways to resample it differ little."""
    noise = np.random.default_rng(0).uniform(-1, 1, (SIDE, SIDE, 4)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5, borderType=cv2.BORDER_REFLECT) * 4
    return torch.from_numpy(smooth).permute(2, 0, 1)[None]


def by_scipy(image: torch.Tensor, matrix: torch.Tensor) -> np.ndarray:
    """The same look-up by cubic splines, mirrored at the border: (4, 32, 32)."""
    centre = (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE] - centre
    lookup = matrix[0].double().numpy() @ np.stack([x.ravel(), y.ravel(), np.ones(SIDE**2)])
    places = (lookup[1::-1] + centre).reshape(2, SIDE, SIDE)
    return np.stack([map_coordinates(c, places, order=3, mode="reflect") for c in image[0].double().numpy()])


ONE = torch.ones(1)


@pytest.mark.parametrize(
    "matrix",
    [
        augment.scaling(-ONE, ONE),
        augment.translation(3 * ONE, -2 * ONE),
        augment.translation(2.4 * ONE, 0.7 * ONE),
        augment.rotation(0.5 * ONE),
        augment.rotation(math.pi / 2 * ONE),
        augment.scaling(0.8 * ONE, 0.8 * ONE),
        augment.scaling(1 / 1.3 * ONE, 1.3 * ONE),
        augment.rotation(-0.3 * ONE) @ augment.scaling(1.1 * ONE, 0.9 * ONE) @ augment.translation(ONE, ONE),
    ],
    ids=["flip", "shift", "drift", "rotate", "turn", "scale", "stretch", "all"],
)
def test_geometry_is_scipys(image, matrix):
    ours = augment.apply_geometry(image, matrix)[0].numpy()
    # Bilinear on half pixels against splines, on a smooth image whose values span ±1.
    assert np.abs(ours - by_scipy(image, matrix)).max() < 0.02


def test_a_shift_by_whole_pixels_keeps_their_values(image):
    moved = augment.apply_geometry(image, augment.translation(3 * ONE, torch.zeros(1)))
    assert torch.allclose(moved[..., 4:-8], image[..., 7:-5], atol=2e-3)


def test_up_and_down_again_changes_little(image):
    fine = augment.upsample(image)
    assert fine.shape == (1, 4, 2 * SIDE, 2 * SIDE)
    assert torch.allclose(augment.downsample(fine), image, atol=2e-3)
    flat = torch.full((1, 4, 16, 16), 0.7)
    assert torch.allclose(augment.upsample(flat), torch.tensor(0.7))


def test_downsampling_stops_what_a_coarse_grid_cannot_hold():
    stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 1, 64, 64)
    inside = augment.downsample(stripes)[..., 6:-6]  # mirrored, the stripes are no stripes at the border
    assert inside.abs().max() < 1e-5


def test_images_that_nothing_falls_on_stay_to_the_bit(image):
    assert torch.equal(Augment(p=0.0)(image), image)
    both = image.repeat(2, 1, 1, 1)
    matrices = torch.cat([torch.eye(3)[None], augment.rotation(ONE)])
    moved = augment.apply_geometry(both, matrices)
    assert torch.equal(moved[0], both[0])
    assert not torch.allclose(moved[1], both[1], atol=0.1)


def test_colour_leaves_alpha_and_geometry_moves_it(image):
    torch.manual_seed(0)
    coloured = Augment(COLOUR, p=1.0)(image)
    assert torch.equal(coloured[:, 3], image[:, 3])
    assert not torch.allclose(coloured[:, :3], image[:, :3], atol=0.01)
    ramp = torch.linspace(-1, 1, SIDE).expand(1, 4, SIDE, SIDE).clone()
    moved = Augment(GEOMETRY, p=1.0)(ramp)
    assert torch.allclose(moved[:, 3], moved[:, 0], atol=1e-5)  # all four channels go the same way
    assert not torch.allclose(moved, ramp, atol=0.01)


@pytest.mark.parametrize("name", COLOUR)
def test_colour_matrices(name):
    torch.manual_seed(3)
    matrices = augment.draw_colour(64, 1.0, [name]).double()
    grey, red = torch.tensor([0.3, 0.3, 0.3, 1.0]).double(), torch.tensor([0.9, -0.2, 0.1, 1.0]).double()
    from_grey, from_red = matrices @ grey, matrices @ red
    mean, spread = from_red[:, :3].mean(1), from_red[:, :3] - from_red[:, :3].mean(1, keepdim=True)
    if name == "brightness":  # the same is added everywhere
        added = from_red[:, :3] - red[:3]
        assert torch.allclose(added, added[:, :1].expand(-1, 3))
        assert 0.15 < added[:, 0].std() < 0.25
    elif name == "contrast":
        factor = from_red[:, 0] / red[0]
        assert torch.allclose(from_red[:, :3], factor[:, None] * red[:3])
        assert 0.35 < factor.log2().std() < 0.65
    elif name == "luma_flip":  # the grey part changes its sign in half of them, colour stays
        assert torch.allclose(mean.abs(), red[:3].mean().abs().expand(64))
        assert 16 < (mean < 0).sum() < 48
        assert torch.allclose(spread, (red[:3] - red[:3].mean()).expand(64, 3), atol=1e-6)
    elif name == "hue":  # grey stays, and every colour keeps its distance from it
        assert torch.allclose(from_grey, grey.expand(64, 4), atol=1e-6)
        assert torch.allclose(spread.norm(dim=1), (red[:3] - red[:3].mean()).norm().expand(64), atol=1e-6)
    else:
        assert torch.allclose(from_grey, grey.expand(64, 4), atol=1e-6)
        factor = spread[:, 0] / (red[0] - red[:3].mean())
        assert torch.allclose(spread, factor[:, None] * (red[:3] - red[:3].mean()), atol=1e-6)
        assert 0.7 < factor.log2().std() < 1.3


def test_hue_by_a_third_of_the_circle_exchanges_the_primaries():
    turned = augment.grey_axis_rotation(torch.tensor([2 * math.pi / 3])) @ torch.tensor([1.0, 0, 0, 1])
    assert torch.allclose(turned[0], torch.tensor([0.0, 1, 0, 1]), atol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_falls_as_often_as_p_says(name):
    torch.manual_seed(1)
    p, count = 0.3, 4000
    if name in GEOMETRY:
        fell = (augment.draw_geometry(count, 64, p, [name]) - torch.eye(3)).abs().flatten(1).amax(1) > 1e-5
    else:
        fell = (augment.draw_colour(count, p, [name]) - torch.eye(4)).abs().flatten(1).amax(1) > 1e-5
    # Half the flips and a quarter of the quarter turns change nothing.
    expected = p * {"flip": 0.5, "luma_flip": 0.5, "turn": 0.75}.get(name, 1.0)
    assert float(fell.float().mean()) == pytest.approx(expected, abs=0.03)


def test_gradients_reach_the_images(image):
    torch.manual_seed(0)
    image.requires_grad_()
    Augment(p=1.0)(image.repeat(3, 1, 1, 1)).square().sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_an_operation_that_is_not_there():
    with pytest.raises(ValueError, match="unknown operation sharpen; choose from flip"):
        Augment(("sharpen",))
