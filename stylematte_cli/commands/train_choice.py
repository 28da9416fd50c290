"""`stylematte train` without a recipe: choose a recipe that fits the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stylematte.errors import InputError

if TYPE_CHECKING:
    from training.config import DataSet
    from training.data.found import FoundSet
    from training.gan.config import ImageSet

FINETUNE, SCRATCH = "finetune", "scratch"  # recipes for any photos with masks
_NEEDS_GPU, _NEEDS_NO_GPU = ("stylematte",), ("nano",)  # recipes for public sets, best first
_GENERATORS = ("gan/faces-256", "gan/animals-512")


@dataclass(frozen=True)
class Choice:
    """A recipe, and the reason for choosing it.

    Attributes:
        recipe: Name of the recipe.
        why: The reason, in one sentence.
        found: Data sets below the data root.
        others: A line for each other recipe that fits.
    """

    recipe: str
    why: str
    found: "list[FoundSet]"
    others: list[str]


def choose_recipe(root: Path, has_gpu: bool, from_backbone: bool) -> Choice:
    """Choose a recipe for the data.

    Args:
        root: The data root, which may not exist.
        has_gpu: Whether a GPU is available; the large network needs one.
        from_backbone: Encoder weights were given, so own photos are trained from them, not from full weights.

    Raises:
        InputError: No recipe fits; the message lists what each recipe needs, and where to get it.
    """
    from training.data.found import find_sets

    found = find_sets(root)
    labelled = [one.folder for one in found if one.kind in ("photos", "mattes")]
    own = SCRATCH if from_backbone else FINETUNE
    reasons = {
        name: f"all of its data sets are in {root}" for name in _NEEDS_NO_GPU if not missing(name, root)
    }
    if labelled:
        named = "the photos" if labelled == ["."] else ", ".join(labelled)
        reasons[own] = f"it accepts any photos with masks or alphas: {named} in {root}"
    large = {name: f"all of its data sets are in {root}" for name in _NEEDS_GPU if not missing(name, root)}
    reasons = large | reasons if has_gpu else reasons
    reasons |= {
        name: f"all of its data sets are in {root}" for name in _GENERATORS if not missing(name, root)
    }
    if not reasons:
        raise InputError(
            f"{root}: {'no data set for any recipe' if root.is_dir() else 'no such folder'}",
            "Provide one of these",
            list(_what_is_missing(root)),
        )
    recipe, *others = reasons
    also = [f"{name} also fits: stylematte train {name}" for name in others]
    if not has_gpu:
        also += [f"{name} also fits, but needs a GPU: stylematte train {name}" for name in large]
    return Choice(recipe, reasons[recipe], found, also)


def missing(name: str, root: Path) -> "list[DataSet | ImageSet]":
    """Return the required sets of a recipe that do not exist below the data root."""
    from training.data.readers import has_set

    return [one for one in needed(name) if not has_set(root, one.folder, one.layout)]


def needed(name: str) -> "list[DataSet | ImageSet]":
    """Return the required sets of a recipe."""
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
    """Yield the missing sets of each recipe and where to get them; misnamed folders come first."""
    from training.data.found import misnamed

    for name, known in misnamed(root).items():
        yield f"{root / name} looks like {known}; rename it"
    yield (
        f"{FINETUNE}: photos in {root / 'NAME' / 'image'} and masks in {root / 'NAME' / 'mask'}, "
        "or --image DIR --mask DIR"
    )
    for name in (*_NEEDS_GPU, *_NEEDS_NO_GPU, *_GENERATORS):
        lacking = [one.folder for one in missing(name, root)]
        yield f"{name}: {', '.join(lacking)} ({where_to_get(name)})"


def where_to_get(name: str) -> str:
    """Return where to get the sets of a recipe."""
    from training.data.found import SOURCES

    places = {SOURCES[one.folder]: None for one in needed(name) if one.folder in SOURCES}
    return ", ".join(places) or "docs/training.md"
