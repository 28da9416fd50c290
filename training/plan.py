"""Plan a run from a recipe and a data root: its stages, its numbers of images, and its steps."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from training.config import DataSet, Recipe, Stage
from training.data.readers import DataError, has_set, split
from training.data.subjects import needed_sets, read_data_set


@dataclass(frozen=True)
class TrainingPlan:
    """A recipe prepared for the available data.

    Attributes:
        recipe: The stages that run, each with its steps, and the sets that they sample.
        images: Folder → number of training images.
        held_out: Folder → number of held-out images.
        skipped: A line for every skipped stage.
    """

    recipe: Recipe
    pictures: dict[str, int]
    held_out: dict[str, int]
    skipped: tuple[str, ...]


def make_plan(recipe: Recipe, root: Path) -> TrainingPlan:
    """Inspect the data, and fill in what the recipe leaves open.

    An optional stage is skipped if a set is missing that only it needs. A recipe that is already prepared
    does not change.

    Args:
        recipe: The recipe.
        root: Folder of the data sets.

    Raises:
        DataError: A set that a stage needs is missing or has no images.
    """
    stages, skipped = [], []
    required = {s for stage in recipe.stages if not stage.optional for s in _folders(recipe, stage)}
    for stage in recipe.stages:
        rest = [s for s in needed_sets(recipe, stage) if s.folder not in required]
        missing = [s.folder for s in rest if not has_set(root, s.folder, s.rules)]
        if stage.optional and missing:
            skipped.append(f"stage {stage.name} skipped: {root / missing[0]} does not exist")
        else:
            stages.append(stage)
    if not stages:
        raise DataError(f"{root}: nothing to run; {'; '.join(skipped)}")
    folders = {s for stage in stages for s in _folders(recipe, stage)}
    sets = tuple(s for s in recipe.sets if s.folder in folders)
    parts = {s.folder: split(read_data_set(root, s), recipe.held_out_every) for s in sets}
    images, held_out = ({folder: len(part[i]) for folder, part in parts.items()} for i in (0, 1))
    ready = dataclasses.replace(recipe, sets=sets, stages=tuple(stages))
    with_steps = (_with_steps(stage, drawn_sets(ready, stage), images) for stage in stages)
    ready = dataclasses.replace(ready, stages=tuple(_known_shares(stage, sets) for stage in with_steps))
    return TrainingPlan(ready, images, held_out, tuple(skipped))


def drawn_sets(recipe: Recipe, stage: Stage) -> list[DataSet]:
    """Return the sets that a stage samples."""
    return [s for s in recipe.sets if stage.shares.get(s.folder, s.share) > 0]


def _folders(recipe: Recipe, stage: Stage) -> list[str]:
    return [s.folder for s in needed_sets(recipe, stage)]


def _with_steps(stage: Stage, drawn: list[DataSet], images: dict[str, int]) -> Stage:
    """Replace a stage's epochs by steps; an epoch has as many images as its sets with subjects."""
    if not stage.epochs:
        return stage
    in_an_epoch = sum(images[s.folder] for s in drawn if s.kind != "backgrounds")
    steps = max(1, math.ceil(stage.epochs * in_an_epoch / stage.batch_size))
    return dataclasses.replace(stage, steps=steps, epochs=0.0)


def _known_shares(stage: Stage, sets: tuple[DataSet, ...]) -> Stage:
    """Remove a stage's shares of sets that are not used."""
    folders = {s.folder for s in sets}
    return dataclasses.replace(stage, shares={f: s for f, s in stage.shares.items() if f in folders})
