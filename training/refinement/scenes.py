"""Scenes to cut a refiner's training crops from: photos with alphas, cut-outs, and drawn strands.

A folder holds `photos/` and `cutouts/`, RGBA pictures whose fourth channel is alpha (the photo's colours are
whole; a cut-out's are the subject's), and `backgrounds/`. A file is named `set+stem`: one in ten is held out,
as `training.data.readers.is_held_out` says of "set/stem".
"""

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training.data.readers import DataError, is_held_out, read_cutout, read_pixels, read_rgb
from training.refinement.strands import draw

HELD_OUT_EVERY = 10
_DRAWN_PX = (700, 1250)  # sides of drawn scenes
_QUEUE = 6


@dataclass
class Scene:
    """One picture on the device.

    Attributes:
        image: (1, 3, H, W) float32 RGB in [0, 1].
        alpha: (1, 1, H, W).
        kind: What it is: "photo", "composite", "fur" or "drawn".
    """

    image: Tensor
    alpha: Tensor
    kind: str


def read_folder(folder: Path, held_out: bool, every: int = 1) -> list[NDArray[np.uint8]]:
    """Read one picture in `every` of a folder's training part or its held-out one, (H, W, 3 or 4) uint8."""
    paths = [
        path
        for path in sorted(folder.iterdir())
        if is_held_out(path.stem.replace("+", "/", 1), HELD_OUT_EVERY) == held_out
    ]
    if not paths:
        raise DataError(f"{folder}: no pictures")
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(_read, paths[::every]))


def _read(path: Path) -> NDArray[np.uint8]:
    pixels = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return read_cutout(path)
    return read_rgb(path)


class Scenes:
    """Draws scenes at random.

    Args:
        root: The folder.
        held_out: Take the held-out part.
        device: Where scenes go.
    """

    def __init__(self, root: Path, held_out: bool, device: torch.device) -> None:
        self.device = device
        self.photos = read_folder(root / "photos", held_out)
        self.cutouts = read_folder(root / "cutouts", held_out)
        self.backgrounds = read_folder(root / "backgrounds", held_out)

    def photo(self, index: int, scale: float, replace: bool) -> Scene:
        """A photo as it is, or its subject before another background."""
        image, alpha = self._on_device(self.photos[index], scale)
        if replace:
            image = composed(blur_fusion(image, alpha), alpha, self.background(alpha))
        return Scene(image, alpha, "composite" if replace else "photo")

    def fur(self, index: int, scale: float) -> Scene:
        """A cut-out before a background."""
        image, alpha = self._on_device(self.cutouts[index], scale)
        return Scene(composed(image, alpha, self.background(alpha)), alpha, "fur")

    def drawn(self, pixels: NDArray[np.uint8]) -> Scene:
        """What a `Drawer` gave, (H, W, 4)."""
        return Scene(*self._on_device(pixels, 1.0), "drawn")

    def random(self) -> Scene:
        """A photo, a composite or fur."""
        kind, scale = random.random(), 2 ** random.uniform(-0.3, 1.0)
        if kind < 0.12:
            return self.fur(random.randrange(len(self.cutouts)), scale)
        return self.photo(random.randrange(len(self.photos)), scale, replace=kind < 0.55)

    def background(self, like: Tensor) -> Tensor:
        """(1, 3, H, W) of another picture, large enough for `like`."""
        pixels = random.choice(self.backgrounds if random.random() < 0.75 else self.photos)[..., :3]
        if random.random() < 0.5:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        image = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float() / 255
        height, width = like.shape[-2:]
        least = max(height / image.shape[2], width / image.shape[3])
        if least < 1:
            top, left = (
                random.randint(0, s - n) for s, n in zip(image.shape[2:], (height, width), strict=True)
            )
            return image[..., top : top + height, left : left + width]
        size = [int(np.ceil(side * least)) for side in image.shape[2:]]
        grown = F.interpolate(image, size, mode="bicubic").clamp(0, 1)
        return grown[..., :height, :width]

    def _on_device(self, pixels: NDArray[np.uint8], scale: float) -> tuple[Tensor, Tensor]:
        both = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float() / 255
        most = (1.6e6 / (both.shape[2] * both.shape[3])) ** 0.5
        scale = max(min(scale, most), 256 / min(both.shape[2:]))
        if abs(scale - 1) > 0.05:
            both = F.interpolate(both, scale_factor=scale, mode="bicubic", antialias=True).clamp(0, 1)
        return both[:, :3], both[:, 3:]


def composed(foreground: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Lay a foreground over a background."""
    return alpha * foreground + (1 - alpha) * background


def blur_fusion(image: Tensor, alpha: Tensor) -> Tensor:
    """Estimate the foreground's colours.

    Reference:
        Forte, "Approximate Fast Foreground Colour Estimation", 2021.
    """
    foreground, background = image, image
    for reduction in (8, 1):  # a box of 7 pixels is cheap, and one of 56 by way of a small copy

        def mean(x: Tensor, reduction: int = reduction) -> Tensor:
            small = F.avg_pool2d(x, reduction, ceil_mode=True, count_include_pad=False)
            small = F.avg_pool2d(small, 7, 1, 3, count_include_pad=False)
            return F.interpolate(small, x.shape[-2:], mode="bilinear")

        share = mean(alpha)
        near_foreground = mean(foreground * alpha) / (share + 1e-5)
        background = mean(background * (1 - alpha)) / (1 - share + 1e-5)
        left = image - alpha * near_foreground - (1 - alpha) * background
        foreground = (near_foreground + alpha * left).clamp(0, 1)
    return foreground


def draw_one(
    seed: int, backgrounds: list[NDArray[np.uint8]], textures: list[NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """(H, W, 4): a drawn scene and its alpha; see `training.refinement.strands`."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(*_DRAWN_PX, 2)
    pixels = backgrounds[rng.integers(len(backgrounds))][..., :3]
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    size = (int(np.ceil(pixels.shape[1] * scale)), int(np.ceil(pixels.shape[0] * scale)))
    grown = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)[:height, :width]
    grain = rng.normal(0, rng.uniform(0, 5), grown.shape)
    background = np.clip(grown + grain, 0, 255).astype(np.uint8)
    drawing = draw(rng, background, textures[rng.integers(len(textures))][..., :3])
    return np.dstack([drawing.image, drawing.alpha])


def _draw_on(seed: int, root: Path, queue: Any) -> None:
    cv2.setNumThreads(1)
    backgrounds = read_folder(root / "backgrounds", held_out=False)
    textures = read_folder(root / "photos", held_out=False, every=8) + backgrounds[::4]
    while True:
        queue.put(draw_one(seed, backgrounds, textures))
        seed += 1


class Drawer:
    """Processes that draw strands for as long as it is open.

    Args:
        root: The folder of pictures.
        processes: How many.
        seed: Of the first drawing.
    """

    def __init__(self, root: Path, processes: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue(_QUEUE)
        self._workers = [
            context.Process(target=_draw_on, args=(seed + 1_000_000 * k, root, self._queue), daemon=True)
            for k in range(processes)
        ]
        for worker in self._workers:
            worker.start()

    def take(self) -> NDArray[np.uint8] | None:
        """The next drawing, (H, W, 4) uint8; None while there is none yet."""
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.terminate()
