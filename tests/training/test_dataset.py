"""Training images: labels stay with their pixels, and sample i is always sample i."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest
import torch

from tests.training import drawn
from training.config import DataSet, Stage
from training.data import augment
from training.data.dataset import (
    ASPECTS,
    SIDES_PER_STAGE,
    MattingDataset,
    ResumableBatchSampler,
    Subject,
    as_batch,
    compose,
    read_subject,
    scaled_near,
    shape_near,
)
from training.data.pseudo_alpha import cached_paths
from training.data.readers import DataError, read_set, split

STAGE = Stage("matting", 10, 4, (64, 128), 1e-3, guide_scale=1.5, composite=0.5, fine={"l2": 1.0})


@pytest.fixture
def dataset(data_root, mattes):
    return MattingDataset(data_root, mattes, drawn.recipe(STAGE), 0)


def test_a_view_moves_image_and_alpha_alike(rng):
    alpha = np.round(drawn.soft_disc((150, 210), (70, 90), 50, 12) * 255).astype(np.uint8)
    image = np.dstack([alpha, np.zeros_like(alpha), 255 - alpha])
    moved = 0
    for _ in range(40):
        matrix = augment.random_view(rng, alpha.shape, (96, 128))
        view = augment.warp(image, matrix, (96, 128), cv2.BORDER_REFLECT_101)
        warped = augment.warp(alpha, matrix, (96, 128), cv2.BORDER_REFLECT_101)
        assert np.abs(view[..., 0].astype(int) - warped).max() <= 2
        moved += np.abs(warped.astype(int) - cv2.resize(alpha, (128, 96))).max() > 100
    assert moved > 30


def test_a_view_keeps_shapes_and_stays_near_the_image(rng):
    source, target = (300, 200), (64, 96)
    for _ in range(300):
        matrix = augment.random_view(rng, source, target)
        lengths = np.linalg.svd(matrix[:, :2], compute_uv=False)
        assert lengths[0] / lengths[1] < 1 / 0.95**2 + 1e-9
        assert 0.75 * 96 / 200 < lengths.min()  # no more than a quarter of zooming out, with 5 % of stretch
        centre = np.linalg.solve(matrix[:, :2], np.array([48, 32]) - matrix[:, 2])
        assert 0 <= centre[0] <= 200
        assert 0 <= centre[1] <= 300


def test_warp_shrinks_without_aliasing():
    board = np.uint8(255) * (np.indices((400, 400)).sum(0) % 2).astype(np.uint8)
    small = augment.warp(board, np.array([[0.25, 0, 0], [0, 0.25, 0]]), (100, 100), cv2.BORDER_REFLECT_101)
    assert np.abs(small.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("scale", [0.3, 0.6, 0.9, 1.7])  # the first two are shrunk before they are moved
def test_warp_moves_a_disc_where_the_matrix_says(scale):
    disc = np.round(drawn.soft_disc((200, 260), (120, 90), 25, 4) * 255).astype(np.uint8)
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    matrix = np.column_stack([scale * turn, [70, 10]])
    warped = augment.warp(disc, matrix, (300, 320), cv2.BORDER_CONSTANT)
    y, x = np.indices(warped.shape)
    centre = [(warped * axis).sum() / warped.sum() for axis in (x, y)]
    np.testing.assert_allclose(centre, matrix @ [90, 120, 1], atol=0.6)
    assert warped.sum() / 255 == pytest.approx(np.pi * 25**2 * scale**2, rel=0.05)


def test_place_keeps_a_subject_on_the_floor_there(rng):
    for _ in range(100):
        matrix = augment.place(rng, (100, 80), (20, 10, 100, 70), (64, 96), on_floor=True)
        feet = matrix @ np.array([[10, 70], [100, 100], [1, 1]])
        assert (np.abs(feet[1] - 65) < 1e-9).all()


def test_light_and_camera_keep_size_and_type(rng):
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    changed = 0
    for _ in range(30):
        seen = augment.random_camera(rng, augment.random_light(rng, image))
        assert seen.shape == image.shape
        assert seen.dtype == np.uint8
        changed += not np.array_equal(seen, image)
    assert changed > 25


def test_compose_puts_the_foreground_where_alpha_is_and_nothing_elsewhere(rng):
    alpha = np.round(drawn.soft_disc((120, 100), (60, 50), 30, 6) * 255).astype(np.uint8)
    colours = np.full((120, 100, 3), (200, 40, 90), np.uint8)
    subject = Subject(colours, alpha, np.full_like(alpha, 255), lambda: colours, own_background=False)
    background = rng.integers(0, 256, (96, 128, 3), np.uint8)
    for count in (1, 2, 3):
        view = compose(rng, subject, background, count)
        empty, full = view.alpha == 0, view.alpha == 255
        assert empty.any()
        assert full.any()
        assert np.abs(view.image[empty].astype(int) - background[empty]).max() <= 1  # alpha below 1/510
        assert np.abs(view.image[full].astype(int) - (200, 40, 90)).max() <= 1
        assert (view.weight == 255).all()
        if count == 1:
            part = view.alpha[..., None] / 255
            mixed = part * (200, 40, 90) + (1 - part) * background
            assert np.abs(view.image - mixed).max() <= 1


def test_compose_of_nothing_is_the_background(rng):
    nothing = np.zeros((50, 40), np.uint8)
    colours = np.zeros((50, 40, 3), np.uint8)
    background = rng.integers(0, 256, (64, 64, 3), np.uint8)
    view = compose(rng, Subject(colours, nothing, nothing + 255, lambda: colours, False), background)
    np.testing.assert_array_equal(view.image, background)
    assert view.alpha.max() == 0
    assert view.weight.min() == 255


def test_compose_carries_doubt_with_the_subject(rng):
    alpha = np.round(drawn.soft_disc((120, 100), (60, 50), 30, 2) * 255).astype(np.uint8)
    weight = np.where(alpha > 0, 51, 255).astype(np.uint8)
    colours = np.zeros((120, 100, 3), np.uint8)
    view = compose(
        rng, Subject(colours, alpha, weight, lambda: colours, False), np.zeros((96, 96, 3), np.uint8)
    )
    assert np.abs(view.weight[view.alpha == 255].astype(int) - 51).max() <= 1
    assert (view.weight[view.alpha == 0] >= 51).all()
    assert view.weight.max() == 255


def test_the_same_index_is_the_same_image(data_root, mattes, dataset):
    again = MattingDataset(data_root, mattes, drawn.recipe(STAGE), 0)
    for index in (0, 5, 9, 31):
        one, other = dataset[index], again[index]
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_other_index_seed_or_stage_is_another_image(data_root, mattes, dataset):
    others = [
        dataset[1],
        MattingDataset(data_root, mattes, drawn.recipe(STAGE, seed=4), 0)[0],
        MattingDataset(data_root, mattes, drawn.recipe(STAGE, STAGE), 1)[0],
    ]
    first = dataset[0]["guide"]
    for other in others:
        assert other["guide"].shape != first.shape or not torch.equal(other["guide"], first)


def test_items_are_what_the_network_takes(dataset):
    subjects = 0
    for index in range(24):
        item = dataset[index]
        height, width = item["image"].shape[1:]
        full = item["guide"].shape[1:]
        assert item["image"].shape[0] == item["guide"].shape[0] == 3
        assert item["alpha"].shape == item["weight"].shape == (1, *full)
        assert not any(side % 32 for side in (height, width, *full))
        assert full == scaled_near((height, width), 1.5)
        assert {tensor.dtype for tensor in item.values()} == {torch.uint8}
        batch = as_batch({name: tensor[None] for name, tensor in item.items()}, torch.device("cpu"))
        for name, tensor in batch.items():
            assert tensor.dtype == torch.float32
            assert torch.equal((tensor[0] * 255).round().byte(), item[name])  # 255 is 1
        subjects += bool((batch["alpha"] > 0.9).any())
    assert subjects > 12


def test_a_batch_has_one_size_and_batches_differ(dataset):
    sizes = [
        {dataset[i]["image"].shape for i in indices}
        for indices in ResumableBatchSampler(0, 8, STAGE.batch_size)
    ]
    assert all(len(of_batch) == 1 for of_batch in sizes)
    assert len(set.union(*sizes)) > 1


def test_a_stage_has_few_sizes(dataset):
    sizes = [dataset._batch_size_px(batch * dataset.stage.batch_size) for batch in range(300)]
    assert len(set(sizes)) <= SIDES_PER_STAGE * len(ASPECTS)
    areas = [height * width for height, width in sizes]
    assert min(areas) < np.prod(shape_near(np.mean(dataset.stage.side), 1.0)) < max(areas)


def test_onwards_starts_where_a_run_stands():
    assert list(ResumableBatchSampler(2, 4, 3)) == [[6, 7, 8], [9, 10, 11]]
    assert len(ResumableBatchSampler(2, 4, 3)) == 2
    assert list(ResumableBatchSampler(4, 4, 3)) == []


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("side", [20, 96, 224, 320, 448])
def test_shape_near(side, aspect):
    height, width = shape_near(side, aspect)
    assert height % 32 == width % 32 == 0
    assert abs(height - max(32, side / aspect**0.5)) <= 16
    assert abs(width - max(32, side * aspect**0.5)) <= 16


def test_held_out_photos_are_never_drawn(data_root, mattes, monkeypatch):
    drawn_from = set()
    monkeypatch.setattr(
        "training.data.dataset.read_subject",
        lambda sample, data_set, cache: drawn_from.add(sample.key) or read_subject(sample, data_set, cache),
    )
    dataset = MattingDataset(data_root, mattes, drawn.recipe(STAGE), 0)
    for index in range(60):
        dataset[index]
    held_out = {s.key for s in split(read_set(data_root, drawn.PEOPLE), drawn.HELD_OUT_EVERY)[1]}
    assert held_out
    assert not held_out & drawn_from
    assert len(drawn_from) > 8


def test_subjects_of_every_kind(data_root, mattes):
    photo = read_set(data_root, drawn.PEOPLE)[0]
    subject = read_subject(photo, DataSet(drawn.PEOPLE, "photos", 1, belief=0.5), mattes)
    assert subject.own_background
    assert subject.weight.max() == 127
    assert subject.alpha.shape == subject.image.shape[:2]
    hair = read_subject(photo, DataSet(drawn.PEOPLE, "hair_only", 1), mattes)
    assert hair.foreground is None
    np.testing.assert_array_equal(hair.alpha, hair.weight)  # known where it is hair, unknown elsewhere
    assert set(np.unique(hair.alpha)) == {0, 255}
    cutout = read_set(data_root, drawn.CUTOUTS)[0]
    subject = read_subject(cutout, DataSet(drawn.CUTOUTS, "cutouts", 1), mattes)
    stored = cv2.imread(str(cutout.image), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(subject.image, stored[..., [2, 1, 0]])
    np.testing.assert_array_equal(subject.alpha, stored[..., 3])
    ground = read_subject(read_set(data_root, drawn.BACKGROUNDS)[0], DataSet("x", "backgrounds", 1), mattes)
    assert ground.alpha.max() == 0
    assert ground.weight.min() == 255


def test_files_that_do_not_fit_are_named(data_root, mattes, tmp_path):
    ground = read_set(data_root, drawn.BACKGROUNDS)[0]
    with pytest.raises(DataError, match=r"ground_0\.png: not an RGBA cut-out"):
        read_subject(ground, DataSet("x", "cutouts", 1), mattes)
    cache = shutil.copytree(mattes, tmp_path / "mattes")
    photo = read_set(data_root, drawn.PEOPLE)[0]
    drawn.save(cached_paths(photo, cache)["alpha"], np.zeros((5, 6), np.uint8))
    with pytest.raises(DataError, match=r"photo_0\.alpha\.png: size \(5, 6\), but its image has"):
        read_subject(photo, DataSet(drawn.PEOPLE, "photos", 1), cache)


def test_a_hair_map_of_another_size_is_named(data_root, mattes, tmp_path):
    photo = read_set(data_root, drawn.PEOPLE)[0]
    drawn.save(tmp_path / "hair.png", np.zeros((8, 9), np.uint8))
    photo = dataclasses.replace(photo, labels={"hair": tmp_path / "hair.png"})
    with pytest.raises(DataError, match=r"hair\.png: size \(8, 9\), but its image has"):
        read_subject(photo, DataSet(drawn.PEOPLE, "hair_only", 1), mattes)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ((DataSet(drawn.CUTOUTS, "hair_only", 1),), "needs a folder hair/"),
        ((DataSet("one", "cutouts", 1),), "all of its images are held out"),
    ],
)
def test_sets_that_cannot_be_trained_on(data_root, mattes, tmp_path, sets, message):
    root = shutil.copytree(data_root, tmp_path / "data")
    held_out = next(i for i in range(99) if split([drawn.sample("one", i)], drawn.HELD_OUT_EVERY)[1])
    drawn.save(root / "one" / f"{held_out}.png", np.zeros((8, 8, 4), np.uint8))
    recipe = dataclasses.replace(drawn.recipe(STAGE), sets=sets)
    with pytest.raises(DataError, match=message):
        MattingDataset(root, mattes, recipe, 0)


def test_a_photo_with_an_incomplete_mask_never_shows_its_own_background(data_root, mattes):
    sample = split(read_set(data_root, drawn.PEOPLE), 3)[0][0]
    whole = DataSet(drawn.PEOPLE, "photos", 1.0, band="hair")
    marked = dataclasses.replace(whole, incomplete=(sample.image.stem,))
    assert read_subject(sample, whole, mattes).own_background
    subject = read_subject(sample, marked, mattes)
    assert not subject.own_background
    assert subject.foreground is not None
    recipe = dataclasses.replace(drawn.recipe(dataclasses.replace(STAGE, composite=0.0)), sets=(marked,))
    green = np.zeros((64, 64, 3), np.uint8) + np.uint8([0, 200, 0])
    dataset = MattingDataset(data_root, mattes, recipe, 0)
    dataset._background = lambda rng, size: cv2.resize(green, size[::-1])
    view = dataset._view(np.random.default_rng(0), subject, (96, 96))
    outside = view.alpha == 0
    assert outside.any()
    assert (view.image[outside] == green[0, 0]).all()


def test_a_guide_has_the_shape_of_what_the_network_sees():
    assert scaled_near((320, 480), 1.25) == (384, 576)
    assert scaled_near((256, 256), 1.25) == (320, 320)
    assert scaled_near((320, 480), 1.0) == (320, 480)
    assert scaled_near((32, 32), 1.25) == (32, 32)
    apart = []
    for side in range(224, 321, 8):
        for aspect in ASPECTS:
            size = shape_near(side, aspect)
            guide = scaled_near(size, 1.25)
            assert not any(n % 32 for n in guide)
            assert all(abs(n - 1.25 * m) < 32 for n, m in zip(guide, size, strict=True))
            apart.append(abs(np.log(guide[0] / guide[1] * size[1] / size[0])))
    assert max(apart) < 0.07  # rounded apart they are off by up to 0.105, and by 0.038 in the mean
    assert np.mean(apart) < 0.02
