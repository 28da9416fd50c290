"""Find data sets below a folder by their published names and layouts."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from training.config import DataSet, Recipe, SetKind
from training.data.readers import DataError, list_set, split
from training.data.subjects import read_data_set

# Folder → layout and kind; folders with other names are recognised by their content.
KNOWN: dict[str, tuple[str, SetKind]] = {
    "P3M-10k": ("p3m-10k", "mattes"),
    "AM-2k": ("am-2k", "mattes"),
    "BG-20k": ("bg-20k", "backgrounds"),
    "backgrounds": ("plain", "backgrounds"),
    "synthetic": ("plain", "cutouts"),
    "FFHQ": ("ffhq", "unlabelled"),
    "AFHQ-v2": ("photos", "unlabelled"),
}
# Where to get the public sets.
SOURCES = {
    "P3M-10k": "https://github.com/JizhiziLi/P3M",
    "AM-2k": "https://github.com/JizhiziLi/GFM",
    "BG-20k": "https://github.com/JizhiziLi/GFM",
    "FFHQ": "https://github.com/NVlabs/ffhq-dataset",
    "AFHQ-v2": "https://github.com/clovaai/stargan-v2",
    "synthetic": "stylematte synth --out ./data/synthetic",
}
_OTHER_SHARES: dict[SetKind, float] = {
    "cutouts": 0.2,
    "backgrounds": 0.05,
}  # relative to photos, whose shares sum to 1


@dataclass(frozen=True)
class FoundSet:
    """A data set that exists.

    Attributes:
        folder: Folder below the data root; "." is the root itself.
        layout: Layout of its files.
        kind: What it can be used for.
        images: Number of images.
    """

    folder: str
    layout: str
    kind: SetKind
    pictures: int

    def __str__(self) -> str:
        what = {"photos": "photos with masks", "mattes": "photos with alphas", "unlabelled": "photos"}
        return f"{self.folder}: {self.pictures} {what.get(self.kind, self.kind)}, layout {self.layout}"


def find_sets(root: Path) -> list[FoundSet]:
    """Find data sets: those known by name, and folders with image/ beside mask/ or alpha/.

    Args:
        root: The data root, which may be such a folder itself.

    Returns:
        Sets with at least one image, known ones first; an empty list if the root does not exist.
    """
    if not root.is_dir():
        return []
    found = [_count(root, folder, layout, kind) for folder, (layout, kind) in KNOWN.items()]
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name not in KNOWN]
    for folder in [".", *(name for name in folders if not name.startswith("."))]:
        if (root / folder / "image").is_dir():
            if (root / folder / "alpha").is_dir():
                found.append(_count(root, folder, "plain", "mattes"))
            elif (root / folder / "mask").is_dir():
                found.append(_count(root, folder, "plain", "photos"))
    return [one for one in found if one is not None]


def _count(root: Path, folder: str, layout: str, kind: SetKind) -> FoundSet | None:
    try:
        images = len(list_set(root, folder, layout).images)
    except DataError:
        return None
    return FoundSet(folder, layout, kind, images) if images else None


def misnamed(root: Path) -> dict[str, str]:
    """Return folders whose name nearly matches a known set → the correct name."""
    if not root.is_dir():
        return {}
    plain = {_plain_name(name): name for name in KNOWN}
    there = {path.name for path in root.iterdir() if path.is_dir()}
    near = {name: plain.get(_plain_name(name)) for name in sorted(there - set(KNOWN))}
    return {name: known for name, known in near.items() if known and known not in there}


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def own_sets(found: list[FoundSet]) -> tuple[DataSet, ...]:
    """Return the sets for a recipe without sets: all found sets with labels, and backgrounds.

    Sets with photos are sampled in proportion to the square root of their size, so that small sets count.
    """
    roots = {one.folder: one.pictures**0.5 for one in found if one.kind in ("photos", "mattes")}
    shares = {folder: round(root / sum(roots.values()), 2) or 0.01 for folder, root in roots.items()}
    return tuple(
        DataSet(one.folder, one.kind, shares.get(one.folder, _OTHER_SHARES.get(one.kind, 0.0)), one.layout)
        for one in found
        if one.folder in shares or one.kind in _OTHER_SHARES
    )


def with_sets(recipe: Recipe, root: Path, sets: tuple[DataSet, ...]) -> Recipe:
    """Return a recipe with the given sets.

    With few photos more than one in ten is held out, so that at least one can be scored.

    Args:
        recipe: Recipe without sets.
        root: The data root.
        sets: Sets, at least one of them with labelled photos.

    Raises:
        DataError: A set cannot be read, or is too small to split.
    """
    counts = {s.folder: read_data_set(root, s) for s in sets if s.kind in ("photos", "mattes")}
    for every in (recipe.held_out_every, 5, 4, 3, 2):
        parts = [split(samples, every) for samples in counts.values()]
        if all(trained for trained, _ in parts) and any(held_out for _, held_out in parts):
            return dataclasses.replace(recipe, sets=sets, held_out_every=every)
    few = ", ".join(f"{len(samples)} in {folder}" for folder, samples in counts.items())
    raise DataError(f"{root}: too few photos to split into training and held-out parts: {few}")
