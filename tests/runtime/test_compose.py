import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stylematte.errors import UsageError
from stylematte.imaging.compose import (
    Blur,
    Screen,
    blur_background,
    composite,
    cover,
    cutout,
    despill,
    parse_background,
    parse_color,
    premultiply,
)

WHITES = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


def random_image(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    values = rng.random(shape) * WHITES[dtype]
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", WHITES)
@pytest.mark.parametrize("alpha_dtype", WHITES)
def test_composite_matches_float64_arithmetic(
    rng: np.random.Generator, dtype: type, alpha_dtype: type
) -> None:
    foreground, background = random_image(rng, (70, 50, 3), dtype), random_image(rng, (70, 50, 3), dtype)
    alpha = random_image(rng, (70, 50), alpha_dtype)
    share = (alpha.astype(np.float64) / WHITES[alpha_dtype])[..., None]
    expected = share * foreground.astype(np.float64) + (1 - share) * background.astype(np.float64)
    found = composite(foreground, alpha, background)
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == np.float32 else 0.51
    np.testing.assert_allclose(found.astype(np.float64), expected, atol=tolerance, rtol=0)


def test_composite_crosses_strips(rng: np.random.Generator) -> None:
    foreground, background = (
        random_image(rng, (1000, 900, 3), np.uint8),
        random_image(rng, (1000, 900, 3), np.uint8),
    )
    alpha = np.zeros((1000, 900), np.uint8)
    alpha[::2] = 255
    found = composite(foreground, alpha, background)
    np.testing.assert_array_equal(found[::2], foreground[::2])
    np.testing.assert_array_equal(found[1::2], background[1::2])


@pytest.mark.parametrize(("dtype", "expected"), [(np.uint8, 51), (np.uint16, 51 * 257), (np.float32, 0.2)])
def test_colour_means_the_same_at_every_depth(dtype: type, expected: float) -> None:
    found = composite(np.zeros((4, 5, 3), dtype), np.zeros((4, 5), np.float32), (51, 0, 255))
    np.testing.assert_allclose(found[0, 0], [expected, 0, WHITES[dtype]], rtol=1e-6)


def test_background_of_another_depth_keeps_its_colour() -> None:
    background = np.full((4, 5, 3), 51 * 257, np.uint16)
    found = composite(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8), background)
    np.testing.assert_array_equal(found, np.full((4, 5, 3), 51))


@pytest.mark.parametrize("dtype", WHITES)
def test_cutout_joins_colour_and_alpha(rng: np.random.Generator, dtype: type) -> None:
    foreground, alpha = random_image(rng, (7, 9, 3), dtype), random_image(rng, (7, 9), dtype)
    found = cutout(foreground, alpha)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.dstack([foreground, alpha]))


def test_cutout_brings_alpha_to_the_depth_of_the_colours() -> None:
    found = cutout(np.zeros((1, 3, 3), np.uint16), np.array([[0, 0.5, 1]], np.float32))
    np.testing.assert_array_equal(found[0, :, 3], [0, 32768, 65535])


