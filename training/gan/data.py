"""Real images for a generator: square photos with an alpha, at its size."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.gan.layers import send
from training.data.pseudo_alpha import cached_paths
from training.data.readers import (
    DataError,
    Sample,
    check_size,
    has_set,
    read_cutout,
    read_label,
    read_pixels,
    read_plane,
    read_rgb,
    read_set,
    split,
)
from training.gan.config import GanRecipe, ImageSet

Pixels = NDArray[np.uint8]
IN_MEMORY_BYTES = 2**31  # sets up to this size are kept in memory


class Source(NamedTuple):
    """A photo and its alpha file, which is None if the photo has four channels.

    `is_made` marks an alpha from a network, which is never a mask that needs scaling.
    """

    image: Path
    alpha: Path | None
    is_made: bool = False


def list_samples(recipe: GanRecipe, root: Path) -> list[Sample]:
    """List the samples that a recipe trains on.

    If none of its sets exists below the data root, the root itself is used as a folder of photos.

    Args:
        recipe: Names the sets.
        root: Folder of the data sets.

    Raises:
        DataError: A set is missing, has no images, or all of them are held out.
    """
    sets = [s for s in recipe.sets if has_set(root, s.folder, s.layout)]
    if not sets and root.is_dir():
        here = ImageSet(root.resolve().name)
        if (root / "image").is_dir() or any(p.is_file() for p in root.iterdir()):
            return _trained(read_set(root.resolve().parent, here.folder), recipe, root)
    samples = [sample for s in recipe.sets for sample in read_set(root, s.folder, s.layout)]
    return _trained(samples, recipe, root)


def _trained(samples: list[Sample], recipe: GanRecipe, root: Path) -> list[Sample]:
    training = split(samples, recipe.held_out_every)[0]
    if not training:
        raise DataError(f"{root}: all of its images are held out, so none are left to train on")
    return training


def without_alpha(samples: list[Sample], mattes: Path) -> list[Sample]:
    """Return the samples without alpha: no fourth channel, no file in alpha/ and no prepared matte."""
    return [s for s in samples if find_source(s, mattes) is None]


def find_source(sample: Sample, mattes: Path) -> Source | None:
    """Return a sample's source, or None if it has no alpha.

    Args:
        sample: Sample from `list_samples`.
        mattes: Folder of prepared mattes, `<set>/<stem>.alpha.png`.
    """
    if "alpha" in sample.labels:
        return Source(sample.image, sample.labels["alpha"])
    prepared = cached_paths(sample, mattes)["alpha"]
    if prepared.exists():
        return Source(sample.image, prepared, is_made=True)
    return Source(sample.image, None) if _has_four_channels(sample.image) else None


def _has_four_channels(path: Path) -> bool:
    if path.suffix.lower() in (".jpg", ".jpeg", ".bmp"):
        return False
    if path.suffix.lower() == ".png":  # colour type 6 in its IHDR header
        with path.open("rb") as file:
            return file.read(26)[25:26] == b"\x06"
    try:
        image = read_pixels(path, cv2.IMREAD_UNCHANGED)
    except DataError:
        return False
    return image.ndim == 3 and image.shape[2] == 4


def read_rgba(source: Source, size_px: int) -> Pixels:
    """Read the centre square of an image at a given size, with straight (not premultiplied) colours.

    Returns:
        (4, size_px, size_px) uint8 RGBA.

    Raises:
        DataError: A file cannot be read, or the alpha has another shape than the photo.
    """
    if source.alpha is None:
        rgba = read_cutout(source.image)
    else:
        image = read_rgb(source.image)
        alpha = read_plane(source.alpha) if source.is_made else read_label(source.alpha)
        check_size(source.alpha, alpha, image)
        rgba = np.dstack([image, alpha])
    return fit_square(np.asarray(rgba, np.uint8), size_px)


def fit_square(image: Pixels, size_px: int) -> Pixels:
    """Crop the centre square of (H, W, C) and resize it to (C, size_px, size_px), with area averaging."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side >= size_px else cv2.INTER_CUBIC
    small = cv2.resize(square, (size_px, size_px), interpolation=interpolation)
    return np.ascontiguousarray(small.transpose(2, 0, 1), np.uint8)


