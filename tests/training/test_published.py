"""The published augmentation: dots land where a hand calculation puts them, colours change as defined."""

import dataclasses
from colorsys import hsv_to_rgb, rgb_to_hsv

import cv2
import numpy as np
import pytest
import torch

from tests.training import drawn
from training.config import DataSet, Stage
from training.data import augment, published_augment
from training.data.dataset import MattingDataset
from training.data.subjects import Subject

STAGE = Stage(
    "animals", 10, 4, (96, 96), 1e-3, composite=0.5, fine={"composition": 1.0}, augmentation="published"
)
STILL = {"flip": False, "shift": (0.0, 0.0), "zoom": 1.0, "turn_degrees": 0.0, "corner": (0.0, 0.0)}


def landed(matrix, x, y):
    return matrix @ [x, y, 1]


@pytest.mark.parametrize(
    ("source", "changes", "dot", "expected"),
    [
        # A photo of 540×1080 (height, width) keeps its size: 130 rows are added above, columns are cut right.
        ((540, 1080), {}, (100, 200), (100, 200 + 130)),
        ((540, 1080), {"corner": (0.5, 1.0)}, (400, 0), (400 - 280, 130)),
        ((540, 1080), {"flip": True}, (1079, 0), (0, 130)),
        ((540, 1080), {"shift": (0.02, -0.01)}, (100, 200), (100 - 10.8, 330 + 10.8)),
        # About the centre, (540, 270) from the edges: 100 pixels above it lie 105 above; turned by 90° to the
        # left of it. Pixel 539.5 is 540 pixels from the left edge.
        ((540, 1080), {"zoom": 1.05}, (539.5, 169.5), (539.5, 269.5 - 105 + 130)),
        ((540, 1080), {"turn_degrees": 90.0}, (539.5, 169.5), (439.5, 269.5 + 130)),
        # Half the size: pixel 0 covers two, its middle at 1 from the edge.
        ((2160, 1080), {}, (0.5, 0.5), (0 + 130, 0)),
        ((1080, 2160), {"corner": (0.0, 0.5)}, (0.5, 0.5), (0 - 140, 130)),
        # Both sides are larger than the crop: the corner cuts from both.
        ((1080, 1080), {"corner": (1.0, 0.5)}, (140, 280), (0, 0)),
    ],
)
def test_a_dot_lands_where_it_should(source, changes, dot, expected):
    matrix = published_augment.view_matrix(source, (800, 800), **(STILL | changes))
    np.testing.assert_allclose(landed(matrix, *dot), expected, atol=1e-9)


def test_smaller_crops_see_as_much_of_the_photo():
    large, small = (published_augment.view_matrix((700, 900), (side, side), **STILL) for side in (800, 400))
    for dot in ((-0.5, -0.5), (300.5, 650.5)):
        np.testing.assert_allclose(landed(small, *dot) + 0.5, (landed(large, *dot) + 0.5) / 2, atol=1e-9)


def test_views_stay_in_the_published_ranges(rng):
    flips, still = 0, 0
    for _ in range(400):
        matrix = published_augment.random_view(rng, (1080, 810), (800, 800))
        linear = matrix[:, :2]
        flips += np.linalg.det(linear) < 0
        zoom = np.sqrt(abs(np.linalg.det(linear)))
        turn = np.rad2deg(np.arctan2(linear[0, 1], linear[1, 1]))
        assert 0.95 <= zoom <= 1.05
        assert abs(turn) <= 5
        assert abs(linear[0, 0]) == pytest.approx(linear[1, 1])
        still += zoom == 1
    assert 150 < flips < 250
    assert 150 < still < 250


def test_image_and_alpha_are_warped_alike(rng):
    alpha = np.round(drawn.soft_disc((150, 210), (70, 90), 50, 12) * 255).astype(np.uint8)
    image = np.dstack([alpha] * 3)
    for _ in range(10):
        matrix = published_augment.random_view(rng, alpha.shape, (96, 96))
        picture, warped = (augment.warp(x, matrix, (96, 96), cv2.BORDER_REFLECT_101) for x in (image, alpha))
        assert np.abs(picture[..., 1].astype(int) - warped).max() <= 1
        assert warped.max() > 200


def test_contrast_and_brightness_by_hand():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, 2)
    changed = published_augment.change_contrast(levels, 0.2, -0.1)
    np.testing.assert_array_equal(
        changed[0, :, 0], np.clip(np.round(np.arange(256) * 1.2 - 25.5), 0, 255).astype(np.uint8)
    )


