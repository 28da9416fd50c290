"""Data sets on disk, and the tenth that is held out."""

import shutil

import cv2
import numpy as np
import pytest

from tests.training import drawn
from training.data.readers import DataError, Sample, is_held_out, read_cutout, read_set, split


@pytest.fixture
def root(data_root, tmp_path):
    """A copy that may be broken."""
    return shutil.copytree(data_root, tmp_path / "data")


def samples(count: int) -> list[Sample]:
    return [Sample("set", drawn.Path(f"{i:05d}.jpg"), {}) for i in range(count)]


def keys(of: list[Sample]) -> set[str]:
    return {s.key for s in of}


def test_photos_with_labels(data_root):
    found = read_set(data_root, drawn.PEOPLE)
    assert [s.key for s in found] == [f"{drawn.PEOPLE}/photo_{i}" for i in range(10)]
    for sample in found:
        assert set(sample.labels) == {"mask", "hair"}
        assert all(p.stem == sample.image.stem and p.is_file() for p in sample.labels.values())


def test_a_flat_folder(data_root):
    found = read_set(data_root, drawn.CUTOUTS)
    assert len(found) == 6
    assert all(s.labels == {} for s in found)


def test_labels_match_by_stem_and_other_files_are_passed_over(root):
    people = root / drawn.PEOPLE
    (people / "image" / "photo_0.png").rename(people / "image" / "photo_0.JPG")
    (people / "image" / "notes.txt").write_text("x")
    assert read_set(root, drawn.PEOPLE)[0].image.name == "photo_0.JPG"
    assert len(read_set(root, drawn.PEOPLE)) == 10


def test_split_is_stable_disjoint_and_about_a_tenth():
    everything = samples(4000)
    training, held_out = split(everything, 10)
    assert len(training) + len(held_out) == 4000
    assert not keys(training) & keys(held_out)
    assert 340 < len(held_out) < 460
    # More images move none of the old ones, and their order does not matter.
    assert keys(split(samples(9000)[::-1], 10)[1]) & keys(everything) == keys(held_out)


def test_split_never_changes_between_versions():
    # The published scores are those of the images that these weights have not seen.
    held_out = [i for i, s in enumerate(samples(60)) if is_held_out(s.key, 10)]
    assert held_out == [0, 1, 20, 23, 29, 36, 37, 41, 56]


def test_a_missing_label_is_named(root):
    (root / drawn.PEOPLE / "mask" / "photo_3.png").unlink()
    with pytest.raises(DataError, match=r"people_drawn: 1 images have no mask, first photo_3\.png"):
        read_set(root, drawn.PEOPLE)


@pytest.mark.parametrize("folder", ["empty", "empty_image"])
def test_an_empty_folder(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty_image" / "image").mkdir(parents=True)
    with pytest.raises(DataError, match=f"{folder}.*no images"):
        read_set(tmp_path, folder)


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such data set folder"):
        read_set(tmp_path, "nowhere")


def test_cut_outs_are_rgba_of_8_bits(tmp_path, rng):
    """Of 16 bits, every number would be taken modulo 256, in silence."""
    rgba = rng.integers(0, 256, (5, 7, 4), np.uint8)
    path = tmp_path / "cut.png"
    cv2.imwrite(str(path), rgba[..., [2, 1, 0, 3]])
    assert np.array_equal(read_cutout(path), rgba)
    for other in (rgba.astype(np.uint16) * 257, rgba[..., :3], rgba[..., 0]):
        cv2.imwrite(str(path), other)
        with pytest.raises(DataError, match=r"cut\.png: not an RGBA cut-out with 8 bits"):
            read_cutout(path)
