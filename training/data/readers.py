"""Data sets as they lie on disk: pictures with masks, hair maps or alphas, cut-outs, and plain photos."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from training.data.layouts import LAYOUTS, NO_PHOTOS, Layout
from training.data.masks import Meaning, meaning_of, to_full_range

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class DataError(InputError):
    """A data root, set or file that cannot be used; the message names it."""


@dataclass(frozen=True)
class Sample:
    """One picture and the files that say something about it.

    Attributes:
        folder: Name of the data set.
        image: Photo, or an RGBA cut-out when `labels` is empty and the set holds cut-outs.
        labels: Label files by what they are, e.g. {"mask": …, "hair": …} or {"alpha": …, "trimap": …}.
        below: Folder within the set, where it has several: names need be unique in one folder alone.
    """

    folder: str
    image: Path
    labels: dict[str, Path]
    below: str = ""

    @property
    def key(self) -> str:
        """Name that is unique over all sets: folder/stem, or folder/below/stem."""
        return "/".join(part for part in (self.folder, self.below, self.image.stem) if part)


@dataclass
class Listing:
    """What lies in the folders of one set, fitting or not.

    Attributes:
        folder: The set's own folder, or the data root where the set lies in that.
        places: Folders with pictures.
        pictures: (below, file), see `Sample.below`; sorted.
        labels: Label → (below, stem) → file, for labels that have a folder.
        unlisted: Names in the set's own list of which there is no picture.
    """

    folder: Path
    places: list[Path]
    pictures: list[tuple[str, Path]] = field(default_factory=list)
    labels: dict[str, dict[tuple[str, str], Path]] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)


def is_held_out(key: str, every: int) -> bool:
    """Whether a sample belongs to the held-out part, one in `every`; with `every` = 0 none does.

    A hash of its name says so: it never moves.
    """
    return every > 0 and zlib.crc32(key.encode()) % every == 0


def list_set(root: Path, name: str, layout: str | Layout = "plain") -> Listing:
    """Find the files of one data set, without a look at whether they fit together.

    Args:
        root: Folder that holds the sets.
        name: Folder of the set below `root`.
        layout: How its files lie: a name of `LAYOUTS`, or a layout of one's own.

    Raises:
        DataError: No such folder, or it does not look like the layout.
    """
    rules = _rules(layout)
    base = root / name
    places = _places(base, rules.pictures) or _places(root, rules.beside)
    if not places:
        if not base.is_dir():
            raise DataError(f"{base}: no such data set folder")
        how = next((name for name, known in LAYOUTS.items() if known is rules), rules.about)
        raise DataError(f"{base}: not laid out as {how}; it has none of {', '.join(rules.pictures)}")
    found = Listing(base if base.is_dir() else root, places)
    for place in places:
        # Of several folders each has names of its own, and folders below each again.
        below = "" if len(places) == 1 else place.parent.name
        files = _images_in(place, rules.nested)
        found.pictures += [("/".join([below, *f.relative_to(place).parts[:-1]]).strip("/"), f) for f in files]
        if place == base:
            continue  # a flat folder: what lies beside it are other sets
        for label, names in rules.labels.items():
            folder = next((place.parent / n for n in names if (place.parent / n).is_dir()), None)
            if folder is not None and folder != place:
                labels = found.labels.setdefault(label, {})
                labels |= {(below, p.stem): p for p in _images_in(folder)}
    if rules.listed:
        _keep_listed(found, rules.listed)
    return found


def read_set(root: Path, name: str, layout: str | Layout = "plain") -> list[Sample]:
    """List one data set.

    Args:
        root: Folder that holds the sets.
        name: Folder of the set below `root`.
        layout: How its files lie: a name of `LAYOUTS`, or a layout of one's own.

    Returns:
        Samples in name order. Label files match by stem; a picture that lacks a label that others of its set
        have is an error, since training on half of a set by accident is worse than stopping.

    Raises:
        DataError: No such folder, no pictures, or pictures without their labels.
    """
    found, rules = list_set(root, name, layout), _rules(layout)
    if not found.pictures:
        flat = " and no image/ folder in it" if layout == "plain" and found.places == [found.folder] else ""
        raise DataError(f"{found.places[0]}: no pictures{flat or ' in it'}")
    if found.unlisted:
        raise DataError(
            f"{found.folder}: {len(found.unlisted)} pictures of {rules.listed} are not there, "
            f"first {found.unlisted[0]}"
        )
    if lacking := [label for label in rules.needs if label not in found.labels]:
        names = ", ".join(rules.labels[lacking[0]])
        raise DataError(f"{found.places[0]}: no {lacking[0]} beside it; looked for a folder {names}")
    for label in found.labels:
        if lonely := lonely_pictures(found, label, rules):
            raise DataError(f"{found.folder}: {len(lonely)} pictures have no {label}, first {lonely[0].name}")
    return samples_of(found, name, rules)


def samples_of(found: Listing, name: str, rules: Layout) -> list[Sample]:
    """Join pictures with the labels there are."""
    samples = []
    for below, picture in found.pictures:
        labels = {kind: label_of(files, below, picture, rules) for kind, files in found.labels.items()}
        there = {kind: path for kind, path in labels.items() if path is not None}
        samples.append(Sample(name, picture, there, below))
    return samples


def lonely_pictures(found: Listing, label: str, rules: Layout) -> list[Path]:
    """Pictures that lack a label."""
    files = found.labels[label]
    return [p for below, p in found.pictures if label_of(files, below, p, rules) is None]


def label_of(files: dict[tuple[str, str], Path], below: str, picture: Path, rules: Layout) -> Path | None:
    """The label file of a picture, if there is one."""
    path = files.get((below, picture.stem))
    if path is None and rules.numbered:
        path = files.get((below, picture.stem.rpartition("_")[0]))
    return path


def has_set(root: Path, name: str, layout: str | Layout = "plain") -> bool:
    """Whether a set lies below the data root, or where its layout may lie besides."""
    rules = _rules(layout)
    return bool(_places(root / name, rules.pictures) or _places(root, rules.beside))


def _rules(layout: str | Layout) -> Layout:
    return LAYOUTS[layout] if isinstance(layout, str) else layout


def _places(base: Path, patterns: tuple[str, ...]) -> list[Path]:
    for pattern in patterns:
        # Not by glob where it is a plain path: an empty pattern or "." is none.
        found = sorted(base.glob(pattern)) if "*" in pattern else [base / pattern]
        if folders := [path for path in found if path.is_dir()]:
            return folders
    return []


def _images_in(folder: Path, nested: bool = False) -> list[Path]:
    inside = folder.rglob("*") if nested else folder.iterdir()
    pictures = [p for p in inside if p.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(p for p in pictures if not any(map(_is_passed_over, p.relative_to(folder).parts)))


def _is_passed_over(part: str) -> bool:
    # Archives packed on a Mac bring a file ._x.jpg, which is no picture, for each x.jpg.
    return part.startswith(".") or part in NO_PHOTOS


def _keep_listed(found: Listing, name: str) -> None:
    """Leave the pictures that a set's own list names, where there is one."""
    parents = [parent for place in found.places for parent in (place.parent, place.parent.parent)]
    lists = [parent / name for parent in parents if (parent / name).is_file()]
    if not lists:
        return
    lines = lists[0].read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = {Path(line.strip()).stem for line in lines} - {""}
    found.pictures = [(below, p) for below, p in found.pictures if p.stem in wanted]
    found.unlisted = sorted(wanted - {p.stem for _, p in found.pictures})


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
    image = read_pixels(path, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_cutout(path: Path) -> NDArray[np.uint8]:
    """Read a cut-out as (H, W, 4) uint8 RGBA, its colours as stored.

    Raises:
        DataError: The file cannot be decoded, or is something else.
    """
    rgba = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise DataError(f"{path}: not an RGBA cut-out of 8 bits a channel")
    return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_BGRA2RGBA), np.uint8)


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Read a picture's brightness as (H, W) uint8; see `read_rgb`."""
    return np.asarray(read_pixels(path, cv2.IMREAD_GRAYSCALE, "label"), np.uint8)


