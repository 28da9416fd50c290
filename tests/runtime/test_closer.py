"""A closer look at the subject: where, with which prior, and what of it gets into the alpha."""

import cv2
import numpy as np
import pytest

import stylematte
from stylematte.engines import open_engine
from stylematte.imaging.closer import (
    BLOCK_PX,
    Closer,
    apply_closer,
    as_fractions,
    find_window,
    in_band,
    in_pixels,
    in_window,
)
from stylematte.imaging.guided_filter import apply_coefficients
from stylematte.matter import Detail, Matter
from tests.conftest import red_detector
from tests.export.drawn_networks import save
from tests.runtime.test_matter import red_disc

GUIDE = (0.3, 0.5, 0.2), -0.4


@pytest.fixture
def matter(tmp_path):
    """A matter that looks closer, and a list of (image, prior) that its network saw."""
    engine = open_engine(save(red_detector(prior=True), tmp_path / "prior.onnx"), "onnx", "cpu")
    seen, run = [], engine.coefficients

    def coefficients(images, priors=None):
        seen.append((images.copy(), None if priors is None else priors.copy()))
        return run(images, priors)

    engine.coefficients = coefficients
    return Matter(engine, detail=Detail(None, 0)), seen


def plain(matter):
    return Matter(matter.engine, detail=matter.detail._replace(looks_closer=False))


def square(alpha, top, left, side):
    alpha[top : top + side, left : left + side] = 1
    return alpha


def test_the_window_is_the_subject_with_a_margin():
    window = find_window(square(np.zeros((100, 200), np.float32), 40, 100, 25))
    assert window == (slice(36, 69), slice(96, 129))  # 12 % of 25, and one


def test_the_window_ends_with_the_image_and_faint_alpha_counts():
    alpha = square(np.zeros((100, 200), np.float32), 60, 0, 40)
    alpha[20, 80] = 0.06
    assert find_window(alpha) == (slice(9, 100), slice(0, 92))


@pytest.mark.parametrize(
    "alpha",
    [np.zeros((80, 80), np.float32), np.ones((80, 80), np.float32), np.full((80, 80), 0.4, np.float32)],
    ids=["empty", "full", "unsure"],
)
def test_nothing_and_everything_get_no_closer_look(alpha):
    assert find_window(alpha) is None


def test_fractions_and_pixels_are_each_others_inverse():
    window = slice(7, 91), slice(0, 163)
    assert in_pixels(as_fractions(window, (120, 163)), (120, 163)) == window
    assert in_pixels(as_fractions(window, (120, 163)), (240, 326)) == (slice(14, 182), slice(0, 326))


