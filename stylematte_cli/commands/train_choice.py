"""`stylematte train` without a recipe: looks at the data, and takes the recipe that fits."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stylematte.errors import InputError

if TYPE_CHECKING:
    from training.config import DataSet
    from training.data.found import FoundSet
    from training.gan.config import ImageSet

FINETUNE, SCRATCH = "finetune", "scratch"  # recipes that take any photos with masks
_NEEDS_GPU, _NEEDS_NO_GPU = ("stylematte",), ("nano",)  # recipes of public sets, the better one first
_GENERATORS = ("gan/faces-256", "gan/animals-512")


@dataclass(frozen=True)
class Choice:
    """A recipe, and why it is this one.

    Attributes:
        recipe: Its name.
        why: One sentence.
        found: What lies below the data root.
        others: A line for each other recipe that fits.
    """

    recipe: str
    why: str
    found: "list[FoundSet]"
    others: list[str]


def choose_recipe(root: Path, has_gpu: bool, from_backbone: bool) -> Choice:
    """Look at the data, and choose.

    Args:
        root: The data root; may be missing.
        has_gpu: Whether the run will have a GPU; the large network is hopeless without.
        from_backbone: Encoder weights were named: with photos of one's own, nothing else is begun with.

    Raises:
        InputError: Nothing fits; the message says what each recipe lacks, and where that is had.
    """
    from training.data.found import find_sets

    found = find_sets(root)
    labelled = [one.folder for one in found if one.kind in ("photos", "mattes")]
    own = SCRATCH if from_backbone else FINETUNE
    reasons = {name: f"all that it needs is in {root}" for name in _NEEDS_NO_GPU if not missing(name, root)}
    if labelled:
        named = "the photos" if labelled == ["."] else ", ".join(labelled)
        reasons[own] = f"it takes any photos with masks or alphas: {named} in {root}"
    large = {name: f"all that it needs is in {root}" for name in _NEEDS_GPU if not missing(name, root)}
    reasons = large | reasons if has_gpu else reasons
    reasons |= {name: f"all that it needs is in {root}" for name in _GENERATORS if not missing(name, root)}
    if not reasons:
        raise InputError(
            f"{root}: {'no data set that a recipe takes' if root.is_dir() else 'no such folder'}",
            "One of these is needed",
            list(_what_is_missing(root)),
        )
    recipe, *others = reasons
    also = [f"{name} fits, too: stylematte train {name}" for name in others]
    if not has_gpu:
        also += [f"{name} fits, too, but takes a GPU: stylematte train {name}" for name in large]
    return Choice(recipe, reasons[recipe], found, also)


def missing(name: str, root: Path) -> "list[DataSet | ImageSet]":
    """Sets that a recipe cannot do without and that are not below the data root."""
    from training.data.readers import has_set

    return [one for one in needed(name) if not has_set(root, one.folder, one.layout)]


def needed(name: str) -> "list[DataSet | ImageSet]":
    """Sets that a recipe cannot do without."""
    from training.config import load_recipe
    from training.data.subjects import needed_sets
    from training.gan.config import load_gan_recipe
    from training.recipe_files import trains_generator

    if trains_generator(name):
        return list(load_gan_recipe(name).sets)
    recipe = load_recipe(name)
    stages = [stage for stage in recipe.stages if not stage.optional]
    folders = {s.folder for stage in stages for s in needed_sets(recipe, stage)}
    return [s for s in recipe.sets if s.folder in folders]


def _what_is_missing(root: Path) -> Iterator[str]:
    """For each recipe what it lacks and where that is had; the folders that only need another name first."""
    from training.data.found import misnamed

    for name, known in misnamed(root).items():
        yield f"{root / name} looks like {known}: rename it"
    yield (
        f"{FINETUNE}: photos in {root / 'NAME' / 'image'} and masks in {root / 'NAME' / 'mask'}, "
        "or --image DIR --mask DIR"
    )
    for name in (*_NEEDS_GPU, *_NEEDS_NO_GPU, *_GENERATORS):
        lacking = [one.folder for one in missing(name, root)]
        yield f"{name}: {', '.join(lacking)} ({where_had(name)})"


def where_had(name: str) -> str:
    """Where the sets of a recipe are had."""
    from training.data.found import SOURCES

    places = {SOURCES[one.folder]: None for one in needed(name) if one.folder in SOURCES}
    return ", ".join(places) or "docs/training.md"
