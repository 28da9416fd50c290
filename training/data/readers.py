"""Read data sets from disk: images with masks, hair maps or alphas, cut-outs, and plain photos."""

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
    """A data root, set or file cannot be used; the message names it."""


@dataclass(frozen=True)
class Sample:
    """One image and its label files.

    Attributes:
        folder: Name of the data set.
        image: Photo, or an RGBA cut-out if `labels` is empty and the set contains cut-outs.
        labels: Label files by type, e.g. {"mask": …, "hair": …} or {"alpha": …, "trimap": …}.
        below: Folder within the set, if it has several; names are only unique within a folder.
    """

    folder: str
    image: Path
    labels: dict[str, Path]
    below: str = ""

    @property
    def key(self) -> str:
        """Name that is unique across all sets: folder/stem, or folder/below/stem."""
        return "/".join(part for part in (self.folder, self.below, self.image.stem) if part)


@dataclass
class Listing:
    """The files in the folders of one set, matched or not.

    Attributes:
        folder: The set's own folder, or the data root if the set lies directly in it.
        places: Folders with images.
        images: (below, file), see `Sample.below`; sorted.
        labels: Label → (below, stem) → file, for labels that have a folder.
        missing: Names in the set's own list without an image.
    """

    folder: Path
    places: list[Path]
    images: list[tuple[str, Path]] = field(default_factory=list)
    labels: dict[str, dict[tuple[str, str], Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def is_held_out(key: str, every: int) -> bool:
    """Tell whether a sample is held out: one in `every`, or none if `every` is 0.

    A hash of its name decides, so the split never changes.
    """
    return every > 0 and zlib.crc32(key.encode()) % every == 0


def list_set(root: Path, name: str, layout: str | Layout = "plain") -> Listing:
    """List the files of one data set, without checking whether they match.

    Args:
        root: Folder of the sets.
        name: Folder of the set below `root`.
        layout: Layout of its files: a name in `LAYOUTS`, or a custom layout.

    Raises:
        DataError: The folder does not exist, or does not match the layout.
    """
    rules = _rules(layout)
    base = root / name
    places = _places(base, rules.images) or _places(root, rules.beside)
    if not places:
        if not base.is_dir():
            raise DataError(f"{base}: no such data set folder")
        how = next((name for name, known in LAYOUTS.items() if known is rules), rules.about)
        raise DataError(f"{base}: does not have the layout {how}: it has none of {', '.join(rules.images)}")
    found = Listing(base if base.is_dir() else root, places)
    for place in places:
        # With several folders, names are unique within each, and again within each subfolder.
        below = "" if len(places) == 1 else place.parent.name
        files = _images_in(place, rules.nested)
        found.images += [("/".join([below, *f.relative_to(place).parts[:-1]]).strip("/"), f) for f in files]
        if place == base:
            continue  # a flat folder: its siblings are other sets
        for label, names in rules.labels.items():
            folder = next((place.parent / n for n in names if (place.parent / n).is_dir()), None)
            if folder is not None and folder != place:
                labels = found.labels.setdefault(label, {})
                labels |= {(below, p.stem): p for p in _images_in(folder)}
    if rules.listed:
        _keep_listed(found, rules.listed)
    return found


def read_set(root: Path, name: str, layout: str | Layout = "plain") -> list[Sample]:
    """List the samples of one data set.

    Args:
        root: Folder of the sets.
        name: Folder of the set below `root`.
        layout: Layout of its files: a name in `LAYOUTS`, or a custom layout.

    Returns:
        Samples in name order. Label files match by stem. An image without a label that other images of its
        set have is an error, because training on half of a set by accident is worse than stopping.

    Raises:
        DataError: The folder does not exist, has no images, or has images without their labels.
    """
    found, rules = list_set(root, name, layout), _rules(layout)
    if not found.images:
        flat = " and no image/ folder in it" if layout == "plain" and found.places == [found.folder] else ""
        raise DataError(f"{found.places[0]}: no images{flat or ' in it'}")
    if found.missing:
        raise DataError(
            f"{found.folder}: {len(found.missing)} images of {rules.listed} are missing, "
            f"first {found.missing[0]}"
        )
    if lacking := [label for label in rules.needs if label not in found.labels]:
        names = ", ".join(rules.labels[lacking[0]])
        raise DataError(f"{found.places[0]}: no {lacking[0]} beside it; looked for a folder {names}")
    for label in found.labels:
        if unlabelled := images_without_label(found, label, rules):
            raise DataError(
                f"{found.folder}: {len(unlabelled)} images have no {label}, first {unlabelled[0].name}"
            )
    return samples_of(found, name, rules)


def samples_of(found: Listing, name: str, rules: Layout) -> list[Sample]:
    """Match images with their labels."""
    samples = []
    for below, image in found.images:
        labels = {kind: label_of(files, below, image, rules) for kind, files in found.labels.items()}
        there = {kind: path for kind, path in labels.items() if path is not None}
        samples.append(Sample(name, image, there, below))
    return samples


def images_without_label(found: Listing, label: str, rules: Layout) -> list[Path]:
    """Return the images that lack a label."""
    files = found.labels[label]
    return [p for below, p in found.images if label_of(files, below, p, rules) is None]


def label_of(files: dict[tuple[str, str], Path], below: str, image: Path, rules: Layout) -> Path | None:
    """Return the label file of an image, if it has one."""
    path = files.get((below, image.stem))
    if path is None and rules.numbered:
        path = files.get((below, image.stem.rpartition("_")[0]))
    return path


def has_set(root: Path, name: str, layout: str | Layout = "plain") -> bool:
    """Tell whether a set exists below the data root, or elsewhere if its layout allows."""
    rules = _rules(layout)
    return bool(_places(root / name, rules.images) or _places(root, rules.beside))


def _rules(layout: str | Layout) -> Layout:
    return LAYOUTS[layout] if isinstance(layout, str) else layout


def _places(base: Path, patterns: tuple[str, ...]) -> list[Path]:
    for pattern in patterns:
        # No glob for plain paths: an empty pattern and "." are not valid patterns.
        found = sorted(base.glob(pattern)) if "*" in pattern else [base / pattern]
        if folders := [path for path in found if path.is_dir()]:
            return folders
    return []


def _images_in(folder: Path, nested: bool = False) -> list[Path]:
    inside = folder.rglob("*") if nested else folder.iterdir()
    images = [p for p in inside if p.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(p for p in images if not any(map(_is_passed_over, p.relative_to(folder).parts)))


def _is_passed_over(part: str) -> bool:
    # Archives packed on a Mac bring a file ._x.jpg, which is no image, for each x.jpg.
    return part.startswith(".") or part in NO_PHOTOS


def _keep_listed(found: Listing, name: str) -> None:
    """Leave the images that a set's own list names, where there is one."""
    parents = [parent for place in found.places for parent in (place.parent, place.parent.parent)]
    lists = [parent / name for parent in parents if (parent / name).is_file()]
    if not lists:
        return
    lines = lists[0].read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = {Path(line.strip()).stem for line in lines} - {""}
    found.images = [(below, p) for below, p in found.images if p.stem in wanted]
    found.missing = sorted(wanted - {p.stem for _, p in found.images})


def split(samples: list[Sample], every: int) -> tuple[list[Sample], list[Sample]]:
    """Divide samples into (training, held out) by `is_held_out`."""
    training = [s for s in samples if not is_held_out(s.key, every)]
    held_out = [s for s in samples if is_held_out(s.key, every)]
    return training, held_out


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB.

    Raises:
        DataError: The file cannot be decoded.
    """
    image = read_pixels(path, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_cutout(path: Path) -> NDArray[np.uint8]:
    """Read a cut-out as (H, W, 4) uint8 RGBA, its colours as stored.

    Raises:
        DataError: The file cannot be decoded, or is not a cut-out.
    """
    rgba = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise DataError(f"{path}: not an RGBA cut-out with 8 bits per channel")
    return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_BGRA2RGBA), np.uint8)


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Read an image as grey, (H, W) uint8; see `read_rgb`."""
    return np.asarray(read_pixels(path, cv2.IMREAD_GRAYSCALE, "label"), np.uint8)


def read_label(path: Path) -> NDArray[np.uint8]:
    """Read a mask, hair map or alpha as (H, W) uint8 from 0 to 255.

    A mask with other values, such as 0 and 1, is scaled: see `training.data.masks`. Training, solving,
    scoring and checking all read labels with this function.

    Raises:
        DataError: The file cannot be decoded, or is a class map.
    """
    label = read_plane(path)
    return to_full_range(label, label_meaning(label, path))


def label_meaning(label: NDArray[np.uint8], path: Path) -> Meaning:
    """Return what the values of a label from `read_plane` mean.

    Raises:
        DataError: They are classes; the message lists the values.
    """
    meaning = meaning_of(label)
    if meaning.kind == "map":
        listed = ", ".join(map(str, meaning.values[:8])) + (", ..." if len(meaning.values) > 8 else "")
        raise DataError(
            f"{path}: a class map (values {listed}), not a mask or an alpha; set the subject to 255 and "
            "everything else to 0"
        )
    return meaning


def check_size(path: Path, label: NDArray[Any], image: NDArray[np.uint8]) -> None:
    """Check that a label, (H, W), has the size of its image, (H, W, 3).

    Raises:
        DataError: The sizes differ; the message names `path`, the label's file.
    """
    if label.shape != image.shape[:2]:
        raise DataError(f"{path}: size {label.shape}, but its image has {image.shape[:2]}")


def read_plane(path: Path) -> NDArray[np.uint8]:
    """Read channel 0 of a label unchanged, (H, W) uint8, like the public sets' own code; see `read_rgb`."""
    label = read_pixels(path, cv2.IMREAD_ANYCOLOR, "label")  # one channel if the file has only one
    return np.asarray(label if label.ndim == 2 else np.ascontiguousarray(label[..., 2]), np.uint8)


def read_pixels(path: Path, flags: int, what: str = "image") -> NDArray[Any]:
    """Decode a file with OpenCV.

    Args:
        path: The file.
        flags: `cv2.IMREAD_…`.
        what: Name of the content, for messages.

    Raises:
        DataError: The file cannot be decoded.
    """
    try:
        pixels = cv2.imread(str(path), flags)
    except cv2.error:  # more pixels than OpenCV or the memory allows
        raise DataError(f"{path}: this {what} is too large to read") from None
    if pixels is None:
        raise DataError(f"{path}: not a readable {what}")
    return pixels