def read_label(path: Path) -> NDArray[np.uint8]:
    """Read a mask, hair map or alpha as (H, W) uint8 from 0 to 255.

    A mask in other numbers, 0 and 1 say, is scaled: see `training.data.masks`. All that trains, solves,
    scores or checks reads labels here.

    Raises:
        DataError: The file cannot be decoded, or is a map of classes.
    """
    label = read_plane(path)
    return to_full_range(label, label_meaning(label, path))


def label_meaning(label: NDArray[np.uint8], path: Path) -> Meaning:
    """What the values of a label mean that was read by `read_plane`.

    Raises:
        DataError: They are classes; the message has the values.
    """
    meaning = meaning_of(label)
    if meaning.kind == "map":
        listed = ", ".join(map(str, meaning.values[:8])) + (", ..." if len(meaning.values) > 8 else "")
        raise DataError(
            f"{path}: a map of classes (values {listed}), neither a mask nor an alpha; write the subject as "
            "255 and all else as 0"
        )
    return meaning


def read_plane(path: Path) -> NDArray[np.uint8]:
    """Read channel 0 of a label as it is, (H, W) uint8, as the public sets' own code does; see `read_rgb`."""
    label = read_pixels(path, cv2.IMREAD_ANYCOLOR, "label")  # one channel where the file has one
    return np.asarray(label if label.ndim == 2 else np.ascontiguousarray(label[..., 2]), np.uint8)


def read_pixels(path: Path, flags: int, what: str = "picture") -> NDArray[Any]:
    """Decode a file as OpenCV has it.

    Args:
        path: The file.
        flags: `cv2.IMREAD_…`.
        what: It is called in messages.

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        pixels = cv2.imread(str(path), flags)
    except cv2.error:  # more pixels than OpenCV reads, or than there is memory for
        raise DataError(f"{path}: too large a {what} to be read") from None
    if pixels is None:
        raise DataError(f"{path}: not a {what} that can be read")
    return pixels
