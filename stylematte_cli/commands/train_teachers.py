"""`stylematte train --teacher`: select the teacher weights, and label photos with models before a run."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stylematte.errors import InputError, MissingError
from stylematte_cli.commands.options import start_log
from stylematte_cli.commands.progress import with_frame_progress

if TYPE_CHECKING:
    from training.config import Recipe


def teachers_of(names: Sequence[str]) -> tuple[str, list[Path]]:
    """Separate weights that teach a student during training from models that label photos beforehand.

    Returns:
        The name of trained weights and no model; or "" and the files of models.

    Raises:
        MissingError: A name matches no weights or model.
        InputError: Training weights are among several teachers; the hint converts them to a model.
    """
    from stylematte.weights import find_trained, resolve

    if len(names) == 1:
        try:
            find_trained(names[0], "--teacher")
        except (InputError, MissingError):
            return "", [resolve(names[0])]
        return names[0], []
    return "", [resolve(name) for name in names]


def label_first(
    recipe: "Recipe",
    root: Path,
    models: Sequence[Path],
    mattes: Path,
    device: str,
    say: Callable[[str], None],
    quiet: bool,
) -> "Recipe":
    """Label the unlabelled photos with models; returns the recipe that reads these labels."""
    from training.teacher_labels import with_labels

    start_log(quiet=quiet)
    names = ", ".join(model.stem for model in models)
    say(f"labels of {names} come first, and are kept in {mattes / 'labels'}; the same command goes on")
    progress = partial(with_frame_progress, name=f"labels of {names}", quiet=quiet, unit="photo")
    return with_labels(recipe, root, models, mattes, device, progress)
