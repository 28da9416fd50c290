"""Inspect the files of one sample, for `training.data.check`."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.headers import read_size
from training.data.masks import border_coverage, coverage, to_full_range
from training.data.near_duplicates import difference_hash
from training.data.readers import DataError, Sample, label_meaning, read_cutout, read_grey, read_plane

Pixels = NDArray[np.uint8]

MAX_PX = 1 << 28  # each worker decodes a whole image: 800 MB at this size


@dataclass(frozen=True)
class InspectionTask:
    """What to inspect, and how thoroughly.

    Attributes:
        sample: The sample.
        decodes_all: Decode image and labels, and hash the image.
        decodes_labels: Decode only the labels.
        is_cutout: The image has an alpha channel.
    """

    sample: Sample
    decodes_all: bool
    decodes_labels: bool
    is_cutout: bool = False


@dataclass
class Inspection:
    """Findings for one sample.

    Attributes:
        problems: Files that cannot be used, and why.
        size: (height, width) of the image; None if it cannot be used.
        empty: Labels that are 0 everywhere.
        full: Labels that are 255 everywhere.
        is_hard: Whether its alpha contains only 0 and 255; None if not decoded.
        decoded: Number of decoded labels.
        scaled: Masks with values other than 0 and 255, and their values.
        covered: Fraction of the image that its mask or alpha covers; None if not decoded.
        border: The same fraction for the outermost pixels.
        odd_values: Values of its trimap other than 0, 128 and 255.
        hash: Difference hash of the image, see `training.data.near_duplicates`.
    """

    problems: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None
    empty: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    is_hard: bool | None = None
    decoded: int = 0
    scaled: dict[str, tuple[int, ...]] = field(default_factory=dict)
    covered: float | None = None
    border: float = 0.0
    odd_values: list[int] = field(default_factory=list)
    hash: NDArray[np.bool_] | None = None


def inspect(task: InspectionTask) -> Inspection:
    """Inspect one sample."""
    found = Inspection()
    try:
        found.size = _inspect_image(task, found)
    except (DataError, OSError) as error:
        found.problems.append(str(error))
    for kind, path in task.sample.labels.items():
        try:
            size = _header_size(path)
            label = read_plane(path) if size is None or task.decodes_all or task.decodes_labels else None
        except (DataError, OSError) as error:
            found.problems.append(str(error))
            continue
        size = size if label is None else label.shape
        if found.size is not None and size != found.size:
            found.problems.append(f"{path}: size {size}, but its image has {found.size}")
        if label is not None:
            try:
                _inspect_label(kind, path, label, found)
            except DataError as error:
                found.problems.append(str(error))
    return found


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        size = read_size(path)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if size is not None and size[0] * size[1] > MAX_PX:
        raise DataError(
            f"{path}: {size[0]}x{size[1]} (height x width) is too large for training; scale it down"
        )
    return size


def _inspect_image(task: InspectionTask, found: Inspection) -> tuple[int, int]:
    path = task.sample.image
    size = _header_size(path)
    if task.is_cutout and (task.decodes_all or task.decodes_labels):
        rgba = read_cutout(path)
        _inspect_label("alpha", path, np.ascontiguousarray(rgba[..., 3]), found)
        return rgba.shape[0], rgba.shape[1]
    if size is not None and not task.decodes_all:
        return size
    grey = read_grey(path)
    found.hash = difference_hash(grey)
    return grey.shape[0], grey.shape[1]


def _inspect_label(kind: str, path: Path, label: Pixels, found: Inspection) -> None:
    """Inspect all pixels of a label.

    Raises:
        DataError: The label is a class map.
    """
    found.decoded += 1
    if kind == "trimap":
        found.odd_values = [int(v) for v in np.unique(label) if v not in (0, 128, 255)]
        return
    if kind == "weight":  # a confidence of any values, read as it is
        return
    meaning = label_meaning(label, path)
    if meaning.kind == "mask":
        found.scaled[kind] = meaning.values
        label = to_full_range(label, meaning)
    if kind == "hair":
        return
    is_hard = not ((label > 0) & (label < 255)).any()
    if is_hard and not label.any():
        found.empty.append(kind)
    elif is_hard and label.all():
        found.full.append(kind)
    if kind == "alpha":
        found.is_hard = is_hard
    found.covered, found.border = coverage(label), border_coverage(label)
