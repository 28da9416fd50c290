import numpy as np
import pytest
from skimage.transform import downscale_local_mean

from stylematte.errors import InputError
from stylematte.imaging.geometry import as_rgb, convert, resize, resize_to_working, to_dtype, to_float


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_every_level_survives_the_way_to_float_and_back(dtype: type, white: int) -> None:
    levels = np.arange(white + 1, dtype=dtype).reshape(1, -1)
    assert to_float(levels).max() == 1
    np.testing.assert_array_equal(to_dtype(to_float(levels), dtype), levels)


def test_to_dtype_clips_rounds_and_leaves_its_argument_alone() -> None:
    values = np.array([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.5], np.float32)
    before = values.copy()
    np.testing.assert_array_equal(to_dtype(values, np.uint8), [0, 0, 0, 1, 255, 255])
    np.testing.assert_array_equal(values, before)


def test_convert_between_depths(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (1500, 400), dtype=np.uint8)
    np.testing.assert_array_equal(convert(image, np.uint16), image.astype(np.uint16) * 257)
    np.testing.assert_array_equal(convert(convert(image, np.uint16), np.uint8), image)
    assert convert(image, np.uint8) is image


def test_shrinking_is_the_mean_over_blocks(rng: np.random.Generator) -> None:
    image = rng.random((96, 160, 3), dtype=np.float32)
    expected = downscale_local_mean(image, (3, 5, 1)).transpose(2, 0, 1)
    np.testing.assert_allclose(resize_to_working(image, (32, 32)), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 20000), (20000, 3)])
def test_strip_is_averaged_along_it_while_it_grows_across(
    rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    stripes = np.arange(20000) % 2 * 255  # any subsampling would show black or white
    image = np.broadcast_to(stripes[:, None] if shape[0] > 3 else stripes[None, :], shape).astype(np.uint8)
    planes = resize_to_working(as_rgb(image), (32, 512) if shape[0] == 3 else (512, 32))
    assert planes.min() > 0.45
    assert planes.max() < 0.55


def test_growing_keeps_corners_in_their_corners() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = (255, 0, 0)
    image[3, 3] = (0, 255, 0)
    planes = resize_to_working(image, (64, 64))
    assert planes.shape == (3, 64, 64)
    assert planes.dtype == np.float32
    assert planes[0, :6, :6].min() > 0.9
    assert planes[1, -6:, -6:].min() > 0.9
    assert (planes.min(), planes.max()) == (0, 1)


def test_same_size_is_untouched(rng: np.random.Generator) -> None:
    image = rng.integers(0, 65536, (7, 9, 3), dtype=np.uint16)
    np.testing.assert_array_equal(resize(image, (7, 9)), image)


def test_as_rgb_accepts_grey_and_four_channels(rng: np.random.Generator) -> None:
    rgba = rng.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    np.testing.assert_array_equal(as_rgb(rgba), rgba[:, :, :3])
    grey = rgba[:, :, 0]
    for image in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(as_rgb(image), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64 are not supported"),
        (np.zeros((4, 4, 3), bool), "bool are not supported"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((3, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.full((4, 4, 3), 255, np.float32), "float colours from 255 to 255"),
        (np.full((4, 4, 3), np.nan, np.float32), "float colours"),
    ],
)
def test_what_is_no_image(image: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_rgb(image)
