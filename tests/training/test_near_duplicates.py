"""Near twins are found whatever was done to the copy, and strangers are no twins."""

import cv2
import numpy as np
import pytest

from training.data.near_duplicates import find_near_duplicates
from training.data.readers import DataError, Sample


def photo(rng, tmp_path, name, image=None):
    if image is None:
        coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
        image = cv2.resize(coarse, (240, 180), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / f"{name}.png"
    cv2.imwrite(str(path), image)
    return Sample("set", path, {}), image


def test_copies_are_twins_and_strangers_are_not(rng, tmp_path):
    original, image = photo(rng, tmp_path, "original")
    noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    copies = [image[:, ::-1], noisy, (image * 0.6).astype(np.uint8), cv2.resize(image, (120, 90))]
    twins = [photo(rng, tmp_path, f"copy{i}", copy)[0] for i, copy in enumerate(copies)]
    strangers = [photo(rng, tmp_path, f"stranger{i}")[0] for i in range(4)]
    assert find_near_duplicates([*twins, *strangers], [original]) == [True] * 4 + [False] * 4


def test_nothing_to_look_among(rng, tmp_path):
    original, _ = photo(rng, tmp_path, "original")
    assert find_near_duplicates([original], []) == [False]
    assert find_near_duplicates([], [original]) == []


def test_an_image_that_cannot_be_read_is_named(rng, tmp_path):
    original, _ = photo(rng, tmp_path, "original")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        find_near_duplicates([Sample("set", tmp_path / "broken.png", {})], [original])
