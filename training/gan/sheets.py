"""Sample grids of a run: real images, and generated images from the same noise every time."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.gan.generator import Generator, rgba_of
from training.gan.config import GanRecipe
from training.gan.data import EndlessImages

COLUMNS, ROWS = 8, 6
TRUNCATIONS = (-1.0, -0.7, -0.4, -0.1, 0.1, 0.4, 0.7, 1.0)  # 0 gives the mean image for any noise
TRUNCATED = 4  # noise vectors on a truncation sheet
_BATCH = 8  # images generated at once
_CHECKER = (90.0, 165.0)  # dark and light squares


class SampleGrids:
    """Writes a run's sample grids.

    Args:
        out: Run folder, for sheets/reals.png, sheets/<kimg>.png and sheets/<kimg>_truncation.png.
        recipe: Sets size and seed.
    """

    def __init__(self, out: Path, recipe: GanRecipe) -> None:
        self.folder = out / "sheets"
        random = torch.Generator().manual_seed(recipe.seed)
        self.z = torch.randn(COLUMNS * ROWS, recipe.generator.z_dim, generator=random)

    def draw_reals(self, reals: EndlessImages) -> None:
        """Write a grid of real images, spread evenly over the set."""
        numbers = np.linspace(0, reals.count - 1, min(COLUMNS * ROWS, reals.count)).astype(int)
        images = torch.from_numpy(np.stack([reals.image(int(n)) for n in numbers]))
        _write(self.folder / "reals.png", checker_sheet(images.float() / 255, COLUMNS))

    def draw(self, generator: Generator, seen: int) -> dict[str, Path]:
        """Write a grid of generated images after `seen` real images, and rows of different truncation.

        Returns:
            The two files, by content.
        """
        name = name_at(seen)
        files = {"sheet": self.folder / f"{name}.png", "truncation": self.folder / f"{name}_truncation.png"}
        _write(files["sheet"], checker_sheet(draw(generator, self.z, 1.0), COLUMNS))
        z = self.z[:TRUNCATED].repeat_interleave(len(TRUNCATIONS), 0)
        psi = torch.tensor(TRUNCATIONS).repeat(TRUNCATED)
        _write(files["truncation"], checker_sheet(draw(generator, z, psi), len(TRUNCATIONS)))
        return files


def name_at(seen: int) -> str:
    """Return the file stem after `seen` real images: thousands, and the remainder if it is not 0."""
    return f"{seen // 1000:06d}" + (f".{seen % 1000:03d}" if seen % 1000 else "")


@torch.inference_mode()
def draw(generator: Generator, z: Tensor, truncation: float | Tensor) -> Tensor:
    """Generate images from noise, a few at once.

    Args:
        generator: Generator in evaluation mode.
        z: (N, z_dim) float32, on the CPU.
        truncation: One value for all, or (N,).

    Returns:
        (N, 4, H, H) float32 straight RGBA in [0, 1], on the CPU.
    """
    device = next(generator.parameters()).device
    psi = torch.full((len(z),), truncation) if isinstance(truncation, float) else truncation
    parts = zip(z.split(_BATCH), psi.split(_BATCH), strict=True)
    return torch.cat([rgba_of(generator(a.to(device), b.to(device))).cpu() for a, b in parts])


def checker_sheet(images: Tensor, columns: int) -> NDArray[np.uint8]:
    """Arrange images in rows over a checkerboard.

    Args:
        images: (N, 4, H, W) float32 straight RGBA in [0, 1].
        columns: Images per row.

    Returns:
        (rows · H, columns · W, 3) uint8 RGB; empty places show the checkerboard.
    """
    count, _, height, width = images.shape
    rows = -(-count // columns)
    square = max(2, height // 8)
    y, x = np.mgrid[: rows * height, : columns * width] // square
    board = np.where((x + y) % 2, *_CHECKER)[..., None].repeat(3, 2)
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = (number // columns) * height, (number % columns) * width
        place = board[top : top + height, left : left + width]
        place[:] = image[..., 3:] * image[..., :3] * 255 + (1 - image[..., 3:]) * place
    return np.round(board).clip(0, 255).astype(np.uint8)


def _write(path: Path, sheet: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
