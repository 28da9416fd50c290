"""Scenes for a refiner's training crops: photos with alphas, cut-outs, and rendered strands.

The folder contains `photos/` and `cutouts/` with RGBA images whose fourth channel is alpha (a photo's colours
include its background; a cut-out's are the subject's), and `backgrounds/`. Files are named `set+stem`; one in
ten is held out, by `training.data.readers.is_held_out` of "set/stem".
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
_DRAWN_PX = (700, 1250)  # sides of rendered scenes
_QUEUE = 6


@dataclass
class Scene:
    """One image on the device.

    Attributes:
        image: (1, 3, H, W) float32 RGB in [0, 1].
        alpha: (1, 1, H, W).
        kind: "photo", "composite", "fur" or "drawn".
    """

    image: Tensor
    alpha: Tensor
    kind: str


def read_folder(folder: Path, held_out: bool, every: int = 1) -> list[NDArray[np.uint8]]:
    """Read one image in `every` of a folder's training or held-out part, (H, W, 3 or 4) uint8."""
    paths = [
        path
        for path in sorted(folder.iterdir())
        if is_held_out(path.stem.replace("+", "/", 1), HELD_OUT_EVERY) == held_out
    ]
    if not paths:
        raise DataError(f"{folder}: no images")
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(_read, paths[::every]))


def _read(path: Path) -> NDArray[np.uint8]:
    pixels = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return read_cutout(path)
    return read_rgb(path)


class Scenes:
    """Samples random scenes.

    Args:
        root: The folder.
        held_out: Use the held-out part.
        device: Device of the scenes.
    """

    def __init__(self, root: Path, held_out: bool, device: torch.device) -> None:
        self.device = device
        self.photos = read_folder(root / "photos", held_out)
        self.cutouts = read_folder(root / "cutouts", held_out)
        self.backgrounds = read_folder(root / "backgrounds", held_out)

    def photo(self, index: int, scale: float, replace: bool) -> Scene:
        """Return a photo, or its subject on another background."""
        image, alpha = self._on_device(self.photos[index], scale)
        if replace:
            image = composed(blur_fusion(image, alpha), alpha, self.background(alpha))
        return Scene(image, alpha, "composite" if replace else "photo")

    def fur(self, index: int, scale: float) -> Scene:
        """Return a cut-out on a background."""
        image, alpha = self._on_device(self.cutouts[index], scale)
        return Scene(composed(image, alpha, self.background(alpha)), alpha, "fur")

    def drawn(self, pixels: NDArray[np.uint8]) -> Scene:
        """Return a scene from a `Drawer`'s result, (H, W, 4)."""
        return Scene(*self._on_device(pixels, 1.0), "drawn")

    def random(self) -> Scene:
        """Return a random photo, composite or fur scene."""
        kind, scale = random.random(), 2 ** random.uniform(-0.3, 1.0)
        if kind < 0.12:
            return self.fur(random.randrange(len(self.cutouts)), scale)
        return self.photo(random.randrange(len(self.photos)), scale, replace=kind < 0.55)

    def background(self, like: Tensor) -> Tensor:
        """Return (1, 3, H, W) of another image, of the size of `like`."""
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
    """Composite a foreground over a background."""
    return alpha * foreground + (1 - alpha) * background


def blur_fusion(image: Tensor, alpha: Tensor) -> Tensor:
    """Estimate the foreground colours.

    Reference:
        Forte, "Approximate Fast Foreground Colour Estimation", 2021.
    """
    foreground, background = image, image
    for reduction in (8, 1):  # a box of 7 px is cheap; one of 56 px works on a downsampled copy

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
    """Render a scene with its alpha, (H, W, 4); see `training.refinement.strands`."""
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
    """Processes that render strands until it is closed.

    Args:
        root: The folder of images.
        processes: Number of processes.
        seed: Seed of the first drawing.
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
        """Return the next drawing, (H, W, 4) uint8, or None if none is ready."""
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def close(self) -> None:
        """Terminate the processes."""
        for worker in self._workers:
            worker.terminate()
