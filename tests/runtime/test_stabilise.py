"""Steadied mattes: noise is averaged away, motion is followed, cuts are kept apart."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stylematte.imaging.stabilise import Stabiliser, look_at

SIZE = (120, 160)
PAD = 40


def scene(rng: np.random.Generator, tone: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A smooth background of blotches around a colour."""
    blotches = cv2.GaussianBlur(rng.normal(0, 300, (SIZE[0], SIZE[1], 3)).astype(np.float32), (0, 0), 8)
    return np.clip(blotches + np.array(tone, np.float32), 0, 255).astype(np.uint8)


def disc(x: float, radius: float = 30, soft: float = 4) -> NDArray[np.float32]:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    distance = np.hypot(rows - 60, columns - x)
    return np.clip((radius - distance) / soft + 0.5, 0, 1).astype(np.float32)


def subject(rng: np.random.Generator) -> NDArray[np.float32]:
    texture = cv2.GaussianBlur(rng.normal(0, 400, (SIZE[0], SIZE[1] + 2 * PAD)).astype(np.float32), (0, 0), 2)
    return np.clip(texture + 150, 0, 255)


def frames(rng: np.random.Generator, count: int, speed: float) -> tuple[list[NDArray], list[NDArray]]:
    """A textured disc going right over a still background; returns images and true alphas."""
    back, texture = scene(rng, (90, 110, 70)), subject(rng)
    images, alphas = [], []
    for number in range(count):
        alpha = disc(45 + speed * number)
        shift = np.array([[1, 0, speed * number - PAD], [0, 1, 0]], np.float64)
        moved = cv2.warpAffine(texture, shift, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
        mixed = alpha[:, :, None] * moved[:, :, None] + (1 - alpha[:, :, None]) * back
        images.append(mixed.astype(np.uint8))
        alphas.append(alpha)
    return images, alphas


def steady(images: list[NDArray], alphas: list[NDArray]) -> tuple[NDArray[np.float64], int]:
    stabiliser = Stabiliser()
    pushed = [stabiliser.push(look_at(image, alpha)) for image, alpha in zip(images, alphas, strict=True)]
    found = [*pushed[1:], stabiliser.flush()]
    assert pushed[0] is None, "one frame of delay"
    return np.stack([alpha / 65535 for alpha in found if alpha is not None]), stabiliser.cuts


def boiled(alphas: list[NDArray], rng: np.random.Generator, amount: float = 0.2) -> list[NDArray[np.float32]]:
    """Noise where alpha is soft, another in each frame."""
    return [
        np.clip(a + amount * rng.normal(size=SIZE) * (4 * a * (1 - a)), 0, 1).astype(np.float32)
        for a in alphas
    ]


def jitter(found: NDArray, truth: NDArray) -> float:
    return float(np.sqrt(np.mean(np.diff(found - truth, axis=0) ** 2)))


@pytest.mark.parametrize("speed", [0.0, 1.5, 5.0])
def test_noise_goes_and_the_outline_stays(rng: np.random.Generator, speed: float) -> None:
    images, alphas = frames(rng, 14, speed)
    noisy = boiled(alphas, rng)
    found, cuts = steady(images, noisy)
    assert cuts == 0
    truth, before = np.stack(alphas), np.stack(noisy)
    assert jitter(found, truth) < 0.6 * jitter(before, truth)
    assert np.abs(found - truth).mean() < np.abs(before - truth).mean()


def test_a_still_clip_is_left_as_it_is(rng: np.random.Generator) -> None:
    images, alphas = frames(rng, 1, 0)
    found, _ = steady(images * 5, alphas * 5)
    assert np.abs(found - alphas[0]).max() <= 2 / 65535


def test_flickering_is_averaged_with_the_weights_it_says(rng: np.random.Generator) -> None:
    images, (alpha,) = frames(rng, 1, 0)
    dim = (0.9 * alpha).astype(np.float32)
    found, _ = steady(images * 3, [alpha, dim, alpha])
    # Nothing moves, so the formula can be computed by hand: weights 3, 1 and 1, each times exp(-d² / 2 t²).
    place = (60, 45)
    share = np.exp(-(0.1**2) / (2 * 0.45**2))
    first = (1 + share * 0.9) / (1 + share)
    before = np.exp(-((first - 0.9) ** 2) / (2 * 0.45**2))
    second = (0.9 + 3 * before * first + share) / (1 + 3 * before + share)
    assert found[0][place] == pytest.approx(first, abs=2e-3)
    assert found[1][place] == pytest.approx(second, abs=2e-3)


def test_nothing_crosses_a_cut(rng: np.random.Generator) -> None:
    one, one_alpha = scene(rng, (40, 60, 150)), disc(50)
    other, other_alpha = scene(rng, (190, 170, 60)), disc(110)
    found, cuts = steady([one] * 3 + [other] * 3, [one_alpha] * 3 + [other_alpha] * 3)
    assert cuts == 1
    assert np.abs(found[2] - one_alpha).max() <= 1e-4
    assert np.abs(found[3] - other_alpha).max() <= 1e-4


def test_a_fast_pan_is_no_cut(rng: np.random.Generator) -> None:
    wide = np.hstack([scene(rng, (110, 110, 110)) for _ in range(3)])
    images = [np.ascontiguousarray(wide[:, 7 * k : 7 * k + SIZE[1]]) for k in range(20)]
    assert steady(images, [disc(80)] * 20)[1] == 0


def test_images_without_a_subject_and_tiny_ones(rng: np.random.Generator) -> None:
    image = scene(rng, (90, 90, 90))
    for level in (0.0, 1.0):
        found, _ = steady([image] * 3, [np.full(SIZE, level, np.float32)] * 3)
        assert (found == level).all()
    small = [image[:3, :5]] * 3
    found, _ = steady(small, [np.full((3, 5), 0.5, np.float32)] * 3)
    assert found.shape == (3, 3, 5)
    assert np.abs(found - 0.5).max() < 1e-4
    assert Stabiliser().flush() is None
