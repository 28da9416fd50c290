"""Scores of validation sets: the published protocol, against scikit-image and arithmetic by hand."""

import csv
import dataclasses

import cv2
import numpy as np
import pytest
import torch

from models.checkpoints import load_weights
from models.stylematte import build_model
from tests.models.networks import lively
from tests.training import drawn
from training.config import Stage, Validation
from training.data.readers import DataError
from training.loop import RunOptions, train
from training.validation import matte, score, validation_photos

SCORED = "scored"
STAGE = Stage("s", 6, 2, (64, 64), 5e-3, warmup_steps=2, composite=0.0, coarse={"bce": 1.0})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The drawn sets, and five photos with alphas and trimaps, of sizes that no stride divides."""
    root = drawn.draw_sets(tmp_path_factory.mktemp("data"))
    rng = np.random.default_rng(9)
    for number in range(5):
        image, alpha, _ = drawn.sample_image(rng)
        trimap = np.where(alpha > 0.99, 255, np.where(alpha < 0.01, 0, 128)).astype(np.uint8)
        parts = {"image": image, "alpha": np.round(255 * alpha).astype(np.uint8), "trimap": trimap}
        for kind, pixels in parts.items():
            drawn.save(root / SCORED / kind / f"v_{number}.png", pixels)
    return root


def recipe(*validation: Validation):
    return dataclasses.replace(drawn.recipe(STAGE), validation=validation)


def test_scores_of_a_network_that_says_a_half_everywhere(root):
    model = build_model("test").eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    photos = validation_photos(root, recipe(Validation(SCORED), Validation(SCORED, resolution="half")))
    assert len(photos) == 10
    scores = score(model, photos)
    sums = []
    for number in range(5):
        alpha, trimap = (
            cv2.imread(str(root / SCORED / kind / f"v_{number}.png"), 0) for kind in ("alpha", "trimap")
        )
        off = np.abs(0.5 - alpha / 255)
        known = np.where(trimap == 255, 1, np.where(trimap == 0, 0, 0.5))
        band = np.abs(known - alpha / 255)
        unknown = (trimap == 128).sum()
        sums.append(
            [off.sum() / 1000, (off**2).mean(), off.mean(), band.sum() / 1000, (band**2).sum() / unknown]
        )
    wanted = dict(zip(("sad", "mse", "mad", "sad-tri", "mse-tri"), np.mean(sums, axis=0), strict=True))
    for name, value in wanted.items():
        assert scores[f"{name}/{SCORED}@full"] == pytest.approx(value, rel=1e-5), name
        assert scores[f"{name}/{SCORED}@half"] == pytest.approx(value, rel=1e-5), name
    assert scores["sad"] == pytest.approx(wanted["sad"], rel=1e-5)


def test_full_size_is_the_photo_padded_above_and_on_the_left(rng):
    model = lively("test")
    image = rng.integers(0, 256, (75, 96, 3), np.uint8)
    padded = np.pad(image, ((21, 0), (32, 0), (0, 0)), "reflect")  # 96 would have fitted: a stride more
    planes = torch.from_numpy(padded).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        wanted = model(planes, planes).alpha[0, 0, 21:, 32:].numpy()
    np.testing.assert_allclose(matte(model, image, "full"), wanted, atol=1e-6)


def test_half_size_is_what_the_network_sees_and_the_alpha_is_whole(rng):
    model = lively("test")
    image = rng.integers(0, 256, (150, 201, 3), np.uint8)
    half = cv2.resize(image, (96, 64), interpolation=cv2.INTER_AREA)  # 75 and 100, floored to the stride
    planes = [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (half, image)]
    with torch.inference_mode():
        wanted = model(*planes).alpha[0, 0].numpy()
    np.testing.assert_allclose(matte(model, image, "half"), wanted, atol=1e-6)
    assert matte(model, image, "working").shape == (150, 201)


def test_a_set_gives_as_many_photos_as_are_wanted_spread_evenly(root):
    photos = validation_photos(root, recipe(Validation(SCORED, photos=2)))
    assert [p.image.stem for p in photos] == ["v_0", "v_2"]
    assert {p.set_name for p in photos} == {f"{SCORED}@full"}


def test_the_published_sets_go_by_their_published_names(root, tmp_path):
    for layout, folder in (("p3m-500-p", "blurred_image"), ("p3m-500-np", "original_image")):
        base = tmp_path / "P3M-10k" / "validation" / layout.upper()
        base.mkdir(parents=True)
        for ours, theirs in (("image", folder), ("alpha", "mask"), ("trimap", "trimap")):
            (base / theirs).symlink_to(root / SCORED / ours)
    tables = (Validation("P3M-10k", "p3m-500-p"), Validation("P3M-10k", "p3m-500-np", resolution="half"))
    photos = validation_photos(tmp_path, recipe(*tables))
    assert {p.set_name for p in photos} == {"P3M-500-P@full", "P3M-500-NP@half"}
    assert all(p.trimap for p in photos)


def test_a_set_without_alphas_is_said_before_the_first_step(root, tmp_path):
    with pytest.raises(DataError, match="it has no alpha"):
        train(recipe(Validation(drawn.PEOPLE)), root, RunOptions(tmp_path / "out", tmp_path, workers=0))
    with pytest.raises(DataError, match="missing: no such data set folder"):
        train(recipe(Validation("missing")), root, RunOptions(tmp_path / "out", tmp_path, workers=0))
    assert not (tmp_path / "out").exists()


def test_labels_of_another_size(root, tmp_path):
    for kind in ("image", "alpha"):
        (tmp_path / SCORED / kind).mkdir(parents=True)
        source = root / SCORED / kind / ("v_0.png" if kind == "image" else "v_1.png")
        (tmp_path / SCORED / kind / "v_0.png").symlink_to(source)
    photos = validation_photos(tmp_path, recipe(Validation(SCORED)))
    with pytest.raises(DataError, match=r"alpha/v_0\.png: size .*, but its image has"):
        score(build_model("test"), photos)


def test_a_run_is_scored_and_its_best_weights_have_the_smallest_sad(root, mattes, tmp_path):
    lines = []
    options = RunOptions(tmp_path, mattes, workers=0, every=2)
    scores = train(recipe(Validation(SCORED, photos=3)), root, options, report=lines.append)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == f"sad/{SCORED}@full"]
    sads = {int(row["step"]): float(row["value"]) for row in rows}
    assert list(sads) == [2, 4, 6]
    assert sads[6] == pytest.approx(scores["sad"], rel=1e-4)
    _, provenance = load_weights(tmp_path / "best.safetensors")
    assert provenance["steps"] == min(sads, key=sads.__getitem__)
    assert provenance["scores"]["sad"] == pytest.approx(min(sads.values()), rel=1e-4)
    assert any(f"sad/{SCORED}@full" in line for line in lines)
    assert (tmp_path / "previews" / "000002.png").exists()
