"""A look at the files of one sample, for `training.data.check`."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.headers import read_size
from training.data.masks import border_coverage, coverage, to_full_range
from training.data.near_duplicates import brightness_signs
from training.data.readers import DataError, Sample, label_meaning, read_cutout, read_grey, read_plane

Pixels = NDArray[np.uint8]

MOST_PX = 1 << 28  # each worker decodes a whole picture: 800 MB of this one


@dataclass(frozen=True)
class Look:
    """How closely to look.

    Attributes:
        sample: At what.
        decodes_all: At every pixel, and at what the picture looks like.
        decodes_labels: At the pixels of its labels.
        is_cutout: Its alpha is a channel of the picture.
    """

    sample: Sample
    decodes_all: bool
    decodes_labels: bool
    is_cutout: bool = False


@dataclass
class Seen:
    """What was found.

    Attributes:
        problems: Files that cannot be used, and why.
        size: (height, width) of the picture; None where it cannot be used.
        empty: Labels that are 0 all over.
        full: Labels that are 255 all over.
        is_hard: Whether its alpha has no value between 0 and 255; None where that was not looked at.
        decoded: Labels of which every pixel was looked at.
        scaled: Masks in other numbers than 0 and 255, and in which.
        covered: Share of the picture that its mask or alpha covers; None where that was not looked at.
        border: The same of the outermost pixels alone.
        odd_values: Values of its trimap besides 0, 128 and 255.
        signs: What it looks like, see `training.data.near_duplicates`.
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
    signs: NDArray[np.bool_] | None = None


def look_at(look: Look) -> Seen:
    """Look at one sample."""
    seen = Seen()
    try:
        seen.size = _look_at_picture(look, seen)
    except (DataError, OSError) as error:
        seen.problems.append(str(error))
    for kind, path in look.sample.labels.items():
        try:
            size = _header_size(path)
            label = read_plane(path) if size is None or look.decodes_all or look.decodes_labels else None
        except (DataError, OSError) as error:
            seen.problems.append(str(error))
            continue
        size = size if label is None else label.shape
        if seen.size is not None and size != seen.size:
            seen.problems.append(f"{path}: size {size}, its picture has {seen.size}")
        if label is not None:
            try:
                _look_into(kind, path, label, seen)
            except DataError as error:
                seen.problems.append(str(error))
    return seen


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        size = read_size(path)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if size is not None and size[0] * size[1] > MOST_PX:
        raise DataError(
            f"{path}: {size[0]}x{size[1]} (height x width) is too large to train on; scale it down"
        )
    return size


def _look_at_picture(look: Look, seen: Seen) -> tuple[int, int]:
    path = look.sample.image
    size = _header_size(path)
    if look.is_cutout and (look.decodes_all or look.decodes_labels):
        rgba = read_cutout(path)
        _look_into("alpha", path, np.ascontiguousarray(rgba[..., 3]), seen)
        return rgba.shape[0], rgba.shape[1]
    if size is not None and not look.decodes_all:
        return size
    grey = read_grey(path)
    seen.signs = brightness_signs(grey)
    return grey.shape[0], grey.shape[1]


def _look_into(kind: str, path: Path, label: Pixels, seen: Seen) -> None:
    """Look at every pixel of a label.

    Raises:
        DataError: It is a map of classes.
    """
    seen.decoded += 1
    if kind == "trimap":
        seen.odd_values = [int(v) for v in np.unique(label) if v not in (0, 128, 255)]
        return
    meaning = label_meaning(label, path)
    if meaning.kind == "mask":
        seen.scaled[kind] = meaning.values
        label = to_full_range(label, meaning)
    if kind == "hair":
        return
    is_hard = not ((label > 0) & (label < 255)).any()
    if is_hard and not label.any():
        seen.empty.append(kind)
    elif is_hard and label.all():
        seen.full.append(kind)
    if kind == "alpha":
        seen.is_hard = is_hard
    seen.covered, seen.border = coverage(label), border_coverage(label)
