"""Photos drawn for tests: soft discs whose alpha is known, on textured ground."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.config import DataSet, Recipe, Stage
from training.data.readers import Sample

PEOPLE, CUTOUTS, BACKGROUNDS = "people_drawn", "cutouts_drawn", "backgrounds_drawn"
HELD_OUT_EVERY = 4  # of ten photos some two

# The kernel kills it where the state is half on disk: flushed, and not yet renamed.
DIES_WHILE_SAVING = """
import os, signal, sys
sync, calls = os.fsync, []
def fsync(file):
    calls.append(file)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(file)
os.fsync = fsync
from stylematte_cli.app import main
sys.exit(main(sys.argv[1:]))
"""

TOML = f"""
preset = "test"
seed = 3
held_out_every = {HELD_OUT_EVERY}
sets = [
    {{ folder = "{PEOPLE}", kind = "photos", share = 0.6, band = "hair" }},
    {{ folder = "{CUTOUTS}", kind = "cutouts", share = 0.3 }},
    {{ folder = "{BACKGROUNDS}", kind = "backgrounds", share = 0.1 }},
]
[[stages]]
name = "segmentation"
steps = 6
batch_size = 4
side = [64, 96]
learning_rate = 5e-3
warmup_steps = 2
coarse = {{ bce = 1.0, dice = 1.0 }}

[[stages]]
name = "matting"
steps = 4
batch_size = 2
side = [64, 96]
guide_scale = 1.25
learning_rate = 2e-3
warmup_steps = 1
fine = {{ l2 = 1.0, laplacian = 1.0 }}
"""


def soft_disc(size: tuple[int, int], centre: tuple[float, float], radius: float, soft: float) -> NDArray:
    """Alpha (H, W) float64: 1 inside, 0 outside, falling linearly over `soft` pixels around `radius`."""
    y, x = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(y - centre[0], x - centre[1])
    return np.clip((radius - distance) / soft + 0.5, 0, 1)


def texture(rng: np.random.Generator, size: tuple[int, int], colour: NDArray, spread: float = 12) -> NDArray:
    """(H, W, 3) float64 in [0, 255]: a colour with smooth noise."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, (*size, 3)), (0, 0), 2)
    return np.clip(colour + spread * noise / noise.std(), 0, 255)


def sample_image(rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """A warm disc on cold ground: image (H, W, 3) uint8 RGB, alpha (H, W) float64, its foreground colours."""
    size = tuple(rng.integers(96, 161, 2).tolist())
    radius = rng.uniform(0.25, 0.38) * min(size)
    centre = (rng.uniform(0.4, 0.6) * size[0], rng.uniform(0.4, 0.6) * size[1])
    alpha = soft_disc(size, centre, radius, rng.uniform(2, 5))
    foreground = texture(rng, size, np.array([210, rng.uniform(60, 140), 60]))
    background = texture(rng, size, np.array([50, rng.uniform(80, 140), 180]))
    image = alpha[..., None] * foreground + (1 - alpha[..., None]) * background
    return np.round(image).astype(np.uint8), alpha, np.round(foreground).astype(np.uint8)


def save(path: Path, image: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[
        image.ndim if image.ndim == 2 else image.shape[2]
    ]
    assert cv2.imwrite(str(path), image if order is None else cv2.cvtColor(image, order))


def draw_sets(root: Path) -> Path:
    """Write the three sets of `recipe` below `root`: photos with mask and hair, cut-outs, backgrounds."""
    rng = np.random.default_rng(5)
    for number in range(10):
        image, alpha, _ = sample_image(rng)
        mask = np.uint8(255) * (alpha > 0.5)
        hair = mask.copy()
        hair[len(hair) // 3 :] = 0
        for kind, pixels in (("image", image), ("mask", mask), ("hair", hair)):
            save(root / PEOPLE / kind / f"photo_{number}.png", pixels)
    for number in range(6):
        _, alpha, foreground = sample_image(rng)
        rgba = np.dstack([foreground, np.round(alpha * 255).astype(np.uint8)])
        save(root / CUTOUTS / f"cut_{number}.png", rgba)
        ground = texture(rng, (110, 140), rng.uniform(40, 160, 3))
        save(root / BACKGROUNDS / f"ground_{number}.png", np.round(ground).astype(np.uint8))
    return root


def recipe(*stages: Stage, seed: int = 3) -> Recipe:
    """The sets of `draw_sets`, with stages of one's own."""
    sets = (
        DataSet(PEOPLE, "photos", 0.6, band="hair"),
        DataSet(CUTOUTS, "cutouts", 0.3),
        DataSet(BACKGROUNDS, "backgrounds", 0.1),
    )
    return Recipe("test", sets, stages, seed, HELD_OUT_EVERY)


def sample(folder: str, number: int) -> Sample:
    """A sample without labels, of which no file need be there."""
    return Sample(folder, Path(f"{number}.png"), {})
