"""Drawing of images: what each depends on, truncation, jitter, near copies."""

import math

import numpy as np
import pytest
import torch

from stylematte.errors import InputError
from tests.training.generators import Discs
from training.synthesis.drawing import (
    MIN_TRUNCATION,
    NEAR_LEVELS,
    CopyMonitor,
    Gallery,
    SamplingPlan,
    check_variety,
    generate,
    small_copy,
)


def test_an_image_depends_on_seed_and_number_alone():
    plan = SamplingPlan(3, (-0.9, 0.9), 0.05, 10)
    together = generate(Discs(), [plan.draft(i, 4) for i in (5, 6, 7)])
    alone = generate(Discs(), [plan.draft(6, 4)])[0]
    np.testing.assert_allclose(together[1].rgba.astype(int), alone.rgba, atol=1)
    assert (together[0].rgba != together[1].rgba).any()
    assert (generate(Discs(), [SamplingPlan(4, (-0.9, 0.9)).draft(6, 4)])[0].rgba != alone.rgba).any()


def test_the_noise_does_not_depend_on_options():
    plain, varied = SamplingPlan(1), SamplingPlan(1, (-0.9, 0.9), 0.1, 20)
    for i in range(3):
        np.testing.assert_array_equal(plain.draft(i, 8).noise, varied.draft(i, 8).noise)
    noise = np.concatenate([plain.draft(i, 512).noise for i in range(40)])
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_a_range_of_truncations_is_even_and_leaves_out_the_mean_image():
    drawn = np.array([SamplingPlan(0, (-0.5, 0.9)).draft(i, 1).truncation for i in range(4000)])
    assert drawn.min() >= -0.5
    assert drawn.max() <= 0.9
    assert np.abs(drawn).min() >= MIN_TRUNCATION
    counts, _ = np.histogram(drawn, [-0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(counts / 4000, [1 / 6, 1 / 6, 0, 1 / 6, 1 / 6, 1 / 6, 1 / 6], atol=0.03)
    assert {SamplingPlan(0, (0.7, 0.7)).draft(i, 1).truncation for i in range(9)} == {0.7}


@pytest.mark.parametrize(
    ("truncation", "words"),
    [
        ((7.0, 7.0), "from -1 to 1"),
        ((0.9, -0.9), "smaller one first"),
        ((float("nan"), 0.5), "from -1 to 1"),
        ((0.0, 0.0), "mean image"),
        ((-0.05, 0.1), "this range is empty"),
    ],
)
def test_truncations_that_cannot_be_meant(truncation, words):
    with pytest.raises(InputError, match=words):
        SamplingPlan(0, truncation)


def test_jitter_that_cannot_be_meant():
    for shift, turn in ((-0.1, 0), (0.6, 0), (0, 200)):
        with pytest.raises(InputError, match="jitter"):
            SamplingPlan(0, (0.7, 0.7), shift, turn)


def test_jitter_stays_in_its_bounds_and_moves_as_it_says():
    plan = SamplingPlan(0, (0.7, 0.7), 0.2, 30)
    drafts = [plan.draft(i, 4) for i in range(300)]
    moves = np.array([(*d.shift, d.turn_deg) for d in drafts]) / (0.2, 0.2, 30)
    assert np.abs(moves).max() <= 1
    np.testing.assert_allclose(moves.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(moves.std(0), 1 / 3**0.5, atol=0.06)
    for draft in drafts[:5]:
        moved = np.linalg.inv(draft.lookup().astype(float))  # of what is seen
        angle = np.radians(draft.turn_deg)
        turned = (np.cos(angle) * 0.3, np.sin(angle) * 0.3)  # clockwise, y downwards
        np.testing.assert_allclose(moved @ (0, 0, 1), (*draft.shift, 1), atol=1e-6)
        np.testing.assert_allclose(moved @ (0.3, 0, 1) - (*draft.shift, 1), (*turned, 0), atol=1e-6)


def test_jitter_shifts_the_image():
    still, moved = SamplingPlan(2, (0.7, 0.7)), SamplingPlan(2, (0.7, 0.7), 0.3)
    for i in range(3):
        draft = moved.draft(i, 4)
        centres = []
        for d in (still.draft(i, 4), draft):
            alpha = generate(Discs(64), [d])[0].rgba[..., 3].astype(float)
            y, x = np.indices(alpha.shape) / 64
            centres.append(np.array([(x * alpha).sum(), (y * alpha).sum()]) / alpha.sum())
        if alpha[0].any() or alpha[-1].any() or alpha[:, 0].any() or alpha[:, -1].any():
            continue  # cut off by the frame
        np.testing.assert_allclose(centres[1] - centres[0], draft.shift, atol=0.01)
        break
    else:
        pytest.fail("no disc stayed in the frame")


def test_pixels_are_rounded_and_clipped():
    def ramp(z, truncation, lookups):
        return torch.linspace(-1.5, 1.5, 1024).view(1, 1, 32, 32).expand(1, 4, 32, 32)

    rgba = generate(ramp, [SamplingPlan().draft(0, 1)])[0].rgba
    wanted = np.clip(np.linspace(-1.5, 1.5, 1024) * 0.5 + 0.5, 0, 1) * 255
    assert rgba.dtype == np.uint8
    np.testing.assert_allclose(rgba[..., 0].ravel(), wanted, atol=0.501)


def test_a_smaller_side_averages():
    full, half = (generate(Discs(), [SamplingPlan().draft(0, 4)], side_px=s)[0].rgba for s in (None, 16))
    np.testing.assert_allclose(half, full.reshape(16, 2, 16, 2, 4).mean((1, 3)), atol=0.51)


def test_gallery_finds_what_a_search_of_all_finds(rng):
    """Copies differ in one channel alone, just below and just above the limit."""
    gallery, kept = Gallery(), []
    for index in range(400):
        base = rng.integers(20, 236, 3)
        small = np.clip(base + rng.normal(0, 2, (64, 3)), 0, 255).astype(np.uint8).reshape(-1)
        if index % 4 == 3:
            limit = NEAR_LEVELS * math.sqrt(3)  # of a difference in one channel
            other = kept[rng.integers(len(kept))].reshape(64, 3).astype(int)
            other[:, rng.integers(3)] += rng.choice([-1, 1]) * int(limit + rng.integers(0, 2))
            small = np.clip(other, 0, 255).astype(np.uint8).reshape(-1)
        differences = [np.sqrt(np.square(small.astype(float) - k).mean()) for k in kept]
        wanted = int(np.argmin(differences)) if differences and min(differences) < NEAR_LEVELS else None
        assert gallery.near(small) == wanted
        gallery.add(len(kept), small)
        kept.append(small)


def test_gallery_finds_near_copies_and_no_others(rng):
    gallery, images = Gallery(), rng.integers(0, 256, (150, 16, 16, 4), np.uint8)
    images[..., 3] |= 128
    smalls = [small_copy(p) for p in images]
    for i, small in enumerate(smalls):
        assert gallery.near(small) is None
        gallery.add(10 + i, small)
    for i in (0, 77, 149):
        near = smalls[i].astype(int) + rng.integers(-2, 3, len(smalls[i]))
        assert gallery.near(np.clip(near, 0, 255).astype(np.uint8)) == 10 + i
    grey = np.full(192, 100, np.uint8)
    gallery.add(500, grey)
    apart = np.full(192, 100 + int(NEAR_LEVELS), np.uint8)
    assert gallery.near(apart) is None
    assert gallery.near(apart - 1) == 500


def test_a_small_copy_is_of_what_is_seen():
    """Colours where nothing shows do not count."""
    a = np.full((16, 16, 4), 200, np.uint8)
    a[..., 3] = 255
    a[:8, :, 3] = 0
    b = a.copy()
    b[:8, :, :3] = 7
    np.testing.assert_array_equal(small_copy(a), small_copy(b))
    assert set(small_copy(a)) == {128, 200}


def test_watch_stops_where_nearly_all_are_copies():
    watch = CopyMonitor(SamplingPlan(0, (0.3, 0.3)))
    for i in range(1000):
        watch.record(i % 4 != 0)  # three of four are still fine
    with pytest.raises(InputError, match=r"truncation 0\.3 this generator has no more"):
        watch.record(True)


def test_one_image_in_many_poses_is_found_before_the_run():
    check_variety(Discs(), SamplingPlan(0, (0.7, 0.7), 0.05, 10), 4, 8)
    with pytest.raises(InputError, match="near copies"):
        check_variety(Discs(), SamplingPlan(0, (0.01, 0.01), 0.05, 10), 4, 8)
