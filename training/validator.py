"""What scores a network during a run: validation sets, or the held-out split of the recipe's own sets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from models.stylematte import StyleMatte
from training.config import Recipe, RecipeError
from training.held_out import HeldOutSplit, Shown
from training.teacher import Teacher
from training.validation import ValidationSets

PER_SET = 30  # held-out images


class Validator(Protocol):
    """Scores a network and compares scores."""

    def score(self, model: StyleMatte, side: float) -> dict[str, float]:
        """Return scores by name; `side` as in `Stage.side`."""

    def error(self, scores: dict[str, float]) -> float:
        """Return a single number, lower is better."""

    def headline(self, scores: dict[str, float]) -> dict[str, float]:
        """Return the scores for a progress line; the log has all of them."""

    def shown(self) -> Iterable[Shown]:
        """Yield images for the previews."""


def make_validator(
    recipe: Recipe, root: Path, mattes: Path, per_set: int = PER_SET, teacher: Teacher | None = None
) -> Validator:
    """Make the validator of a recipe.

    Args:
        recipe: With `validation` sets; otherwise the held-out split of its sets is scored.
        root: Folder of the data sets.
        mattes: Folder of prepared mattes.
        per_set: Maximum number of held-out images per set.
        teacher: Labels unlabelled photos.

    Raises:
        DataError: No images are held out.
        RecipeError: A set has no labels and there is no teacher.
    """
    if teacher is None and (unlabelled := [s.folder for s in recipe.sets if s.kind == "unlabelled"]):
        raise RecipeError(f"{unlabelled[0]}: its photos have no labels; give a teacher")
    if recipe.validation:
        return ValidationSets(root, recipe)
    return HeldOutSplit(root, recipe, mattes, per_set, teacher)
