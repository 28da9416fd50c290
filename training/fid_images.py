"""Images for FID and KID: find, read and composite them, and cache their statistics."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stylematte.errors import InputError
from stylematte.files import cache_folder, write_bytes
from stylematte.imaging.compose import composite
from stylematte.imaging.geometry import convert
from stylematte.media.backdrop import Backdrop, identity_of, list_images
from stylematte.media.images import read_alpha, read_image
from training.data.layouts import NO_PHOTOS
from training.fid import Detector, FeatureError, Statistics, statistics
from training.synthesis.folder import REJECTED

log = logging.getLogger("stylematte")

_READERS = 4
MAX_NAMED = 5  # files named in one line
_CACHE_VERSION = 1  # increase when the computation of the statistics changes

Pixels = NDArray[np.uint8]
T = TypeVar("T")
Progress = Callable[[Iterator[T], int], Iterator[T]]  # yields its input and counts it


@dataclass(frozen=True)
class FidImages:
    """A folder of images, and the background for those with an alpha.

    Attributes:
        folder: The folder, as given.
        files: Images in the folder and its subfolders, sorted.
        backdrop: Background for images with an alpha; None ignores the alpha.
    """

    folder: Path
    files: tuple[Path, ...]
    backdrop: Backdrop | None = None

    @classmethod
    def find(cls, folder: Path, backdrop: Backdrop | None) -> "FidImages":
        """List the images of a folder, except labels and images rejected by `stylematte synth`.

        Raises:
            InputError: See `list_images`.
        """
        return cls(folder, list_images(folder, (*NO_PHOTOS, REJECTED)), backdrop)

    def read(self, path: Path) -> Pixels:
        """Read an image as (H, W, 3) RGB, with its alpha from the file or from alpha/ beside image/.

        Raises:
            InputError: The image cannot be read, or its alpha has another size.
        """
        photo = read_image(path)
        pixels = convert(photo.pixels, np.uint8)
        if self.backdrop is None:
            return pixels
        alpha: NDArray[Any] | None = photo.alpha
        pair = path.parent.with_name("alpha") / f"{path.stem}.png"
        if alpha is None and path.parent.name == "image" and pair.is_file():
            alpha = read_alpha(pair)
            if alpha.shape != pixels.shape[:2]:
                raise InputError(f"{pair}: its size differs from {path}")
        if alpha is None:
            return pixels
        behind = self.backdrop.behind(path.relative_to(self.folder).as_posix())
        return np.asarray(composite(pixels, alpha, behind), np.uint8)

    def batches(self, size: int) -> Iterator[tuple[list[Path], NDArray[np.uint8]]]:
        """Yield all images, grouped by size: files, and (N, 3, H, W) with N at most `size`."""
        with ThreadPoolExecutor(_READERS) as pool:
            groups = [self.files[i : i + size] for i in range(0, len(self.files), size)]
            ready = [(path, pool.submit(self.read, path)) for path in groups[0]]
            for following in [*groups[1:], ()]:
                ahead = [(path, pool.submit(self.read, path)) for path in following]
                by_size: dict[tuple[int, ...], list[tuple[Path, Pixels]]] = defaultdict(list)
                for path, future in ready:
                    image = future.result()
                    by_size[image.shape].append((path, image))
                for pairs in by_size.values():
                    paths, images = zip(*pairs, strict=True)
                    yield list(paths), np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
                ready = ahead

    def key(self, detector: Detector) -> str:
        """Return a hash of everything that the statistics depend on."""
        files = [identity_of(path, self.folder) for path in self.files]
        if self.backdrop:
            files += [identity_of(p, self.folder) for p in sorted(self.folder.glob("**/alpha/*.png"))]
        behind = self.backdrop.facts() if self.backdrop else None
        facts = [_CACHE_VERSION, files, behind, detector.name, detector.sha256]
        return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogateescape")).hexdigest()


def read_statistics(
    images: FidImages,
    detector: Detector,
    keep_features: bool,
    batch_size: int,
    cache: bool,
    progress: Progress[Any],
) -> Statistics:
    """Compute the statistics of images with a feature extractor, or read them from the cache.

    Raises:
        InputError: An image cannot be read, or its features are not finite; leaving it out would score
            another set.
    """
    path = cache_folder() / "fid" / f"{images.key(detector)[:32]}.safetensors"
    kept = _load(path) if cache else None
    if kept is not None and (kept.features is not None or not keep_features):
        log.info("%s: statistics of %d images read from %s", images.folder, kept.count, path)
        return kept

    seen: list[Path] = []

    def batches() -> Iterator[Tensor]:
        count = -(-len(images.files) // batch_size)
        for paths, batch in progress(images.batches(batch_size), count):
            seen.extend(paths)
            yield torch.from_numpy(batch)

    try:
        found = statistics(detector, batches(), keep_features)
    except FeatureError as error:
        named = [str(seen[place]) for place in error.places]
        more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
        raise InputError(
            f"{', '.join(named[:MAX_NAMED])}{more}: the detector returns features that are not finite",
            "Remove these images, or use another --detector",
        ) from None
    if cache:
        _keep(path, found)
    return found


def _load(path: Path) -> Statistics | None:
    try:
        tensors = load(path.read_bytes())
        kept = Statistics(
            tensors["total"], tensors["products"], int(tensors["count"]), tensors.get("features")
        )
        return kept if kept.is_finite else None
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        log.warning("%s: the cached statistics cannot be read and are recomputed: %s", path, error)
        return None


def _keep(path: Path, found: Statistics) -> None:
    tensors = {"total": found.total, "products": found.products, "count": torch.tensor(found.count)}
    if found.features is not None:
        tensors["features"] = found.features
    try:
        write_bytes(path, save(tensors))
    except InputError as error:  # the score itself is not affected
        log.warning("the statistics cannot be cached: %s", error.message)
