"""What is a mask: other numbers are scaled, classes refused, and a score over nothing is none."""

import dataclasses
import math
import shutil

import cv2
import numpy as np
import pytest
import torch

from models.stylematte import build_model
from stylematte_cli.app import main
from tests.training import drawn
from training.checkpoint import TrainingError
from training.config import DataSet, Recipe, Stage, Validation
from training.data.check import check_data, label_notes
from training.data.masks import meaning_of
from training.data.pseudo_alpha import cached_paths, prepare
from training.data.readers import DataError, read_label, read_set
from training.data.subjects import read_subject
from training.held_out import HeldOutSplit
from training.validation import ValidationSets

STAGE = Stage("matting", 2, 2, (64, 64), 1e-3, fine={"l2": 1.0})
PHOTOS = Recipe("test", (DataSet(drawn.PEOPLE, "photos", 1.0),), (STAGE,), 0, drawn.HELD_OUT_EVERY)


@pytest.fixture
def root(data_root, tmp_path):
    """A copy whose masks may be changed."""
    return shutil.copytree(data_root, tmp_path / "data")


def change(root, how, folder="mask"):
    for number in range(10):
        path = root / drawn.PEOPLE / folder / f"photo_{number}.png"
        drawn.save(path, how(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).astype(np.uint8))


def disc(levels: np.ndarray) -> np.ndarray:
    """A disc whose soft rim goes through some levels."""
    alpha = drawn.soft_disc((80, 90), (40, 45), 25, 6)
    return levels[np.round(alpha * (len(levels) - 1)).astype(int)].astype(np.uint8)


@pytest.mark.parametrize("numbers", [(0, 1), (0, 38), (0, 127), (5, 250), (1, 2)])
def test_masks_in_other_numbers_are_those_of_0_and_255(root, data_root, tmp_path, numbers):
    def changed(mask):
        return np.where(mask > 127, numbers[1], numbers[0])

    change(root, changed)
    if numbers[0] == 0:  # photos without hair have a map of the lower number alone, which means nothing
        change(root, changed, "hair")
    samples, wanted = read_set(root, drawn.PEOPLE), read_set(data_root, drawn.PEOPLE)
    for one, other in zip(samples, wanted, strict=True):
        for kind in ("mask", "hair") if numbers[0] == 0 else ("mask",):
            np.testing.assert_array_equal(read_label(one.labels[kind]), read_label(other.labels[kind]))
    prepare(samples[:1], "narrow", tmp_path / "a", workers=1)
    prepare(wanted[:1], "narrow", tmp_path / "b", workers=1)
    solved, known = (
        read_subject(one[0], PHOTOS.sets[0], tmp_path / name) for one, name in ((samples, "a"), (wanted, "b"))
    )
    np.testing.assert_array_equal(solved.alpha, known.alpha)
    np.testing.assert_array_equal(solved.weight, known.weight)
    report = check_data(PHOTOS, root, quiet=True)
    assert report.errors == 0
    values = f"{numbers[0]} and {numbers[1]}"
    said = f"10 labels in mask contain only {values}: they are masks, and are scaled to 0 and 255"
    assert any(line.startswith(said) for line in report.sets[0].warnings)
    assert any(said in line for line in label_notes(PHOTOS, root))


def test_a_weight_is_never_taken_for_a_mask(data_root, mattes):
    sample = read_set(data_root, drawn.PEOPLE)[0]
    path = cached_paths(sample, mattes)["weight"]
    before = path.read_bytes()
    try:
        weight = np.full_like(cv2.imread(str(path), 0), 255)
        weight[:20] = 76
        drawn.save(path, weight)
        assert set(np.unique(read_subject(sample, PHOTOS.sets[0], mattes).weight)) == {76, 255}
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (np.zeros((9, 9), np.uint8), "alpha"),
        (np.full((9, 9), 255, np.uint8), "alpha"),
        (np.full((9, 9), 1, np.uint8), "mask"),
        (disc(np.array([0, 255])), "alpha"),
        (disc(np.array([0, 128, 255])), "alpha"),  # a mask made half as large
        (disc(np.linspace(0, 255, 7)), "alpha"),
        (disc(np.linspace(0, 120, 121)), "alpha"),  # thin smoke
        (disc(np.arange(122, 128)), "alpha"),  # of a network that knows nothing yet
        (disc(np.array([0, 1, 2])), "map"),
        (disc(np.array([0, 15, 11, 38])), "map"),
        (np.where(disc(np.array([0, 128, 255])) == 255, 15, disc(np.array([0, 255, 0]))), "map"),  # void rim
    ],
)
def test_what_the_values_mean(label, kind):
    assert meaning_of(label.astype(np.uint8)).kind == kind


def test_a_jpeg_of_a_mask_is_one(tmp_path):
    cv2.imwrite(str(tmp_path / "m.jpg"), disc(np.array([0, 255])))
    assert meaning_of(cv2.imread(str(tmp_path / "m.jpg"), 0)).kind == "alpha"


