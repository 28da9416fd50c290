"""Losses against NumPy and SciPy, and what weight 0 means to them."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff
from torch.nn import functional as F  # noqa: N812

from tests.models.references import sigmoid
from training.losses import (
    LOSSES,
    NEEDS,
    _binomial,
    bce,
    composition,
    dice,
    hausdorff,
    l1,
    l2,
    laplacian,
    multiscale_dice,
)


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


def test_l1(maps):
    logits, alpha, weight = maps
    assert run(l1, maps) == pytest.approx(weighted(np.abs(sigmoid(logits) - alpha), weight), rel=1e-6)


def test_l2(maps):
    logits, alpha, weight = maps
    assert run(l2, maps) == pytest.approx(weighted((sigmoid(logits) - alpha) ** 2, weight), rel=1e-6)


def test_dice_by_hand():
    half, sure = 0.0, 500.0  # logits of 0.5 and 1
    logits = torch.tensor([[[[half, half, half, half]]], [[[sure, sure, -sure, -sure]]]])
    alpha = torch.tensor([[[[1.0, 1, 0, 0]]], [[[1.0, 1, 0, 0]]]])
    weight = torch.ones_like(alpha)
    # First image: overlap 1, total 2 + 2, so 1 - (2 + 1) / (4 + 1); the second is right.
    assert float(dice(logits, alpha, weight)) == pytest.approx((0.4 + 0) / 2)
    weight[0, 0, 0, 3] = 0  # total 1.5 + 2
    assert float(dice(logits, alpha, weight)) == pytest.approx((1 - 3 / 4.5) / 2)
    assert float(dice(torch.full((1, 1, 1, 4), -sure), torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 1, 4))) == 0


def means_of_blocks(x: np.ndarray, side: int) -> np.ndarray:
    height, width = x.shape
    return x.reshape(height // side, side, width // side, side).mean((1, 3))


def test_multiscale_dice(maps):
    logits, alpha, weight = (x[:, 0, :, :32] for x in maps)
    losses = []
    for p, a, w in zip(sigmoid(logits), alpha, weight, strict=True):
        for side in (1, 2, 4, 8):
            believed = means_of_blocks(w, side)
            predicted, wanted = (means_of_blocks(x * w, side) / believed for x in (p, a))
            overlap = (believed * predicted * wanted).sum()
            size = (believed * (predicted**2 + wanted**2)).sum()
            losses.append(1 - (2 * overlap + 1) / (size + 1))
    got = run(multiscale_dice, [np.ascontiguousarray(x[:, None]) for x in (logits, alpha, weight)])
    assert got == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_soft_answer_that_is_right_costs_multiscale_dice_nothing(maps):
    _, alpha, weight = (torch.from_numpy(x) for x in maps)
    assert float(multiscale_dice(torch.logit(alpha), alpha, weight)) == pytest.approx(0, abs=1e-9)
    assert float(dice(torch.logit(alpha), alpha, weight)) > 0.1  # without squares it costs something


@pytest.mark.parametrize("size", [(24, 36), (5, 8), (3, 3)])
def test_a_blur_by_slices_is_a_convolution(rng, size):
    x = torch.from_numpy(rng.normal(0, 1, (2, 1, *size)))
    row = torch.tensor([1.0, 4, 6, 4, 1], dtype=torch.float64) / 16
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    torch.testing.assert_close(_binomial(x), F.conv2d(padded, torch.outer(row, row)[None, None]))


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
    predicted = [pyramid(image[0], 3) for image in sigmoid(logits)]
    wanted = [pyramid(image[0], 3) for image in alpha]
    total = 0.0
    for level in range(3):
        bands = [np.abs(p[level] - w[level]) for p, w in zip(predicted, wanted, strict=True)]
        total += weighted(np.stack(bands), weight[:, 0, :: 2**level, :: 2**level])
    assert run(laplacian, maps) == pytest.approx(total, rel=1e-6)


def test_composition(maps, rng):
    logits, alpha, weight = maps
    contrast = rng.uniform(-1, 1, (2, 3, 24, 36))
    foreground = rng.uniform(0, 1, contrast.shape)
    background = foreground - contrast
    composites = [a * foreground + (1 - a) * background for a in (sigmoid(logits), alpha)]
    off = np.abs(composites[0] - composites[1]).mean(1, keepdims=True)
    got = composition(*(torch.from_numpy(x) for x in (logits, alpha, weight, contrast)))
    assert float(got) == pytest.approx(weighted(off, weight), rel=1e-6)


def disc(centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    return (np.hypot(y - centre[0], x - centre[1]) <= radius).astype(float)


def box(centre: tuple[float, float], half: float) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    return ((abs(y - centre[0]) <= half) & (abs(x - centre[1]) <= half / 2)).astype(float)


def hausdorff_px(one: np.ndarray, other: np.ndarray) -> float:
    """The true distance, SciPy's."""
    points = [np.argwhere(mask > 0.5) for mask in (one, other)]
    return max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])