def test_hue_against_colorsys(rng):
    image = rng.integers(30, 226, (1, 60, 3), np.uint8)
    changed = published_augment.change_hue(image, 15, 20, -10)
    for before, after in zip(image[0], changed[0], strict=True):
        hue, saturation, value = rgb_to_hsv(*(before / 255))
        hue, saturation = (hue + 15 / 180) % 1, min(1, saturation + 20 / 255)
        expected = np.array(hsv_to_rgb(hue, saturation, max(0, value - 10 / 255))) * 255
        # OpenCV keeps hue in steps of 2 degrees, 1/30 of the way from one primary to the next.
        assert np.abs(after - expected).max() <= 255 / 30 / 2 + 2
    grey = np.full((2, 2, 3), 100, np.uint8)
    assert (published_augment.change_hue(grey, 20, 0, 0) == 100).all()


def test_clahe_is_that_of_opencv(rng):
    image = rng.integers(0, 256, (64, 80, 3), np.uint8)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness = cv2.createCLAHE(clipLimit=2.5, tileGridSize=(8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    expected = cv2.cvtColor(np.dstack([lightness, lab[..., 1:]]), cv2.COLOR_LAB2RGB)
    np.testing.assert_array_equal(published_augment.equalise(image, 2.5), expected)


def test_blur_is_a_mean_over_an_odd_square(rng):
    dot = np.zeros((9, 9, 3), np.uint8)
    dot[4, 4] = 225
    sides = set()
    for _ in range(60):
        blurred = published_augment.random_blur(rng, dot, 5)
        side = int(np.sqrt((blurred[..., 0] > 0).sum()))
        assert blurred[4, 4, 0] == 225 // side**2
        sides.add(side)
    assert sides == {1, 3, 5}
    assert {int((published_augment.random_blur(rng, dot, 3) > 0).sum()) for _ in range(40)} == {3, 27}


def test_light_changes_within_its_ranges(rng):
    grey = np.full((1, 1, 3), 120, np.uint8)
    seen = np.array([published_augment.random_light(rng, grey)[0, 0, 1] for _ in range(400)], int)
    assert 100 < (seen == 120).sum() < 250  # 0.8 · 0.5 of them, and those that round to 0
    assert seen.min() >= (120 * 0.8 - 51) - 20 - 1
    assert seen.max() <= (120 * 1.2 + 51) + 20 + 1


@pytest.fixture
def dataset(data_root, mattes):
    return MattingDataset(data_root, mattes, drawn.recipe(STAGE), 0)


def test_items_are_square_and_the_same_each_time(data_root, mattes, dataset):
    again = MattingDataset(data_root, mattes, drawn.recipe(STAGE), 0)
    shown = 0
    for index in range(12):
        item = dataset[index]
        assert item["guide"].shape == item["contrast"].shape == (3, 96, 96)
        assert item["alpha"].shape == (1, 96, 96)
        assert all(torch.equal(item[key], again[index][key]) for key in item)
        shown += bool((item["alpha"] > 0.9 * 255).any())
    assert shown > 6


@pytest.mark.parametrize("colours", ["raw", "estimated"])
def test_composites_of_mattes(data_root, dataset, rng, colours):
    image, alpha, foreground = drawn.sample_image(rng)
    front = image if colours == "raw" else foreground
    label = np.round(alpha * 255).astype(np.uint8)
    subject = Subject(image, label, np.full_like(label, 255), lambda: front, own_background=True)
    dataset.stage = dataclasses.replace(STAGE, composite=1.0)
    changed = 0
    for seed in range(8):
        view = dataset._published_view(np.random.default_rng(seed), subject, (96, 96))
        over, under = view.parts
        part = view.alpha[..., None] / 255
        assert np.abs(view.image - (part * over + (1 - part) * under)).max() <= 0.51
        shown = [over[view.alpha == 255].mean(0), foreground[alpha == 1].mean(0)]
        assert np.abs(shown[0] - shown[1]).max() < 60  # CLAHE and blur change it, and no more
        changed += not np.array_equal(under, view.image)
    assert changed > 4


def test_photos_that_stay_have_no_contrast(data_root, mattes):
    stage = dataclasses.replace(STAGE, composite=0.0)
    recipe = dataclasses.replace(
        drawn.recipe(stage), sets=(DataSet(drawn.PEOPLE, "photos", 1.0, band="hair"),)
    )
    dataset = MattingDataset(data_root, mattes, recipe, 0)
    for index in range(4):
        assert not dataset[index]["contrast"].any()
        assert dataset[index]["alpha"].any()
