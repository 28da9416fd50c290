"""True mattes, unlabelled photos and cut-outs with an alpha beside them; composites whose parts are known."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from pymatting import estimate_foreground_ml
from scipy import ndimage

from tests.training import drawn
from training.config import DataSet, Recipe, Stage
from training.data.dataset import MattingDataset, compose
from training.data.pseudo_alpha import cached_paths, prepare_foregrounds
from training.data.readers import DataError, read_set
from training.data.subjects import (
    Subject,
    fused_colours,
    needed_sets,
    prepare_set,
    read_data_set,
    read_subject,
)

SET = "P3M-10k"
MATTES = DataSet(SET, "mattes", 1.0, layout="p3m-10k")
RAW = dataclasses.replace(MATTES, colours="raw")
STAGE = Stage("matting", 10, 2, (64, 64), 1e-3, composite=1.0, fine={"l2": 1.0})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """P3M-10k as unpacked, of six images, and backgrounds."""
    root = tmp_path_factory.mktemp("public")
    rng = np.random.default_rng(8)
    for number in range(6):
        image, alpha, _ = drawn.sample_image(rng)
        drawn.save(root / SET / f"train/blurred_image/p_{number}.jpg", image)
        drawn.save(root / SET / f"train/mask/p_{number}.png", np.round(alpha * 255).astype(np.uint8))
        drawn.save(root / "backgrounds" / f"{number}.png", np.full((70, 80, 3), 40 * number, np.uint8))
    return root


@pytest.fixture(scope="module")
def cache(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    assert prepare_foregrounds(read_data_set(root, MATTES), folder, workers=1) == 6
    return folder


def recipe(data_set: DataSet, stage: Stage = STAGE, share: float = 0.0) -> Recipe:
    return Recipe("test", (data_set, DataSet("backgrounds", "backgrounds", share)), (stage,), 0, 6)


def test_a_matte_is_believed_everywhere(root, tmp_path):
    sample = read_data_set(root, MATTES)[0]
    subject = read_subject(sample, MATTES, tmp_path)
    stored = cv2.imread(str(sample.labels["alpha"]), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(subject.alpha, stored)
    assert 0 < ((stored > 0) & (stored < 255)).sum()
    assert (subject.weight == 255).all()
    assert subject.own_background
    half = dataclasses.replace(MATTES, belief=0.5)
    assert set(np.unique(read_subject(sample, half, tmp_path).weight)) == {127}


def test_photos_that_are_called_wrong_are_not_drawn(root):
    stems = [sample.image.stem for sample in read_data_set(root, MATTES)]
    some = dataclasses.replace(MATTES, wrong=tuple(stems[:2]))
    assert [sample.image.stem for sample in read_data_set(root, some)] == stems[2:]
    with pytest.raises(DataError, match=rf"{SET}: the recipe marks all of its photos as wrong"):
        read_data_set(root, dataclasses.replace(MATTES, wrong=tuple(stems)))


def test_raw_colours_are_the_photo_and_need_no_preparation(root, tmp_path):
    samples = read_data_set(root, RAW)
    subject = read_subject(samples[0], RAW, tmp_path)
    np.testing.assert_array_equal(subject.colours(), subject.image)
    assert prepare_set(recipe(RAW), RAW, samples, tmp_path, 1) == 0


def test_estimated_colours_lose_the_old_background(root, cache):
    sample = read_data_set(root, MATTES)[0]
    subject = read_subject(sample, MATTES, cache)
    soft = (subject.alpha > 40) & (subject.alpha < 180)
    whole = subject.image[subject.alpha == 255].mean(0)  # warm; behind it all is cold
    raw, estimated = (np.abs(x[soft].mean(0) - whole).max() for x in (subject.image, subject.colours()))
    assert estimated < 20 < raw


@pytest.fixture
def composite(rng):
    """A warm disc with a soft rim on cold ground: image, alpha, both uint8, and the true foreground."""
    size = (120, 150)
    alpha = np.round(drawn.soft_disc(size, (60, 70), 35, 6) * 255).astype(np.uint8)
    front, back = (drawn.texture(rng, size, np.array(c)) for c in ((210, 100, 60), (50, 120, 180)))
    share = alpha[..., None] / 255
    return np.round(share * front + (1 - share) * back).astype(np.uint8), alpha, front


def test_fused_colours_are_those_of_the_equations(composite):
    image, alpha, _ = composite
    opacity = alpha[..., None] / 255

    def blurred(x):
        return ndimage.uniform_filter(x, (15, 15, 0), mode="mirror")

    front = blurred(image * opacity) / np.maximum(blurred(opacity), 1e-4)
    back = blurred(image * (1 - opacity)) / np.maximum(blurred(1 - opacity), 1e-4)
    front += opacity * (image - opacity * front - (1 - opacity) * back)
    wanted = np.where(opacity == 1, image, np.clip(front, 0, 255))
    assert np.abs(fused_colours(image, alpha) - wanted).max() <= 0.51


def test_fused_colours_come_near_the_true_ones(composite):
    image, alpha, true = composite
    soft = (alpha > 25) & (alpha < 255)
    solved = 255 * estimate_foreground_ml(image / 255, alpha / 255)
    off = [np.abs(x[soft] - true[soft]).mean() for x in (solved, fused_colours(image, alpha), image)]
    assert off[0] < off[1] < off[2] / 2.5  # what is quick is not as good as what is solved


def test_fused_colours_are_made_when_they_are_asked_for(root, tmp_path):
    data_set = dataclasses.replace(MATTES, colours="fused")
    samples = read_data_set(root, data_set)
    assert prepare_set(recipe(data_set), data_set, samples, tmp_path, 1) == 0
    subject = read_subject(samples[0], data_set, tmp_path)
    np.testing.assert_array_equal(subject.colours(), fused_colours(subject.image, subject.alpha))
    assert (subject.colours() != subject.image).any()


@pytest.mark.parametrize("unknown", [0, 3, 200])
def test_a_folder_weight_says_how_far_alphas_are_believed(rng, tmp_path, unknown):
    image, alpha, _ = drawn.sample_image(rng)
    weight = rng.integers(1, 256, alpha.shape).astype(np.uint8)
    weight.flat[:unknown] = 0
    for kind, pixels in (("image", image), ("alpha", np.round(alpha * 255)), ("weight", weight)):
        drawn.save(tmp_path / "own" / kind / "x.png", pixels.astype(np.uint8))
    data_set = DataSet("own", "mattes", 1.0, belief=0.5, colours="raw")
    (sample,) = read_data_set(tmp_path, data_set)
    subject = read_subject(sample, data_set, tmp_path)
    np.testing.assert_array_equal(subject.weight, weight // 2)
    np.testing.assert_array_equal(subject.alpha, np.round(alpha * 255))
    assert (subject.foreground is None) == (unknown > 0.005 * weight.size)  # then it is no cut-out


def test_a_weight_that_does_not_fit_is_named(tmp_path):
    for kind, size in (("image", (8, 9, 3)), ("alpha", (8, 9)), ("weight", (9, 8))):
        drawn.save(tmp_path / "own" / kind / "x.png", np.zeros(size, np.uint8))
    data_set = DataSet("own", "mattes", 1.0)
    with pytest.raises(DataError, match=r"weight/x\.png: size \(9, 8\), but its image has \(8, 9\)"):
        read_subject(read_data_set(tmp_path, data_set)[0], data_set, tmp_path)
    drawn.save(tmp_path / "own/image/y.png", np.zeros((8, 9, 3), np.uint8))
    drawn.save(tmp_path / "own/alpha/y.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match=r"1 images have no weight, first y\.png"):
        read_data_set(tmp_path, data_set)


def test_colours_are_prepared_only_where_a_stage_exchanges_backgrounds(root, tmp_path):
    samples = read_data_set(root, MATTES)
    still = dataclasses.replace(STAGE, composite=0.0)
    assert prepare_set(recipe(MATTES, still), MATTES, samples, tmp_path, 1) == 0
    undrawn = dataclasses.replace(STAGE, shares={SET: 0.0, "backgrounds": 1.0})
    assert prepare_set(recipe(MATTES, undrawn), MATTES, samples, tmp_path, 1) == 0
    assert prepare_set(recipe(MATTES), MATTES, samples[:1], tmp_path, 1) == 1
    assert prepare_set(recipe(MATTES), MATTES, samples[:1], tmp_path, 1) == 0  # kept
    assert not list(tmp_path.rglob("*.part.jpg"))


def test_masks_are_solved_once(data_root, mattes):
    plan = drawn.recipe(STAGE)
    photos = plan.sets[0]
    assert (
        prepare_set(plan, photos, read_data_set(data_root, photos), mattes, 1) == 0
    )  # `mattes` has them all


def test_colours_that_are_not_prepared_are_named_when_they_are_needed(root, tmp_path):
    still = MattingDataset(root, tmp_path, recipe(MATTES, dataclasses.replace(STAGE, composite=0.0)), 0)
    assert still[0]["alpha"].any()
    with pytest.raises(DataError, match=r"p_\d\.foreground\.jpg: missing; foreground colours are prep"):
        MattingDataset(root, tmp_path, recipe(MATTES), 0)[0]


def test_nested_sets_keep_their_colours_apart(tmp_path):
    for part in ("Adobe-licensed images", "Other"):
        for kind in ("fg", "alpha"):
            drawn.save(tmp_path / f"C/Training_set/{part}/{kind}/a.png", np.full((8, 8), 99, np.uint8))
    one, other = read_set(tmp_path, "C", "composition-1k")
    assert cached_paths(one, tmp_path) != cached_paths(other, tmp_path)


def test_a_cutout_with_its_alpha_beside_it(rng, tmp_path):
    _, alpha, foreground = drawn.sample_image(rng)
    label = np.round(alpha * 255).astype(np.uint8)
    drawn.save(tmp_path / "C/Training_set/Other/fg/a.png", foreground)
    drawn.save(tmp_path / "C/Training_set/Other/alpha/a.png", label)
    data_set = DataSet("C", "cutouts", 1.0, layout="composition-1k")
    (sample,) = read_data_set(tmp_path, data_set)
    subject = read_subject(sample, data_set, tmp_path)
    np.testing.assert_array_equal(subject.colours(), foreground)
    np.testing.assert_array_equal(subject.alpha, label)
    assert not subject.own_background


def test_unlabelled_photos_say_nothing(root, tmp_path):
    photos = DataSet(".", "unlabelled", 1.0, layout="photos")
    samples = read_data_set(root, photos)
    assert len(samples) == 12  # photos and backgrounds; the alphas are no photos
    subject = read_subject(samples[0], photos, tmp_path)
    assert not subject.alpha.any()
    assert not subject.weight.any()
    still = dataclasses.replace(STAGE, composite=0.5)
    dataset = MattingDataset(root, tmp_path, Recipe("test", (photos,), (still,)), 0)
    items = [dataset[index] for index in range(8)]
    assert not any(item["weight"].any() for item in items)
    assert any(item["image"].float().std() > 0.1 * 255 for item in items)


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (
            ("mask",),
            "mattes",
            "mattes needs a folder alpha/; its mask/ is read as binary: use kind photos",
        ),
        (("alpha",), "photos", "kind photos needs a folder mask/; it has alphas: use kind mattes"),
        ((), "mattes", "kind mattes needs a folder alpha/$"),
        (("mask",), "hair_only", "kind hair_only needs a folder hair/$"),
    ],
)
def test_a_set_of_the_wrong_kind(tmp_path, labels, kind, message):
    for folder in ("image", *labels):
        drawn.save(tmp_path / "own" / folder / "x.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=message):
        read_data_set(tmp_path, DataSet("own", kind, 1.0))


@pytest.mark.parametrize("kind", ["mattes", "cutouts"])
def test_an_alpha_of_another_size_is_named(tmp_path, kind):
    drawn.save(tmp_path / "own/image/x.png", np.zeros((8, 9, 3), np.uint8))
    drawn.save(tmp_path / "own/alpha/x.png", np.zeros((9, 8), np.uint8))
    data_set = DataSet("own", kind, 1.0)
    message = r"alpha/x\.png: size \(9, 8\), but its image has \(8, 9\)"
    with pytest.raises(DataError, match=message):
        read_subject(read_data_set(tmp_path, data_set)[0], data_set, tmp_path)
    if kind == "mattes":
        with pytest.raises(DataError, match=message):
            prepare_foregrounds(read_data_set(tmp_path, data_set), tmp_path / "cache", workers=1)


def test_a_stage_reads_what_it_draws_and_backgrounds_where_it_exchanges_them():
    other = DataSet("other", "mattes", 0.0)
    behind = DataSet("behind", "backgrounds", 0.0)
    cut = DataSet("cut", "cutouts", 0.0)
    still = dataclasses.replace(STAGE, composite=0.0)
    plan = Recipe("test", (MATTES, other, cut, behind), (still,))
    assert needed_sets(plan, still) == [MATTES]
    assert needed_sets(plan, STAGE) == [MATTES, behind]
    assert needed_sets(plan, dataclasses.replace(still, shares={"cut": 1.0})) == [MATTES, cut, behind]


def test_sets_that_no_stage_draws_need_not_be_there(root, tmp_path):
    still = dataclasses.replace(STAGE, composite=0.0)
    plan = Recipe("test", (RAW, DataSet("nowhere", "mattes", 0.0)), (still,))
    assert MattingDataset(root, tmp_path, plan, 0)[0]["alpha"].any()
    drawing = dataclasses.replace(still, shares={"nowhere": 1.0})
    with pytest.raises(DataError, match="nowhere: no such data set folder"):
        MattingDataset(root, tmp_path, dataclasses.replace(plan, stages=(drawing,)), 0)


def test_contrast_is_there_only_for_the_composition_loss_and_changes_nothing_else(root, cache):
    plain = MattingDataset(root, cache, recipe(MATTES, dataclasses.replace(STAGE, composite=0.6)), 0)
    asked = dataclasses.replace(STAGE, composite=0.6, fine={"composition": 1.0})
    with_contrast = MattingDataset(root, cache, recipe(MATTES, asked), 0)
    known = []
    for index in range(10):
        item, more = plain[index], with_contrast[index]
        assert set(more) - set(item) == {"contrast"}
        assert all(torch.equal(item[key], more[key]) for key in item)
        contrast = more["contrast"]
        assert contrast.shape == more["guide"].shape
        assert contrast.dtype == torch.float32
        assert contrast.abs().max() <= 1
        known.append(bool(contrast.any()))
    assert any(known)
    assert not all(known)


def test_contrast_is_foreground_minus_background_in_the_same_light(root, cache, monkeypatch):
    monkeypatch.setattr("training.data.augment.random_light", lambda rng, image: image // 2)
    monkeypatch.setattr("training.data.augment.random_camera", lambda rng, image: image)
    asked = dataclasses.replace(STAGE, fine={"composition": 1.0})
    item = MattingDataset(root, cache, recipe(RAW, asked), 0)[0]
    inside, outside = item["alpha"][0] == 255, item["alpha"][0] == 0
    assert inside.any()
    guide = item["guide"].float() / 255
    behind = guide[:, outside][:, :1]
    assert (guide[:, outside] == behind).all()  # the backgrounds have one colour each
    expected = guide[:, inside] - behind
    assert (item["contrast"][:, inside] - expected).abs().max() <= 1.01 / 255


def test_parts_of_a_group_of_cutouts_make_the_composite(rng):
    alpha = np.round(drawn.soft_disc((120, 100), (60, 50), 30, 12) * 255).astype(np.uint8)
    colours = np.dstack([np.full_like(alpha, 200), alpha // 2, np.arange(100, dtype=np.uint8) + 0 * alpha])
    background = rng.integers(0, 256, (96, 128, 3), np.uint8)
    subject = Subject(colours, alpha, np.full_like(alpha, 255), lambda: colours, own_background=False)
    for count in (1, 2, 3):
        view = compose(rng, subject, background, count)
        part = view.alpha[..., None] / 255
        mixed = part * view.parts[0] + (1 - part) * view.parts[1]
        assert np.abs(view.image - mixed).max() <= 2  # alpha and colours are rounded before they are mixed
