"""Images for FID and KID: found, read, laid on backgrounds; their statistics kept."""

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
from stylematte.media.backdrop import Backdrop, identity_of, list_pictures
from stylematte.media.images import read_alpha, read_image
from training.data.layouts import NO_PHOTOS
from training.fid import Detector, FeatureError, Statistics, statistics
from training.synthesis.folder import REJECTED

log = logging.getLogger("stylematte")

_READERS = 4
MOST_NAMED = 5  # files that one line names
_CACHE_VERSION = 1  # of what the statistics depend on

Pixels = NDArray[np.uint8]
T = TypeVar("T")
Progress = Callable[[Iterator[T], int], Iterator[T]]  # passes on what it is given, and counts it


@dataclass(frozen=True)
class FidImages:
    """A folder of pictures, and what is behind those with an alpha.

    Attributes:
        folder: As given.
        files: Of the folder and its subfolders, sorted.
        backdrop: None drops an alpha.
    """

    folder: Path
    files: tuple[Path, ...]
    backdrop: Backdrop | None = None

    @classmethod
    def find(cls, folder: Path, backdrop: Backdrop | None) -> "FidImages":
        """List the pictures of a folder, but labels and what `stylematte synth` rejected.

        Raises:
            InputError: As `list_pictures`.
        """
        return cls(folder, list_pictures(folder, (*NO_PHOTOS, REJECTED)), backdrop)

    def read(self, path: Path) -> Pixels:
        """Read one picture as (H, W, 3) RGB, its alpha from the file or from alpha/ beside image/.

        Raises:
            InputError: It cannot be read, or its alpha has another size.
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
                raise InputError(f"{pair}: not of the size of {path}")
        if alpha is None:
            return pixels
        behind = self.backdrop.behind(path.relative_to(self.folder).as_posix())
        return np.asarray(composite(pixels, alpha, behind), np.uint8)

    def batches(self, size: int) -> Iterator[tuple[list[Path], NDArray[np.uint8]]]:
        """Yield all pictures, those of equal size together: files, and (N, 3, H, W), N at most `size`."""
        with ThreadPoolExecutor(_READERS) as pool:
            groups = [self.files[i : i + size] for i in range(0, len(self.files), size)]
            ready = [(path, pool.submit(self.read, path)) for path in groups[0]]
            for following in [*groups[1:], ()]:
                ahead = [(path, pool.submit(self.read, path)) for path in following]
                by_size: dict[tuple[int, ...], list[tuple[Path, Pixels]]] = defaultdict(list)
                for path, future in ready:
                    picture = future.result()
                    by_size[picture.shape].append((path, picture))
                for pairs in by_size.values():
                    paths, pictures = zip(*pairs, strict=True)
                    yield list(paths), np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
                ready = ahead

    def key(self, detector: Detector) -> str:
        """Hash of all that the statistics depend on."""
        files = [identity_of(path, self.folder) for path in self.files]
        if self.backdrop:
            files += [identity_of(p, self.folder) for p in sorted(self.folder.glob("**/alpha/*.png"))]
        behind = self.backdrop.facts() if self.backdrop else None
        facts = [_CACHE_VERSION, files, behind, detector.name, detector.sha256]
        return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogateescape")).hexdigest()


def read_statistics(
    pictures: FidImages,
    detector: Detector,
    keep_features: bool,
    batch_size: int,
    cache: bool,
    progress: Progress[Any],
) -> Statistics:
    """Run pictures through a detector, or read what that came to the last time.

    Raises:
        InputError: A picture cannot be read, or its features are no numbers: without it the score would be
            that of another set.
    """
    path = cache_folder() / "fid" / f"{pictures.key(detector)[:32]}.safetensors"
    kept = _load(path) if cache else None
    if kept is not None and (kept.features is not None or not keep_features):
        log.info("%s: statistics of %d pictures read from %s", pictures.folder, kept.count, path)
        return kept

    seen: list[Path] = []

    def batches() -> Iterator[Tensor]:
        count = -(-len(pictures.files) // batch_size)
        for paths, batch in progress(pictures.batches(batch_size), count):
            seen.extend(paths)
            yield torch.from_numpy(batch)

    try:
        found = statistics(detector, batches(), keep_features)
    except FeatureError as error:
        named = [str(seen[place]) for place in error.places]
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        raise InputError(
            f"{', '.join(named[:MOST_NAMED])}{more}: the detector makes features of it that are no numbers",
            "Leave such pictures out, or give another --detector",
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
        log.warning("%s: kept statistics that cannot be read are made anew: %s", path, error)
        return None


def _keep(path: Path, found: Statistics) -> None:
    tensors = {"total": found.total, "products": found.products, "count": torch.tensor(found.count)}
    if found.features is not None:
        tensors["features"] = found.features
    try:
        write_bytes(path, save(tensors))
    except InputError as error:  # the score is there all the same
        log.warning("statistics are not kept: %s", error.message)