class EndlessImages(Dataset[Tensor]):
    """An endless sequence of images, (C, size_px, size_px) uint8, shuffled anew in every epoch.

    Image i of a run is always the same, so a resumed run continues exactly.

    Args:
        read: Image number → (C, size_px, size_px) uint8.
        count: Number of images.
        mirror: Add a mirrored copy of every image.
        seed: Seed of the order.
        item_bytes: Size of one image; small sets are kept in memory.
    """

    def __init__(
        self, read: Callable[[int], Pixels], count: int, mirror: bool, seed: int, item_bytes: int
    ) -> None:
        self.read, self.count, self.mirror, self.seed = read, count, mirror, seed
        self.kept: Pixels | None = None
        self.order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
        if count * item_bytes <= IN_MEMORY_BYTES:
            with ThreadPoolExecutor(4) as pool:
                self.kept = np.stack(list(pool.map(read, range(count))))

    def __getitem__(self, index: int) -> Tensor:
        number = self._number(index)
        image = self.image(number % self.count)
        return torch.from_numpy(np.ascontiguousarray(image[..., ::-1]) if number >= self.count else image)

    def _number(self, index: int) -> int:
        """Return the image number at a position of the sequence; from `count` on they are mirrored."""
        epoch, place = divmod(index, self.count * (2 if self.mirror else 1))
        if self.order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self.order = (epoch, rng.permutation(self.count * (2 if self.mirror else 1)))
        return int(self.order[1][place])

    def batches(self, numbers: Iterable[list[int]], device: torch.device) -> Iterator[Tensor]:
        """Yield batches (N, C, H, H) uint8 of a set in memory, from a copy on the device."""
        kept = torch.from_numpy(self.kept).to(device)
        for indices in numbers:
            chosen = torch.tensor([self._number(index) for index in indices])
            images = kept[send(chosen % self.count, device)]
            if self.mirror:
                is_mirrored = send(chosen >= self.count, device)[:, None, None, None]
                images = torch.where(is_mirrored, images.flip(-1), images)
            yield images

    def image(self, number: int) -> Pixels:
        """Return an image by its number, not mirrored."""
        return self.read(number) if self.kept is None else self.kept[number]


def real_images(recipe: GanRecipe, root: Path, mattes: Path) -> EndlessImages:
    """Return the real images of a recipe, (4, size_px, size_px) uint8 RGBA.

    Raises:
        DataError: See `list_samples` and `read_rgba`; or a photo has no alpha.
    """
    samples = list_samples(recipe, root)
    found = [find_source(sample, mattes) for sample in samples]
    sources = [source for source in found if source is not None]
    if len(sources) < len(samples):
        missing = samples[found.index(None)]
        raise DataError(f"{missing.image}: it has no alpha, and no matte in {mattes}")
    size = recipe.generator.size_px
    seed = zlib.crc32(f"real {recipe.seed}".encode())
    read = _Reader(sources, size)
    return EndlessImages(read, len(sources), recipe.mirror, seed, 4 * size * size)


def background_images(recipe: GanRecipe, root: Path) -> EndlessImages | None:
    """Return backgrounds for composites, (3, size_px, size_px) uint8 RGB; None if the set is missing."""
    one, size = recipe.backgrounds, recipe.generator.size_px
    if one is None or not has_set(root, one.folder, one.layout):
        return None
    images = [sample.image for sample in read_set(root, one.folder, one.layout)]
    seed = zlib.crc32(f"backgrounds {recipe.seed}".encode())
    return EndlessImages(_BackgroundReader(images, size), len(images), recipe.mirror, seed, 3 * size * size)


class _Reader:
    """Reads real images; a class instead of a closure, so that it can be sent to worker processes."""

    def __init__(self, sources: list[Source], size_px: int) -> None:
        self.sources, self.size_px = sources, size_px

    def __call__(self, number: int) -> Pixels:
        return read_rgba(self.sources[number], self.size_px)


class _BackgroundReader:
    def __init__(self, images: list[Path], size_px: int) -> None:
        self.images, self.size_px = images, size_px

    def __call__(self, number: int) -> Pixels:
        return fit_square(read_rgb(self.images[number]), self.size_px)