def hausdorff_of(predicted: np.ndarray, wanted: np.ndarray) -> float:
    sure = torch.from_numpy(200 * predicted - 100)[None, None]
    return float(hausdorff(sure, torch.from_numpy(wanted)[None, None], torch.ones_like(sure)))


@pytest.mark.parametrize("shape", [disc, box])
@pytest.mark.parametrize("radius", [12, 18])
@pytest.mark.parametrize("direction", [(0, 1), (1, 0), (0.7, -0.7)])
def test_hausdorff_grows_with_the_true_distance(shape, radius, direction):
    wanted = shape((32, 32), radius)
    moved = [shape((32 + s * direction[0], 32 + s * direction[1]), radius) for s in (0, 3, 5, 7, 9)]
    distances = [hausdorff_px(mask, wanted) for mask in moved]
    losses = [hausdorff_of(mask, wanted) for mask in moved]
    assert distances[0] == losses[0] == 0
    assert (np.diff(distances) > 0).all()
    assert (np.diff(losses) > 0).all()


def test_hausdorff_grows_with_a_bump_and_not_with_its_place():
    wanted = disc((32, 24), 14)
    bumps = [np.maximum(wanted, disc((32, 24 + 14 + reach / 2), reach / 2)) for reach in (4, 8, 12)]
    assert (np.diff([hausdorff_px(mask, wanted) for mask in bumps]) > 0).all()
    assert (np.diff([hausdorff_of(mask, wanted) for mask in bumps]) > 0).all()
    apart = [np.maximum(wanted, disc((32, column), 3)) for column in (45, 58)]
    assert hausdorff_of(apart[0], wanted) == pytest.approx(hausdorff_of(apart[1], wanted))


def eroded_by_hand(difference: np.ndarray) -> float:
    """Karimi and Salcudean's equation 8 with kornia's stretching, in float64."""
    cross = ndimage.generate_binary_structure(2, 1) / 5
    bound, total = difference**2, np.zeros_like(difference)
    for k in range(10):
        bound = np.maximum(ndimage.convolve(bound, cross, mode="constant") - 0.5, 0)
        spread = np.ptp(bound)
        if spread:
            bound = (bound - bound.min()) / spread
        total += bound * (k + 1) ** 2
    return total.mean()


def test_hausdorff_is_the_mean_over_images_of_the_equation(rng):
    wanted = np.stack([disc((30, 30), 15), disc((36, 24), 9)])
    logits = ndimage.gaussian_filter(rng.normal(0, 30, wanted.shape), (0, 3, 3))
    weight = rng.uniform(0.5, 1, wanted.shape)
    difference = np.sqrt(weight) * (sigmoid(logits) - wanted)
    by_hand = np.mean([eroded_by_hand(d) for d in difference])
    assert by_hand > 0.05  # and kornia's fifths are float32
    assert run(hausdorff, [x[:, None] for x in (logits, wanted, weight)]) == pytest.approx(by_hand, rel=1e-6)


def asked(name: str, logits, alpha, weight):
    """The loss by its name, with whatever else it needs."""
    colours = torch.full((len(alpha), 3, *alpha.shape[2:]), 0.5, dtype=alpha.dtype)
    return LOSSES[name](logits, alpha, weight, **dict.fromkeys(NEEDS.get(name, ()), colours))


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_of_weight_zero_have_no_say(name, maps, rng):
    logits, alpha, weight = (torch.from_numpy(x) for x in maps)
    unknown = torch.from_numpy(rng.random(weight.shape) < 0.5)
    weight = weight.masked_fill(unknown, 0)
    if name == "hausdorff":  # erosion leaves nothing of scattered pixels: here a solid half is wrong
        unknown = torch.zeros_like(unknown)
        unknown[..., :12] = True
        logits, alpha = torch.full_like(logits, 3), torch.zeros_like(alpha)
        weight = torch.ones_like(weight).masked_fill(unknown, 0)
    logits.requires_grad_()
    loss = asked(name, logits, alpha, weight)
    loss.backward()
    assert (logits.grad[unknown] == 0).all()
    if name == "hausdorff":
        assert (logits.grad[~unknown] != 0).any()
    else:
        assert (logits.grad[~unknown] != 0).all()
    other_logits = torch.where(unknown, -logits.detach(), logits.detach())
    other_alpha = torch.where(unknown, 1 - alpha, alpha)
    assert float(asked(name, other_logits, other_alpha, weight)) == pytest.approx(loss.item())


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_believe_is_no_loss(name, maps):
    logits, alpha, _ = (torch.from_numpy(x) for x in maps)
    assert float(asked(name, logits, alpha, torch.zeros_like(alpha))) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_answer_costs_nothing(name):
    alpha = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    assert float(asked(name, 200 * alpha - 100, alpha, torch.ones_like(alpha))) < 1e-9


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_over_parts_is_the_loss_of_the_whole(name, maps):
    parts = [torch.from_numpy(x) for x in maps]
    parts[2][0] *= 0.1  # images of unlike belief
    whole = float(asked(name, *parts))
    halves = [float(asked(name, *(x[i : i + 1] for x in parts))) for i in (0, 1)]
    assert whole == pytest.approx(np.mean(halves), rel=1e-12)
