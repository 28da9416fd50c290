"""Real images: where alphas come from, how they are cut, and the order in which they come."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from tests.training import drawn
from tests.training.gan import runs
from training.data.readers import DataError
from training.gan import data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.draw_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return runs.load(tmp_path_factory.mktemp("recipes"))


def test_the_square_in_the_middle_shrunk_by_areas():
    image = np.zeros((8, 12, 4), np.uint8)
    image[:, 2:10] = np.arange(64).reshape(8, 8, 1) * [1, 2, 3, 4] % 256
    small = data.fit_square(image, 4)
    expected = image[:, 2:10].reshape(4, 2, 4, 2, 4).mean((1, 3)).transpose(2, 0, 1)
    assert small.shape == (4, 4, 4)
    assert np.abs(small - expected).max() <= 0.5


def test_alphas_from_all_three_places(root, recipe, tmp_path):
    """The same images as photo and alpha, as RGBA, and as photo and prepared matte."""
    pairs = data.real_images(recipe, root, tmp_path / "none")
    for number in range(12):
        name = f"face_{number}.png"
        photo = cv2.imread(str(root / runs.FACES / "image" / name))
        alpha = cv2.imread(str(root / runs.FACES / "alpha" / name), cv2.IMREAD_GRAYSCALE)
        drawn.save(tmp_path / "rgba" / runs.FACES / name, np.dstack([photo[..., ::-1], alpha]))
        drawn.save(tmp_path / "photos" / runs.FACES / name, photo[..., ::-1])
        drawn.save(tmp_path / "mattes" / runs.FACES / f"face_{number}.alpha.png", alpha)
    rgba = data.real_images(recipe, tmp_path / "rgba", tmp_path / "none")
    matted = data.real_images(recipe, tmp_path / "photos", tmp_path / "mattes")
    for number in range(12):
        assert np.array_equal(pairs.image(number), rgba.image(number))
        assert np.array_equal(pairs.image(number), matted.image(number))
    with pytest.raises(DataError, match=r"face_0\.png: it has no alpha, and no matte in"):
        data.real_images(recipe, tmp_path / "photos", tmp_path / "none")
    samples = data.list_samples(recipe, tmp_path / "photos")
    assert len(data.without_alpha(samples, tmp_path / "none")) == 12
    assert data.without_alpha(samples, tmp_path / "mattes") == []


def test_a_folder_of_photos_is_a_data_root(root, recipe, tmp_path):
    flat = tmp_path / "flat"
    shutil.copytree(root / runs.FACES / "image", flat)
    assert [s.image.parent for s in data.list_samples(recipe, flat)] == [flat] * 12
    assert [s.image for s in data.list_samples(recipe, root / runs.FACES)] == [
        s.image for s in data.list_samples(recipe, root)
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"{runs.FACES}: no such data set folder"):
        data.list_samples(recipe, tmp_path / "empty")


def test_sizes_that_differ_are_named(root, recipe, tmp_path):
    broken = shutil.copytree(root, tmp_path / "data")
    drawn.save(broken / runs.FACES / "alpha" / "face_3.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match=r"face_3\.png: size \(5, 5\), but its image has"):
        data.real_images(recipe, broken, tmp_path)


@pytest.mark.parametrize("mirror", [False, True])
def test_every_epoch_has_all_in_an_order_of_its_own(mirror):
    def read(number: int) -> np.ndarray:
        return np.array([[[number, 100]]], np.uint8)

    images = data.EndlessImages(read, 7, mirror, 3, 2)
    length = 14 if mirror else 7
    epochs = [[tuple(images[e * length + i].flatten().tolist()) for i in range(length)] for e in range(3)]
    everything = {(n, 100) for n in range(7)} | ({(100, n) for n in range(7)} if mirror else set())
    for epoch in epochs:
        assert set(epoch) == everything
    assert epochs[0] != epochs[1]
    again = data.EndlessImages(read, 7, mirror, 3, 2)
    assert tuple(again[2 * length + 4].flatten().tolist()) == epochs[2][4]  # without the ones before


@pytest.mark.parametrize("mirror", [False, True])
def test_batches_of_a_kept_set_are_its_images(mirror):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    images = data.EndlessImages(lambda n: pixels[n], 5, mirror, 1, 36)
    numbers = [list(range(first, first + 4)) for first in range(0, 24, 4)]  # over the end of an epoch
    found = list(images.batches(numbers, torch.device("cpu")))
    assert torch.equal(torch.cat(found), torch.stack([images[n] for n in range(24)]))


def test_large_sets_stay_on_disk(monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 10)
    reads = []
    images = data.EndlessImages(lambda n: reads.append(n) or np.zeros((1, 2, 2), np.uint8), 5, False, 0, 4)
    assert reads == []
    assert torch.equal(images[0], torch.zeros(1, 2, 2, dtype=torch.uint8))
    assert len(reads) == 1


def test_backgrounds_may_be_missing(root, recipe, tmp_path):
    assert data.background_images(recipe, root) is None
    named = f'backgrounds = {{ folder = "{runs.BACKGROUNDS}" }}\n'
    with_some = runs.load(tmp_path, named + runs.TOML)
    behind = data.background_images(with_some, root)
    assert behind is not None
    assert behind[0].shape == (3, 16, 16)
    assert data.background_images(with_some, tmp_path) is None
