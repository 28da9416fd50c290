"""Drawn portraits and a recipe so small that a run of it takes a second."""

from pathlib import Path

import cv2
import numpy as np

from tests.training import drawn
from training.gan.config import GanRecipe, load_gan_recipe

FACES, BACKGROUNDS = "faces_drawn", "backgrounds_drawn"
TOML = f"""
kimg = 0.08
batch_size = 8
snapshot_kimg = 0.04
score_pictures = 8
seed = 5

[[sets]]
folder = "{FACES}"

[generator]
size_px = 16
z_dim = 8
w_dim = 8
channel_base = 64
channel_max = 8
layers = 4
margin = 2

[discriminator]
channel_base = 64
channel_max = 8
r1_gamma = 0.5
r1_every = 3

[augmentation]
mode = "ada"
p = 0.2
kimg = 0.2
"""


def draw_faces(root: Path, count: int = 12) -> Path:
    """Write photos with alphas of their own, and a few backgrounds, below `root`."""
    rng = np.random.default_rng(7)
    for number in range(count):
        image, alpha, _ = drawn.sample_image(rng)
        drawn.save(root / FACES / "image" / f"face_{number}.png", image)
        drawn.save(root / FACES / "alpha" / f"face_{number}.png", np.round(alpha * 255).astype(np.uint8))
    for number in range(3):
        drawn.save(root / BACKGROUNDS / f"{number}.jpg", rng.integers(0, 256, (24, 32, 3), np.uint8))
    return root


def load(folder: Path, text: str = TOML) -> GanRecipe:
    """The recipe that a text describes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.toml"
    path.write_text(text)
    return load_gan_recipe(str(path))


def read_rgba(path: Path) -> np.ndarray:
    """(H, W, 4) uint8 RGBA."""
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