def test_the_share_is_the_band_or_the_window():
    alpha = square(np.zeros((120, 120), np.float32), 40, 40, 40)
    alpha[40:80, 40] = 0.5
    band = in_band(alpha)
    assert band[60, 40] == round(0.85 * 255)
    assert not band[60, 60:].any()
    share = in_window((slice(20, 120), slice(0, 100)), (120, 120))
    assert share[60, 0] == share[119, 50] == 128  # the image's own border does not fade
    assert not share[:20].any()
    assert not share[:, 100:].any()
    column = share[18:40, 50].astype(int)
    assert (np.diff(column) >= 0).all()
    assert len(set(column)) > 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_blend_is_the_formulas(rng, dtype):
    """Against one bilinear upsampling and one mix of whole planes."""
    size = (BLOCK_PX + 40, BLOCK_PX + 90)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    first, second = (rng.normal(0, 2, (2, 30, 40)).astype(np.float32) for _ in range(2))
    share = np.zeros((60, 64), np.uint8)
    share[20:40, 10:60] = 200
    closer = Closer((0.25, 0.75, 0.125, 1.0), second, share)
    alpha = apply_coefficients(first, image, *GUIDE, dtype)
    got = apply_closer(alpha.copy(), image, closer, *GUIDE)

    rows, columns = in_pixels(closer.window, size)
    whole = cv2.resize(share, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    one = apply_coefficients(first, image, *GUIDE)[rows, columns]
    other = apply_coefficients(second, image[rows, columns], *GUIDE)
    part = whole[rows, columns]
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    wanted = alpha.astype(np.float32) / white
    wanted[rows, columns] = one + part * (other - one)
    np.testing.assert_allclose(
        got / np.float32(white), wanted, atol=2.5 / 255
    )  # OpenCV warps in steps of 1/32 px
    untouched = np.ones(size, bool)
    untouched[rows, columns] = part == 0
    np.testing.assert_array_equal(got[untouched], alpha[untouched])
    assert np.abs(got[rows, columns] / np.float32(white) - one).max() > 0.3


def test_a_part_is_the_part_of_the_whole(rng):
    image = rng.integers(0, 256, (700, 600, 3), np.uint8)
    first, second = (rng.normal(0, 2, (2, 30, 40)).astype(np.float32) for _ in range(2))
    closer = Closer((0.1, 0.9, 0.2, 0.7), second, rng.integers(0, 256, (60, 64), np.uint8))
    whole = apply_closer(apply_coefficients(first, image, *GUIDE), image, closer, *GUIDE)
    for window in (
        (slice(50, 260), slice(100, 333)),
        (slice(0, 60), slice(0, 600)),
        (slice(640, 700), slice(9, 20)),
    ):
        part = apply_coefficients(first, image, *GUIDE, np.float32, window)
        part = apply_closer(part, image, closer, *GUIDE, window)
        np.testing.assert_allclose(part, whole[window], atol=2e-6)


def test_a_small_subject_is_shown_again_with_its_alpha(matter):
    matter, seen = matter
    image = red_disc((240, 320), 30, (0.3, 0.7))
    matter(image)
    (first, none), (second, prior) = seen
    assert none is None
    share = [(x[0, 0] > x[0, 1] + 0.5).mean() for x in (first, second)]
    assert share[1] > 8 * share[0]
    red = second[0, 0] > second[0, 1] + 0.5
    assert prior[0, 0][red].mean() > 0.9
    assert prior[0, 0][~red].mean() < 0.1


def test_the_second_look_is_mirrored_and_its_alpha_is_not(matter, rng):
    matter, seen = matter
    image = np.full((480, 640, 3), 90, np.uint8)
    image[200:280, 300:320] = image[260:280, 300:360] = (255, 0, 0)  # an L
    red = image[..., 0] == 255
    image = np.clip(image + rng.normal(0, 40, image.shape), 0, 255).astype(np.uint8)
    alpha = matter(image).alpha
    second = seen[1][0][0]
    left, right = (x.mean() for x in np.array_split(second[0] - second[1], 2, axis=1))
    assert right > 1.5 * left  # the L's long side
    errors = [np.abs(x - red).mean() for x in (alpha, plain(matter)(image).alpha)]
    assert errors[0] < 0.8 * errors[1], errors


def test_flat_places_stay(matter):
    matter, _ = matter
    image = red_disc((480, 640), 60, (0.3, 0.7))
    truth = image[..., 0] == 255
    coarse, fine = plain(matter)(image).alpha, matter(image).alpha
    changed = fine != coarse
    assert changed.any()
    assert not changed[cv2.erode(truth.astype(np.uint8), np.ones((41, 41))) > 0].any()
    assert not changed[cv2.dilate(truth.astype(np.uint8), np.ones((121, 121))) == 0].any()


def test_what_ships_sees_a_small_subject_nearly_as_well_as_a_large_one():
    """A photo in the corner of a canvas: its alpha should be that of the photo alone."""
    photo = cv2.imread("examples/photos/astronaut.png")[:, :, ::-1]
    canvas = np.full((1100, 1400, 3), photo[:40, :40].mean((0, 1)), np.uint8)
    canvas[588:, 100:612] = photo
    matter = stylematte.load("nano", device="cpu")
    wanted = matter(photo).alpha
    with_look, without = (m(canvas).alpha[588:, 100:612] for m in (matter, plain(matter)))
    error, error_without = (np.abs(alpha - wanted).mean() for alpha in (with_look, without))
    assert error < 0.8 * error_without, (error, error_without)


def test_what_fills_the_image_is_seen_once(matter):
    matter, seen = matter
    matter(red_disc((240, 240), 110))
    matter(np.zeros((100, 100, 3), np.uint8))
    assert len(seen) == 2


def test_closer_looks_of_a_batch_share_passes(matter):
    matter, seen = matter
    images = [red_disc((240, 320), 30, (0.3, x)) for x in (0.3, 0.7)] + [np.zeros((240, 320, 3), np.uint8)]
    together = matter.batch(images)
    assert [len(images) for images, _ in seen] == [3, 2]
    for image, matte in zip(images, together, strict=True):
        np.testing.assert_allclose(matter(image).alpha, matte.alpha, atol=1e-4)


def test_models_that_take_a_prior_look_closer_without_a_refiner(tmp_path):
    with_prior, without = (save(red_detector(prior=p), tmp_path / f"{p}.onnx") for p in (True, False))
    assert stylematte.load(with_prior, device="cpu").detail == Detail(None, 0)
    assert stylematte.load(with_prior, device="cpu", detail="off").detail is None
    assert stylematte.load(without, device="cpu").detail is None


def test_a_hint_is_followed_in_the_whole_window(matter):
    """The second look gets the hint or half of the first alpha, whichever is higher."""
    matter, seen = matter
    image = red_disc((240, 320), 30, (0.4, 0.4))
    hint = np.zeros((120, 160), np.float32)
    hint[40:56, 50:62] = 0.3
    matter(image, prior=hint)
    (_, first), (_, second) = seen
    assert first.max() == pytest.approx(0.3, abs=0.05)
    assert second.max() == pytest.approx(0.5, abs=0.12)  # cubic enlargement overshoots
    assert ((second > 0.25) & (second < 0.35)).any()
    assert (second > 0.25).mean() > (first > 0.25).mean()


def test_no_prior_and_zeros_are_the_same_in_what_ships():
    matter = stylematte.load("nano", device="cpu")
    image = np.pad(red_disc((120, 160), 40), ((60, 60), (90, 90), (0, 0)), mode="edge")
    with_zeros = matter(image, prior=np.zeros(image.shape[:2], np.uint8)).alpha
    np.testing.assert_array_equal(with_zeros, matter(image).alpha)
