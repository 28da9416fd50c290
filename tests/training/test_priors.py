"""What networks are told beforehand: every kind of prior, and images of two subjects that ask for one."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from tests.training import drawn
from training.config import Stage
from training.data import priors
from training.data.dataset import MattingDataset, compose_pair
from training.data.priors import BOX_VALUE, POINT_RADIUS, draw_box, draw_point, draw_prior
from training.data.subjects import Subject

SIZE = (96, 128)
STAGE = Stage("matting", 10, 2, (64, 64), 1e-3, composite=0.5, fine={"l2": 1.0})


def disc(row: float, column: float, radius: float = 22) -> np.ndarray:
    return np.round(drawn.soft_disc(SIZE, (row, column), radius, 4) * 255).astype(np.uint8)


WANTED, OTHER = disc(50, 40), disc(40, 95)
EVERYTHING = np.maximum(WANTED, OTHER)
INSIDE = WANTED > 127


def priors_of(kind: str, monkeypatch, wanted=WANTED, everything=EVERYTHING, count=60) -> list[np.ndarray]:
    """Priors of one kind; all are planes of bytes that say the same of `wanted`."""
    monkeypatch.setattr(priors, "_SHARES", [float(kind == known) for known in priors._KINDS])
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        prior, asks_for_wanted = draw_prior(rng, wanted, everything)
        assert prior.shape == wanted.shape
        assert prior.dtype == np.uint8
        assert asks_for_wanted == (kind not in ("wrong", "all"))
        found.append(prior)
    return found


def test_every_kind_is_drawn_as_often_as_it_should(rng):
    assert sum(priors._SHARES) == pytest.approx(1)
    right = np.mean([draw_prior(rng, WANTED, EVERYTHING)[1] for _ in range(400)])
    of_one = sum(s for k, s in zip(priors._KINDS, priors._SHARES, strict=True) if k not in ("wrong", "all"))
    assert right == pytest.approx(of_one, abs=0.06)


def test_an_earlier_alpha_of_all_lies_on_both(monkeypatch):
    for prior in priors_of("all", monkeypatch):
        assert (prior[INSIDE] > 127).mean() > 0.3
        assert (prior[OTHER > 127] > 127).mean() > 0.3


def test_an_earlier_alpha_lies_on_its_subject_and_not_quite_there(monkeypatch):
    found = priors_of("moved", monkeypatch)
    masks = [prior > 127 for prior in found]
    shared = [(mask & INSIDE).sum() / (mask | INSIDE).sum() for mask in masks]
    assert min(shared) > 0.3
    assert 0.6 < np.median(shared) < 0.99
    assert 0.7 < min(mask.sum() for mask in masks) / INSIDE.sum() < 0.95
    assert 1.05 < max(mask.sum() for mask in masks) / INSIDE.sum() < 1.3
    hard = [set(np.unique(prior)) <= {0, 255} for prior in found]
    assert any(hard)
    assert not all(hard)


def test_half_a_subject_is_what_lies_on_one_side_of_a_line(monkeypatch):
    shares = []
    for prior in priors_of("half", monkeypatch):
        kept, left = (prior > 127), INSIDE & (prior == 0)
        np.testing.assert_array_equal(prior[prior > 0], WANTED[prior > 0])
        assert (kept | left)[INSIDE].all()
        shares.append(kept.sum() / INSIDE.sum())
        # Of a disc the line stands upright on what joins the middles of its parts.
        middles = [np.argwhere(part).mean(0) for part in (kept, left)]
        along = [np.argwhere(part) @ (middles[1] - middles[0]) for part in (kept, left)]
        assert along[0].max() - along[1].min() < 2 * np.linalg.norm(middles[1] - middles[0])
    assert 0.28 < min(shares) < 0.45
    assert 0.65 < max(shares) < 0.82


def test_a_box_is_the_subjects_give_or_take_a_tenth(monkeypatch):
    rows, columns = np.argwhere(INSIDE).T
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    sides = set()
    for prior in priors_of("box", monkeypatch):
        assert set(np.unique(prior)) == {0, BOX_VALUE}
        down, across = np.argwhere(prior).T
        assert (prior > 0).sum() == (np.ptp(down) + 1) * (np.ptp(across) + 1)  # filled
        for off, length in (
            (down.min() - rows.min(), height),
            (down.max() - rows.max(), height),
            (across.min() - columns.min(), width),
            (across.max() - columns.max(), width),
        ):
            assert abs(off) <= 0.1 * length + 0.5
        sides.add((down.min(), down.max(), across.min(), across.max()))
    assert len(sides) > 20


def test_a_point_lies_well_inside(monkeypatch):
    places = set()
    for prior in priors_of("point", monkeypatch):
        ((row, column),) = np.argwhere(prior == 255)
        assert WANTED[row - 2 : row + 3, column - 2 : column + 3].min() > 200
        places.add((row, column))
    assert len(places) > 20


def test_a_point_on_a_subject_too_thin_for_one_is_a_box(monkeypatch):
    thin = np.zeros(SIZE, np.uint8)
    thin[40:43, 10:60] = 255
    for prior in priors_of("point", monkeypatch, thin, thin, 5):
        assert set(np.unique(prior)) == {0, BOX_VALUE}
        assert prior[thin > 0].mean() > 0.7 * BOX_VALUE


def test_a_point_is_a_gaussian_blob_of_a_share_of_the_image():
    blob = draw_point(SIZE, (50, 60))
    rows, columns = np.indices(SIZE)
    deviation = POINT_RADIUS * (96 * 128) ** 0.5
    wanted = 255 * np.exp(-((rows - 50) ** 2 + (columns - 60) ** 2) / (2 * deviation**2))
    assert np.abs(blob - wanted).max() <= 0.51


def test_a_box_ends_at_the_border():
    box = draw_box((4, 5), (-3, 2, 2, 9))
    np.testing.assert_array_equal(box, [[0, 0, 128, 128, 128]] * 2 + [[0] * 5] * 2)
    assert not draw_box((4, 5), (-3, -4, -1, -2)).any()


def test_a_wrong_prior_lies_on_nothing(monkeypatch):
    near = cv2.dilate(EVERYTHING, np.ones((9, 9), np.uint8)) >= 8
    boxes, points = 0, 0
    values = set()
    for prior in priors_of("wrong", monkeypatch):
        assert prior.any()
        if len(np.unique(prior)) == 2:
            boxes += 1
            assert not (prior[EVERYTHING >= 8] > 0).any()
            values.add(int(prior.max()))
        else:
            points += 1
            (place,) = np.argwhere(prior == 255)
            assert not near[tuple(place)]
    assert min(boxes, points) > 10
    assert values == {BOX_VALUE, 255}


def test_where_the_image_is_full_a_wrong_prior_is_none(monkeypatch):
    full = np.full(SIZE, 255, np.uint8)
    assert not any(prior.any() for prior in priors_of("wrong", monkeypatch, full, full, 5))


def test_of_nothing_every_prior_is_wrong(rng):
    nothing = np.zeros(SIZE, np.uint8)
    nothing[3, 5:20] = 255  # fifteen pixels
    assert not any(draw_prior(rng, nothing, EVERYTHING)[1] for _ in range(30))


def opaque(colour, alpha: np.ndarray, weight: int = 255) -> Subject:
    colours = np.full((*alpha.shape, 3), colour, np.uint8)
    return Subject(colours, alpha, np.full_like(alpha, weight), lambda: colours, own_background=False)


RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def test_in_a_pair_one_is_what_shows_of_it(rng):
    """Behind is red, in front blue, and green what neither covers: the image itself says the alphas."""
    background = np.full((*SIZE, 3), GREEN, np.uint8)
    overlaps, chosen = 0, []
    for _ in range(60):
        view = compose_pair(rng, (opaque(RED, disc(50, 60)), opaque(BLUE, disc(50, 60, 30))), background)
        red, green, blue = (view.image[..., channel].astype(int) for channel in range(3))
        assert np.abs(view.alpha - (255 - green)).max() <= 2
        for choice in view.choices:
            off = [np.abs(choice - shown).max() for shown in (red, blue)]
            assert min(off) <= 1
            chosen.append(int(np.argmin(off)))
            assert (choice <= view.alpha).all()
        assert view.parts == ()
        assert (view.weight == 255).all()
        overlaps += bool(((red > 40) & (blue > 40)).any())
    assert overlaps > 10
    assert 60 < len(chosen) <= 120
    assert 0.2 < np.mean(chosen) < 0.8


def test_of_a_pair_the_one_that_is_hidden_is_never_asked_for(rng, monkeypatch):
    monkeypatch.setattr("training.data.augment.place", lambda *_, **__: np.eye(2, 3))
    pair = opaque(RED, disc(50, 60, 20)), opaque(BLUE, disc(50, 60, 22))
    for _ in range(20):
        view = compose_pair(rng, pair, np.full((*SIZE, 3), GREEN, np.uint8))
        (choice,) = view.choices
        assert np.abs(choice.astype(int) - disc(50, 60, 22)).max() <= 1


def test_a_pair_carries_the_doubt_of_both(rng):
    pair = opaque(RED, disc(50, 60), weight=102), opaque(BLUE, disc(50, 60), weight=51)
    view = compose_pair(rng, pair, np.full((*SIZE, 3), GREEN, np.uint8))
    blue, red = (view.image[..., 2] == 255), (view.image[..., 0] == 255)
    assert blue.any()
    assert red.any()
    assert np.abs(view.weight[blue].astype(int) - 51).max() <= 1
    assert (view.weight[red] <= 103).all()


def dataset_of(data_root, mattes, **changes) -> MattingDataset:
    return MattingDataset(data_root, mattes, drawn.recipe(dataclasses.replace(STAGE, **changes)), 0)


def test_a_stage_gives_its_share_of_images_a_prior(data_root, mattes):
    assert "prior" not in dataset_of(data_root, mattes)[0]
    dataset, told = dataset_of(data_root, mattes, prior=0.5, guide_scale=1.5), []
    for index in range(80):
        item = dataset[index]
        assert item["prior"].shape == (1, *item["image"].shape[1:])
        assert item["prior"].dtype == torch.uint8
        assert item["alpha"].shape[1:] == item["guide"].shape[1:]
        told.append(bool(item["prior"].any()))
    assert 0.3 < np.mean(told) < 0.7


def test_the_answer_is_what_the_prior_asks_for(data_root, mattes, monkeypatch):
    views = []
    draw = MattingDataset._draw

    def remembered(self, rng, size):
        views.append(draw(self, rng, size))
        return views[-1]

    monkeypatch.setattr(MattingDataset, "_draw", remembered)
    dataset = dataset_of(data_root, mattes, pairs=1.0, prior=1.0)
    asked = {"one": 0, "all": 0}
    for index in range(40):
        alpha, view = dataset[index]["alpha"][0].numpy(), views[-1]
        if not view.choices:  # no second subject was found that can stand anywhere
            np.testing.assert_array_equal(alpha, view.alpha)
            continue
        is_one = any(np.array_equal(alpha, choice) for choice in view.choices)
        assert is_one or np.array_equal(alpha, view.alpha)
        asked["one" if is_one else "all"] += 1
    assert asked["one"] > asked["all"] > 0


def test_several_priors_of_an_image_have_their_own_targets(data_root, mattes):
    changes = {"pairs": 1.0, "prior": 1.0, "only_selection": True, "fine": {}, "coarse": {"l1": 1.0}}
    dataset = dataset_of(data_root, mattes, priors_per_image=6, guide_scale=1.5, **changes)
    several = 0
    for index in range(10):
        item = dataset[index]
        assert item["prior"].shape == (6, *item["image"].shape[1:])
        assert item["alpha"].shape == (6, *item["guide"].shape[1:])
        assert item["weight"].shape == (1, *item["guide"].shape[1:])
        assert len({plane.numpy().tobytes() for plane in item["prior"]}) > 3
        several += len({plane.numpy().tobytes() for plane in item["alpha"]}) > 1
    assert several > 5


def test_pairs_have_a_prior_more_often(data_root, mattes):
    dataset = dataset_of(data_root, mattes, pairs=1.0, prior=0.01, shares={drawn.PEOPLE: 0.0})
    told = [bool(dataset[index]["prior"].any()) for index in range(60)]
    assert 0.4 < np.mean(told) < 0.9
    dataset = dataset_of(data_root, mattes, pairs=1.0, prior=0.0)
    assert not any("prior" in dataset[index] for index in range(5))


def test_pairs_know_no_contrast_and_without_a_prior_both_are_the_answer(data_root, mattes):
    dataset = dataset_of(data_root, mattes, pairs=1.0, fine={"composition": 1.0}, shares={drawn.PEOPLE: 0.0})
    draw, seen = dataset._draw, []

    def remembered(rng, size):
        seen.append(draw(rng, size))
        return seen[-1]

    dataset._draw = remembered
    pairs = 0
    for index in range(12):
        item = dataset[index]
        np.testing.assert_array_equal(item["alpha"][0], seen[-1].alpha)
        if seen[-1].choices:
            pairs += 1
            assert not item["contrast"].any()
    assert pairs > 4
