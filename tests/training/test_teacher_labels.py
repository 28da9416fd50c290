"""Labels that models make of photos: made once, believed where all agree, read as a data set."""

import dataclasses

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image

from stylematte.engines import open_engine
from stylematte.errors import InputError
from stylematte.matter import Matter
from stylematte.media.images import read_image
from tests.conftest import red_detector
from tests.drawn_photos import P3_GAMMA
from training import teacher_labels
from training.config import load_recipe
from training.data.subjects import read_data_set, read_subject
from training.teacher_labels import Label, label_photo, make_labels, with_labels


@pytest.fixture
def models(tmp_path):
    onnx.save(red_detector(), tmp_path / "red.onnx")
    return [tmp_path / "red.onnx"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "data" / "inner"
    folder.mkdir(parents=True)
    paths = []
    for index in range(12):
        image = np.full((64, 96, 3), 60 + index, np.uint8)
        image[:, : 24 + 4 * index] = (0, 0, 255)
        cv2.imwrite(str(folder / f"{index:02}.png"), image)
        paths.append(folder / f"{index:02}.png")
    return paths


def run(steps):
    return list(steps)


def test_a_label_is_the_models_alpha_and_sure_where_it_agrees_with_its_mirror_image(models, photos):
    matter = Matter(open_engine(models[0], device="cpu"), 96)
    image = cv2.imread(str(photos[4]))[:, :, ::-1].copy()
    label = label_photo(image, [matter])
    assert label.alpha[:, :30].min() > 0.9
    assert label.alpha[:, 50:].max() < 0.1
    assert label.confidence[:, :30].min() > 0.9
    assert label.confidence.shape == image.shape[:2]


def test_teachers_that_differ_are_doubted(models, photos):
    matter = Matter(open_engine(models[0], device="cpu"), 96)

    class Contrary:
        def __call__(self, image):
            answer = matter(image)
            return dataclasses.replace(answer, given_alpha=1 - answer.alpha)

    image = cv2.imread(str(photos[4]))[:, :, ::-1].copy()
    label = label_photo(image, [matter, Contrary()])
    assert label.confidence[:, :30].max() < 0.1
    assert label.alpha == pytest.approx(0.5, abs=1e-3)


def test_teachers_see_srgb(models, tmp_path, monkeypatch):
    """A network that sees the numbers of another profile, or of 16 bits cut short, sees another photo."""
    image = np.full((64, 96, 3), (40, 200, 90), np.uint8)
    Image.fromarray(image).save(tmp_path / "p3.png", icc_profile=P3_GAMMA)
    cv2.imwrite(
        str(tmp_path / "deep.png"), np.full((64, 96, 3), 51520, np.uint16)
    )  # 200.47 of 255, and 201.25 of 256
    seen = []
    monkeypatch.setattr(
        teacher_labels, "label_photo", lambda image, _: seen.append(image) or Label(*np.zeros((2, 64, 96)))
    )
    run(make_labels([tmp_path / "p3.png", tmp_path / "deep.png"], models, tmp_path / "labels", "cpu"))
    p3, deep = sorted(seen, key=np.mean)
    np.testing.assert_array_equal(p3, read_image(tmp_path / "p3.png").srgb)
    assert np.abs(p3.astype(int) - image).max() > 10
    assert {deep.dtype, p3.dtype} == {np.dtype(np.uint8)}
    assert (deep == 200).all()


def test_labels_are_made_once_and_anew_for_a_changed_photo(models, photos, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    assert run(make_labels(photos, models, out, "cpu"))[-1] == (12, 12)
    assert {part.name for part in out.iterdir()} == {"image", "alpha", "weight"}
    made = sorted((out / "alpha").iterdir())
    assert len(made) == 12
    (out / "weight" / made[3].name).unlink()  # as if it had been broken off there
    calls = []
    real = teacher_labels.label_photo
    monkeypatch.setattr(teacher_labels, "label_photo", lambda *given: calls.append(1) or real(*given))
    cv2.imwrite(str(photos[0]), np.full((64, 96, 3), 5, np.uint8))
    run(make_labels(photos, models, out, "cpu"))
    assert len(calls) == 2
    assert len(list((out / "alpha").iterdir())) == 13


def test_a_photo_that_cannot_be_read_is_named(models, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.jpg"):
        run(make_labels([tmp_path / "a.jpg"], models, tmp_path / "labels", "cpu"))


def test_a_recipe_reads_labels_as_mattes_with_their_confidence(models, photos, tmp_path):
    recipe = load_recipe("distill", [])
    root, cache = tmp_path / "data", tmp_path / "mattes"
    labelled = with_labels(recipe, root, models, cache, "cpu", run)
    (data_set,) = labelled.sets
    assert data_set.kind == "mattes"
    assert data_set.folder.startswith("labels/red-")
    samples = read_data_set(root, data_set)
    assert len(samples) == 12
    assert set(samples[0].labels) == {"alpha", "weight"}
    subject = read_subject(samples[0], data_set, cache)
    assert subject.alpha[:, :20].min() > 230
    assert subject.weight[:, :20].min() > 200