@pytest.mark.parametrize("size", [(100, 100), (50, 200), (300, 80)])
def test_cover_keeps_the_shape_and_the_middle(size: tuple[int, int]) -> None:
    """A centred disc stays a centred disc: as wide as high, cut on both sides alike."""
    y, x = np.mgrid[:160, :240]
    disc = ((y - 79.5) ** 2 + (x - 119.5) ** 2 < 40**2).astype(np.uint8) * 255
    found = cover(np.stack([disc] * 3, axis=2), size)[..., 0] > 127
    assert found.shape == size
    expected = 40 * max(size[0] / 160, size[1] / 240)
    middle_row, middle_column = found[size[0] // 2].sum() / 2, found[:, size[1] // 2].sum() / 2
    assert middle_row == pytest.approx(min(expected, size[1] / 2), abs=1)
    assert middle_column == pytest.approx(min(expected, size[0] / 2), abs=1)
    np.testing.assert_array_equal(found, found[:, ::-1])


@pytest.mark.parametrize("radius_px", [1.5, 3, 20])
def test_blur_is_a_gaussian_of_that_deviation(radius_px: float) -> None:
    image = np.zeros((200, 220, 3), np.float32)
    image[:, 110:] = 1
    found = blur_background(image, np.zeros((200, 220), np.float32), radius_px)
    expected = gaussian_filter(image.astype(np.float64), (radius_px, radius_px, 0), mode="nearest")
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_blur_leaves_the_subject_out() -> None:
    image = np.full((300, 300, 3), (20, 120, 220), np.uint8)
    image[100:200, 100:200] = (255, 0, 0)
    alpha = np.zeros((300, 300), np.uint8)
    alpha[100:200, 100:200] = 255
    found = blur_background(image, alpha, 15)
    outside = alpha == 0
    assert np.abs(found[outside].astype(int) - (20, 120, 220)).max() <= 2


def test_blur_in_strips_is_the_blur_of_the_whole(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, alpha = random_image(rng, (240, 90, 3), np.uint8), random_image(rng, (240, 90), np.float32)
    whole = blur_background(image, alpha, 3)
    monkeypatch.setattr("stylematte.imaging.compose.STRIP_PX", 90 * 20)
    assert np.abs(blur_background(image, alpha, 3).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_blur_of_thin_images(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 77, np.uint8)
    for radius_px in (0.5, 30):
        found = blur_background(image, np.zeros(size, np.uint8), radius_px)
        np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#ff8000", (255, 128, 0)),
        ("#F80", (255, 136, 0)),
        ("255, 128,0", (255, 128, 0)),
        (" Teal ", (0, 128, 128)),
        ("green", (0, 128, 0)),
        ("grey", (128, 128, 128)),
    ],
)
def test_parse_color(text: str, expected: tuple[int, int, int]) -> None:
    assert parse_color(text) == expected
    assert parse_background(text) == expected


@pytest.mark.parametrize(
    "text", ["", "#ff80", "#gg0000", "256,0,0", "1,2", "-1,0,0", "mauve", "blur", "blur:"]
)
def test_what_is_no_background(text: str) -> None:
    with pytest.raises(UsageError):
        parse_background(text)


@pytest.mark.parametrize(("text", "radius_px"), [("blur:25", 25), ("Blur:2.5", 2.5), ("blur:8px", 8)])
def test_parse_blur(text: str, radius_px: float) -> None:
    assert parse_background(text) == Blur(radius_px)


@pytest.mark.parametrize("text", ["blur:0", "blur:-3", "blur:much", "blur:nan"])
def test_blur_needs_a_radius(text: str) -> None:
    with pytest.raises(UsageError, match="radius"):
        parse_background(text)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_premultiplied_by_hand(rng: np.random.Generator, dtype: type) -> None:
    white = np.iinfo(dtype).max
    rgba = rng.integers(0, white + 1, (300, 700, 4)).astype(dtype)
    found = premultiply(rgba)
    expected = rgba[:, :, :3].astype(np.float64) * rgba[:, :, 3:] / white
    assert np.abs(found[:, :, :3] - expected).max() <= 0.508  # half a step, and float32 at 16 bits
    assert np.array_equal(found[:, :, 3], rgba[:, :, 3])


@pytest.mark.parametrize(("screen", "channel", "luma"), [("green", 1, 0.7152), ("blue", 2, 0.0722)])
def test_despill_by_hand(rng: np.random.Generator, screen: Screen, channel: int, luma: float) -> None:
    colours = rng.random((300, 500, 3)).astype(np.float32)
    others = np.delete(colours.astype(np.float64), channel, axis=2).mean(axis=2)
    spill = np.maximum(colours[:, :, channel] - others, 0)
    expected = colours.astype(np.float64).copy()
    expected[:, :, channel] -= spill
    expected = np.clip(expected + luma * spill[:, :, None], 0, 1)
    assert np.abs(despill(colours, screen) - expected).max() < 1e-6


def test_despill_leaves_other_colours_alone() -> None:
    image = np.array([[[200, 120, 90], [128, 128, 128], [10, 10, 10], [255, 255, 255]]], np.uint8)
    assert np.array_equal(despill(image, "green"), image)
    cast = np.array([[[100, 180, 100]]], np.uint8)
    red, green, blue = despill(cast, "green")[0, 0].tolist()
    assert red == blue == green, "a cast over grey becomes grey"
    assert 0.2126 * red + 0.7152 * green + 0.0722 * blue == pytest.approx(100 + 0.7152 * 80, abs=1)


def test_light_wrap_lights_the_edge_and_nothing_else() -> None:
    alpha = np.zeros((80, 120), np.uint8)
    alpha[:, 60:] = 255
    grey = np.full((80, 120, 3), 100, np.uint8)
    plain = composite(grey, alpha, (255, 200, 0)).astype(int)
    wrapped = composite(grey, alpha, (255, 200, 0), light_wrap_px=5).astype(int)
    assert np.array_equal(wrapped[:, :60], plain[:, :60]), "the background is what it was"
    assert np.array_equal(wrapped[:, 90:], plain[:, 90:]), "and the subject's inside"
    edge = wrapped[40, 60] - plain[40, 60]
    # Half of a Gaussian's weight lies outside, less half a pixel: light 0.46, screened over 100.
    share = 0.46
    assert edge[0] == pytest.approx((255 - 100) * share, abs=6)
    assert edge[1] == pytest.approx((255 - 100) * share * 200 / 255, abs=6)
    assert edge[2] == 0
    assert (np.diff(wrapped[40, 60:90, 0]) <= 0).all(), "fading inwards"
    assert np.array_equal(composite(grey, alpha, (0, 0, 0), 5), composite(grey, alpha, (0, 0, 0)))