def test_maps_of_classes_are_refused_with_their_values(root, tmp_path):
    def classes(mask):
        mask = np.where(mask > 127, 15, 0)
        mask[:20, :20] = 9
        return mask

    change(root, classes)
    path = root / drawn.PEOPLE / "mask" / "photo_0.png"
    said = r"photo_0\.png: a class map \(values 0, 9, 15\)"
    with pytest.raises(DataError, match=said):
        read_label(path)
    with pytest.raises(DataError, match=said):
        prepare(read_set(root, drawn.PEOPLE), "narrow", tmp_path / "mattes", workers=1)
    with pytest.raises(DataError, match=said):
        label_notes(PHOTOS, root)
    report = check_data(PHOTOS, root, quiet=True)
    assert report.errors == 10
    assert "class map (values 0, 9, 15)" in report.sets[0].errors[0]


def shrunk(mask):
    small = np.zeros_like(mask)
    small[:2, :2] = 255
    return small


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            lambda mask: 255 - mask,
            "labels may be inverted: in 10 of 10 inspected labels the subject covers most",
        ),
        (lambda mask: mask * 0 + np.eye(*mask.shape, dtype=np.uint8) * 0, "labels may be empty: 10 of 10"),
        (shrunk, "labels may be empty: 10 of 10 inspected labels cover less than 0.5 %"),
        (
            lambda mask: 255 - shrunk(mask),
            "labels may be inverted: 10 of 10 inspected labels cover more than 90 %",
        ),
    ],
)
def test_sets_that_are_inverted_or_empty(root, how, said):
    change(root, how)
    report = check_data(PHOTOS, root, quiet=True)
    assert any(line.startswith(said) for line in report.sets[0].errors)


def test_a_confidence_is_no_mask(root):
    """Weights of two values are neither scaled nor labels of a subject."""
    for number in range(10):
        size = cv2.imread(str(root / drawn.PEOPLE / "image" / f"photo_{number}.png")).shape[:2]
        weight = np.full(size, 255, np.uint8)
        weight[:3] = 50
        drawn.save(root / drawn.PEOPLE / "weight" / f"photo_{number}.png", weight)
    (report,) = check_data(PHOTOS, root, full=True, quiet=True).sets
    assert (report.errors, report.labels["weight"]) == ([], 10)
    assert not any("weight" in line or "inverted" in line for line in report.warnings)
    assert label_notes(PHOTOS, root) == []


def test_a_quick_check_says_at_how_many_labels_it_looked(tmp_path):
    for number in range(103):
        image = np.full((12, 12, 3), number, np.uint8)
        drawn.save(tmp_path / drawn.PEOPLE / "image" / f"{number}.png", image)
        drawn.save(tmp_path / drawn.PEOPLE / "mask" / f"{number}.png", np.eye(12, dtype=np.uint8) * 255)
    report = check_data(PHOTOS, tmp_path, quiet=True)
    assert "52 of 103 labels inspected" in report.lines()[0]
    assert "labels inspected" not in check_data(PHOTOS, tmp_path, full=True, quiet=True).lines()[0]


def test_a_run_on_nothing_ends_before_it_begins(root, tmp_path, capsys):
    change(root, lambda mask: mask * 0)
    (tmp_path / "mine.toml").write_text(drawn.TOML)
    words = ["train", tmp_path / "mine.toml", "--data", root, "--out", tmp_path / "out", "--workers", 0]
    assert main([str(word) for word in words]) == 3
    captured = capsys.readouterr()
    assert "people_drawn: none of 10 inspected labels contains a subject" in captured.err
    assert "iou" not in captured.out
    assert not (tmp_path / "out").exists()


def test_a_score_over_nothing_is_no_score(root, tmp_path):
    change(root, lambda mask: mask * 0)
    prepare(read_set(root, drawn.PEOPLE), "narrow", tmp_path / "mattes", workers=1)
    validator = HeldOutSplit(root, PHOTOS, tmp_path / "mattes", 30, teacher=None)
    with pytest.raises(DataError, match="none of the 2 held-out images contains a subject"):
        validator.score(build_model("test"), 64)
    for folder in ("image", "mask"):
        shutil.copytree(root / drawn.PEOPLE / folder, tmp_path / "v" / folder.replace("mask", "alpha"))
    published = ValidationSets(tmp_path, dataclasses.replace(PHOTOS, validation=(Validation("v"),)))
    with pytest.raises(DataError, match="none of the 10 validation photos contains a subject"):
        published.score(build_model("test"), 64)


def test_a_network_that_answers_no_number_is_not_scored(data_root, mattes):
    model = build_model("test")
    with torch.no_grad():
        model.head.bias.fill_(math.nan)
    validator = HeldOutSplit(data_root, PHOTOS, mattes, 30, teacher=None)
    with pytest.raises(TrainingError, match=r"photo_\d\.png: the network's alpha is not finite"):
        validator.score(model, 64)
