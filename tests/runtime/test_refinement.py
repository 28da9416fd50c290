"""Where a coarse alpha is looked at again: budget, bands, levels and seams."""

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stylematte.errors import UsageError
from stylematte.imaging.geometry import ImageArray, Window
from stylematte.imaging.refinement import (
    UNCERTAIN,
    Patch,
    Tiles,
    apply_patches,
    band_of,
    lay_tiles,
    parse_detail,
    refine,
)

TILES = Tiles(2, 64)


class Blurred:
    """The coarse alpha of an image whose red is the true one: blurred over `cell_px`, at any size."""

    def __init__(self, image: ImageArray, cell_px: float) -> None:
        self.truth = image[..., 0].astype(np.float32) / 255
        self.whole = cv2.GaussianBlur(self.truth, (0, 0), cell_px)
        self.grid = tuple(max(2, round(side / cell_px)) for side in image.shape[:2])

    def __call__(self, image: ImageArray, window: Window | None) -> NDArray[np.float32]:
        alpha = self.whole
        if image.shape[:2] != alpha.shape:
            alpha = cv2.resize(alpha, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        return alpha if window is None else alpha[window].copy()


class Refiner:
    """Reads the true alpha off the image's red; counts what it was given."""

    def __init__(self) -> None:
        self.passes = 0
        self.seen_px: list[NDArray[np.float32]] = []

    def __call__(self, images: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.float32]:
        assert images.shape == (TILES.batch, 3, TILES.side_px, TILES.side_px)
        assert coarse.shape == (TILES.batch, 1, TILES.side_px, TILES.side_px)
        self.passes += 1
        self.seen_px.append(images)
        return images[:, :1]


def keep(images: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    return coarse


def strands(height: int, width: int, thickness: int = 1) -> ImageArray:
    """A disc with radial strands, red; the background is grey."""
    alpha = np.zeros((height, width), np.uint8)
    middle, radius = (width // 2, height // 2), min(height, width) // 5
    cv2.circle(alpha, middle, radius, 255, -1, cv2.LINE_AA)
    for angle in np.linspace(0, 2 * np.pi, 40, endpoint=False):
        end = [round(m + 1.6 * radius * f(angle)) for m, f in zip(middle, (math.cos, math.sin), strict=True)]
        cv2.line(alpha, middle, end, 255, thickness, cv2.LINE_AA)
    return np.dstack([alpha, np.full_like(alpha, 90), np.full_like(alpha, 90)])


@pytest.mark.parametrize(
    ("text", "pixels"), [("off", 0), ("max", math.inf), ("2", 2e6), ("0.5", 5e5), ("auto", 1.5e6)]
)
def test_detail_is_read(text: str, pixels: float) -> None:
    assert parse_detail(text) == pixels


@pytest.mark.parametrize("text", ["", "much", "0", "-1", "nan", "inf", "1e400"])
def test_detail_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="detail"):
        parse_detail(text)


@pytest.mark.parametrize("cell_px", [3.0, 7.0, 12.0, 30.0], ids=["one", "one_wide", "two", "three_levels"])
def test_the_truth_comes_back_in_the_band_and_nothing_else_changes(cell_px: float) -> None:
    image = strands(611, 780, thickness=max(1, round(cell_px / 6)))
    coarse = Blurred(image, cell_px)
    before = coarse(image, None).copy()
    patches = refine(image, coarse, coarse.grid, Refiner(), TILES, math.inf)
    after = apply_patches(before.copy(), patches)
    soft = (before > UNCERTAIN[0]) & (before < UNCERTAIN[1])
    assert np.abs(after - coarse.truth)[soft].mean() < 0.25 * np.abs(before - coarse.truth)[soft].mean()
    reach = 2 * math.ceil(4 * cell_px) + 1
    near = cv2.dilate(soft.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    assert np.array_equal(after[~near], before[~near])
    assert near.mean() < 0.9


@pytest.mark.parametrize("cell_px", [3.0, 14.0])
def test_a_refiner_that_keeps_everything_leaves_no_seams(cell_px: float) -> None:
    image = strands(500, 420)
    coarse = Blurred(image, cell_px)
    before = coarse(image, None)
    after = apply_patches(before.copy(), refine(image, coarse, coarse.grid, keep, TILES, math.inf))
    # Two levels bring an alpha to half its size and back.
    assert np.abs(after - before).max() < (1e-5 if cell_px < 8 else 0.02)


@pytest.mark.parametrize("cell_px", [6.0, 14.0], ids=["one", "two_levels"])
def test_tiles_that_disagree_are_blended(cell_px: float) -> None:
    """Passes answer two constants in turn: no step between neighbours is larger than the ramp's."""
    image = strands(600, 600)
    coarse = Blurred(image, cell_px)
    count = 0

    def run(images: NDArray[np.float32], alphas: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal count
        count += 1
        return np.clip(alphas + 0.2 * (count % 2), 0, 1)

    patches = refine(image, coarse, coarse.grid, run, TILES, math.inf)
    change = apply_patches(coarse(image, None).copy(), patches) - coarse(image, None)
    assert change.max() > 0.15
    steps = [np.abs(np.diff(change, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < 0.09  # fade and ramp at once; a seam would be 0.2


def test_the_budget_is_kept_and_the_most_uncertain_come_first() -> None:
    image = strands(600, 800)
    coarse = Blurred(image, 4.0)
    refiner = Refiner()
    refine(image, coarse, coarse.grid, refiner, TILES, 6.5 * TILES.side_px**2)
    assert refiner.passes == 3  # of two tiles each
    places = lay_tiles(coarse.whole, band_of(coarse.whole, 4, 1) > 0, 40)
    doubts = [
        (4 * part * (1 - part) * ((part > UNCERTAIN[0]) & (part < UNCERTAIN[1]))).sum()
        for part in (coarse.whole[top : top + 40, left : left + 40] for top, left in places)
    ]
    assert doubts == sorted(doubts, reverse=True)


def test_tiles_cover_the_band() -> None:
    alpha = Blurred(strands(333, 517), 3.0).whole
    covered = np.zeros(alpha.shape, bool)
    for top, left in lay_tiles(alpha, band_of(alpha, 4, 1) > 0, 40):
        covered[top : top + 40, left : left + 40] = True
    soft = (alpha > UNCERTAIN[0]) & (alpha < UNCERTAIN[1])
    assert (soft & ~covered).sum() < 0.01 * soft.sum()


def test_a_band_is_full_at_what_is_uncertain_and_nothing_beyond_its_radius() -> None:
    alpha = np.zeros((41, 41), np.float32)
    alpha[20, 20] = 0.5
    band = band_of(alpha, 6, 2)
    assert band[20, 20] == 255
    rows, columns = np.nonzero(band)
    assert {rows.min(), rows.max(), columns.min(), columns.max()} == {14, 26}


@pytest.mark.parametrize("value", [0.0, 1.0, 0.01])
def test_an_image_without_a_band_is_left_alone(value: float) -> None:
    image = np.zeros((300, 300, 3), np.uint8)

    def coarse(picture: ImageArray, window: Window | None) -> NDArray[np.float32]:
        return np.full(picture.shape[:2], value, np.float32)

    refiner = Refiner()
    assert refine(image, coarse, (80, 80), refiner, TILES, math.inf) == []
    assert refiner.passes == 0


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (70, 70), (64, 40), (129, 257)])
def test_sizes_that_no_tile_fits(size: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    coarse = Blurred(image, 1.5)
    patches = refine(image, coarse, coarse.grid, keep, TILES, math.inf)
    after = apply_patches(coarse(image, None).copy(), patches)
    np.testing.assert_allclose(after, coarse(image, None), atol=1e-5)
    assert sum(patch.share.sum() for patch in patches) > 0 or size[0] < 6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_patches_keep_the_bits_where_they_have_no_share(dtype: type) -> None:
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    alpha = (np.random.default_rng(0).random((40, 40)) * white).astype(dtype)
    share = np.zeros((10, 20), np.float32)
    share[2:5] = 1
    window = (slice(10, 20), slice(5, 25))
    after = apply_patches(alpha.copy(), [Patch(window, np.full((10, 20), 0.5, np.float32), share)])
    assert np.all(np.abs(after[12:15, 5:25].astype(float) - white / 2) <= 1)
    after[12:15, 5:25] = alpha[12:15, 5:25]
    assert np.array_equal(after, alpha)


def test_a_level_that_the_budget_does_not_half_cover_is_left_out() -> None:
    """The smaller image's result goes up then, everywhere alike, and still in the band alone."""
    image = strands(900, 1100, thickness=5)
    coarse = Blurred(image, 30.0)
    full, some = Refiner(), Refiner()
    before = coarse(image, None).copy()
    best = apply_patches(before.copy(), refine(image, coarse, coarse.grid, full, TILES, math.inf))
    budget_px = 2 * TILES.batch * TILES.side_px**2
    after = apply_patches(before.copy(), refine(image, coarse, coarse.grid, some, TILES, budget_px))
    assert 0 < some.passes <= 2 < full.passes
    errors = [np.abs(alpha - coarse.truth).mean() for alpha in (before, after, best)]
    assert errors[2] < errors[1] < errors[0]
    assert np.array_equal(after[:60], before[:60])
