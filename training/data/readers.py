"""Data sets as they lie on disk: pictures with masks, hair maps or alphas, cut-outs, and plain photos."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.layouts import LAYOUTS

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LABEL_FOLDERS = ("mask", "hair", "alpha", "trimap")


class DataError(ValueError):
    """A data root, set or file that cannot be used; the message names it."""


@dataclass(frozen=True)
class Sample:
    """One picture and the files that say something about it.

    Attributes:
        folder: Name of the data set.
        image: Photo, or an RGBA cut-out when `labels` is empty and the set holds cut-outs.
        labels: Label files by folder name, e.g. {"mask": …, "hair": …}.
    """

    folder: str
    image: Path
    labels: dict[str, Path]

    @property
    def key(self) -> str:
        """Name that is unique over all sets: folder/stem."""
        return f"{self.folder}/{self.image.stem}"


def is_held_out(key: str, every: int) -> bool:
    """Whether a sample belongs to the held-out part: a hash of its name, so it never moves. 0: none is."""
    return every > 0 and zlib.crc32(key.encode()) % every == 0


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def read_set(root: Path, name: str, layout: str = "plain") -> list[Sample]:
    """List one data set: `name/image/` beside label folders, or a flat folder of pictures.

    Args:
        root: Folder that holds the sets.
        name: Folder of the set below `root`.
        layout: How its files lie, a name of `training.data.layouts.LAYOUTS`.

    Returns:
        Samples in name order. Label files match by stem; a picture that lacks a label that others of its set
        have is an error, since training on half of a set by accident is worse than stopping.

    Raises:
        DataError: No such folder, no pictures, or pictures without their labels.
    """
    if layout not in LAYOUTS:
        raise DataError(f"{name}: layout {layout!r} is none of {', '.join(LAYOUTS)}")
    base = root / name
    if not base.is_dir():
        raise DataError(f"{base}: no such data set folder")
    image_folder = base / "image"
    if not image_folder.is_dir():
        samples = [Sample(name, path, {}) for path in _images_in(base)]
        if not samples:
            raise DataError(f"{base}: no pictures and no image/ folder in it")
        return samples
    images = _images_in(image_folder)
    if not images:
        raise DataError(f"{image_folder}: no pictures in it")
    labels = {
        kind: {p.stem: p for p in _images_in(base / kind)} for kind in LABEL_FOLDERS if (base / kind).is_dir()
    }
    for kind, files in labels.items():
        lonely = [p.name for p in images if p.stem not in files]
        if lonely:
            raise DataError(f"{base}: {len(lonely)} pictures have no {kind}, first {lonely[0]}")
    return [Sample(name, p, {kind: files[p.stem] for kind, files in labels.items()}) for p in images]


def split(samples: list[Sample], every: int) -> tuple[list[Sample], list[Sample]]:
    """Divide samples into (training, held out) by `is_held_out`."""
    training = [s for s in samples if not is_held_out(s.key, every)]
    held_out = [s for s in samples if is_held_out(s.key, every)]
    return training, held_out


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (H, W, 3) uint8 RGB.

    Raises:
        DataError: The file cannot be decoded.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: not a picture that can be read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Read a label as (H, W) uint8; see `read_rgb`."""
    label = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if label is None:
        raise DataError(f"{path}: not a label that can be read")
    return np.asarray(label, np.uint8)
