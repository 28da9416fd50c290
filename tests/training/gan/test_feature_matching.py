"""Feature matching: kernel and distance against NumPy, its gradient, and a run that lowers the distance."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.encoders import build_encoder
from models.gan.checkpoints import load_generator, save_generator
from models.gan.generator import Generator, GeneratorConfig
from stylematte.errors import InputError
from tests.models.gan.backbones import write_folded
from training.data.readers import DataError
from training.gan import feature_matching
from training.gan.feature_matching import (
    SCALES,
    Features,
    Matcher,
    kernel,
    learning_rate,
    read_reals,
    run,
    views,
)

TINY = GeneratorConfig(size_px=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, layers=4, margin=2)


def tiny_features() -> Features:
    torch.manual_seed(0)
    return Features(build_encoder("mobilenet_v2_tiny"), side=64)


def discs(count: int, seed: int, red: float = 0.9) -> Tensor:
    """Discs in front of noise, (count, 4, 16, 16) uint8 RGBA."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    images = rng.integers(0, 90, (count, 4, 16, 16)).astype(np.uint8)
    for image in images:
        inside = np.hypot(y - rng.uniform(6, 10), x - rng.uniform(6, 10)) < rng.uniform(4, 6)
        image[0][inside] = 255 * red
        image[3] = 255 * inside
    return torch.from_numpy(images)


def as_floats(images: Tensor) -> list[Tensor]:
    return [(part.float() / 255) for part in images.split(16)]


def test_the_kernel_is_that_of_its_paper() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(4, 5))
    wanted = np.zeros((3, 4))
    for i in range(3):
        for j in range(4):
            square = ((a[i] - b[j]) ** 2).mean()
            wanted[i, j] = sum((1 + square / (2 * scale)) ** -scale for scale in SCALES)
    found = kernel(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)
    own = kernel(torch.from_numpy(a), torch.from_numpy(a)).diagonal()
    np.testing.assert_allclose(own.numpy(), len(SCALES), rtol=1e-6)


def test_views_are_the_image_as_stored_and_over_grey() -> None:
    rgba = torch.rand(2, 4, 3, 3)
    stored, grey = views(rgba)
    assert torch.equal(stored, rgba[:, :3])
    np.testing.assert_allclose(grey, rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:]), rtol=1e-6)


def test_the_distance_is_that_of_numpy_and_tells_other_images() -> None:
    matcher = Matcher(tiny_features(), discs(40, 1), recent=8)
    same = matcher.distance(as_floats(discs(40, 2)))
    others = matcher.distance(as_floats(discs(40, 2, red=0.5)))
    assert abs(same) < 0.1 * others

    def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
        def mean(x: np.ndarray, y: np.ndarray, pairs: list[tuple[int, int]]) -> float:
            squares = np.array([((x[i] - y[j]) ** 2).mean() for i, j in pairs])
            return float(sum((1 + squares / (2 * scale)) ** -scale for scale in SCALES).mean())

        within = [
            mean(x, x, [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)
        ]
        return within[0] + within[1] - 2 * mean(a, b, [(i, j) for i in range(len(a)) for j in range(len(b))])

    images = discs(6, 3)
    small = Matcher(tiny_features(), discs(5, 4), recent=8)
    found = small._standardised(small._measure(as_floats(images)))
    wanted = [
        squared_mmd(a.double().numpy(), b.double().numpy())
        for pair in zip(found, small.reals, strict=True)
        for a, b in zip(*pair, strict=True)
    ]
    assert small.distance(as_floats(images)) == pytest.approx(np.mean(wanted), abs=1e-5)


def test_following_the_gradient_brings_images_nearer() -> None:
    matcher = Matcher(tiny_features(), discs(40, 1), recent=32)
    images = as_floats(discs(16, 2, red=0.4))[0].requires_grad_()
    before = matcher.distance([images.detach()])
    optimiser = torch.optim.Adam([images], 0.02)
    alpha = images.detach()[:, 3:].clone()
    for _ in range(15):
        optimiser.zero_grad()
        matcher.loss(images).backward()
        optimiser.step()
    assert matcher.distance([images.detach().clamp(0, 1)]) < 0.7 * before
    assert torch.equal(images.detach()[:, 3:], alpha)  # no gradient


def test_the_oldest_generated_images_are_forgotten() -> None:
    matcher = Matcher(tiny_features(), discs(8, 1), recent=6)
    for seed in (2, 3):
        matcher.loss(as_floats(discs(4, seed))[0])
    newest = Matcher(tiny_features(), discs(8, 1), recent=6)
    newest.loss(as_floats(discs(4, 3))[0])
    assert [len(level) for view in matcher.recent for level in view] == [6] * 12
    assert torch.equal(matcher.recent[0][0][-4:], newest.recent[0][0])


def test_the_rate_rises_is_steady_and_falls() -> None:
    rates = [learning_rate(1.0, step, step / 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[20:60] == [1.0] * 40
    assert rates[80] == pytest.approx(0.5)
    assert min(rates[60:]) == pytest.approx(0.05)


@pytest.fixture
def arguments(tmp_path: Path) -> argparse.Namespace:
    torch.manual_seed(1)
    generator = Generator(TINY).eval()
    save_generator(generator, tmp_path / "before.safetensors", {"kimg": 1})
    (tmp_path / "reals").mkdir()
    for number, image in enumerate(discs(24, 5)):
        pixels = image.numpy().transpose(1, 2, 0)[..., [2, 1, 0, 3]]
        cv2.imwrite(str(tmp_path / "reals" / f"{number}.png"), pixels)
    return argparse.Namespace(
        reals=tmp_path / "reals",
        weights=tmp_path / "before.safetensors",
        backbone_weights=write_folded(tmp_path / "tiny.safetensors"),
        out=tmp_path / "after.safetensors",
        steps=40,
        batch=8,
        recent=16,
        learning_rate=2e-3,
        precision="fp32",
        measure=48,
        seed=0,
    )


def test_a_run_lowers_the_distance(
    arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        feature_matching, "load_encoder", lambda path: (build_encoder("mobilenet_v2_tiny"), "")
    )
    run(arguments)
    line = capsys.readouterr().err.splitlines()[-1]
    before, after = (float(part.split()[0]) for part in line.removeprefix("MMD² ").split(", "))
    assert after < 0.8 * before
    generator, provenance = load_generator(arguments.out)
    assert provenance["kimg"] == 1
    assert provenance["feature_matching"]["steps"] == 40
    assert str(arguments.reals.parent) not in str(provenance)
    old = load_generator(arguments.weights)[0]
    z = torch.randn(16, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        change = (generator(z) - old(z)).square().mean((0, 2, 3)).sqrt()
    assert change[3] < 0.5 * change[:3].max()  # alpha is held


def test_bad_input_is_one_line(arguments: argparse.Namespace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="needs at least two RGBA images"):
        read_reals(tmp_path / "empty", 16)
    cv2.imwrite(str(tmp_path / "reals" / "opaque.png"), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataError, match=r"opaque\.png"):
        read_reals(tmp_path / "reals", 16)
    config = GeneratorConfig(size_px=16, channels=3, z_dim=8, w_dim=8, channel_base=64, channel_max=8,
                             layers=4, margin=2)  # fmt: skip
    save_generator(Generator(config), tmp_path / "rgb.safetensors", {})
    arguments.weights = tmp_path / "rgb.safetensors"
    with pytest.raises(InputError, match=r"rgb\.safetensors: its images have no alpha"):
        run(arguments)
