"""`stylematte train gan/…`: photos and their mattes become a generator of RGBA pictures."""

from typing import TYPE_CHECKING, Any

from stylematte.errors import InputError, UsageError
from stylematte_cli.commands.explain import explain_generator

if TYPE_CHECKING:
    from training.gan.run import GanRequest


def refuse_matting_options(given: dict[str, bool]) -> None:
    """Refuse what is said of a matting network.

    Args:
        given: Option → whether it was given.

    Raises:
        UsageError: One was; the message names the first.
    """
    for option, was_given in given.items():
        if was_given:
            raise UsageError(
                f"{option} is for recipes of matting networks, this one trains a generator",
                f"Leave out {option}",
            )


def train_generator(name: str, request: "GanRequest", resume: bool, dry_run: bool) -> dict[str, Any]:
    """Say what a recipe would do, or run it.

    Args:
        name: Of the recipe, or its file.
        request: The run.
        resume: The run folder must hold a run.
        dry_run: Say what would be done.

    Returns:
        Facts for --json.
    """
    from training.gan.data import list_samples, without_alpha
    from training.gan.run import run_gan

    recipe, out, goes_on = request.recipe, request.out, (request.out / "state.pt").exists()
    if not request.data.is_dir():
        raise InputError(f"{request.data}: no such folder", "--data is a folder of pictures, or of data sets")
    if resume and not goes_on:
        raise InputError(f"{out} holds no run to go on with", "Give its folder, or leave out --resume")
    samples = list_samples(recipe, request.data)
    lacking = len(without_alpha(samples, request.mattes))
    facts = {
        "recipe": name,
        "data": str(request.data),
        "out": str(out),
        "resumed": goes_on,
        "dry_run": dry_run,
        "pictures": len(samples),
        "to_matte": lacking,
        "steps": recipe.steps,
    }
    if dry_run:
        for line in explain_generator(name, recipe):
            request.say(line)
        request.say(f"  {len(samples)} pictures to train on, {lacking} of them to be matted first")
        request.say(f"  {recipe.steps} steps, into {out}")
        return facts
    run_gan(request)
    return facts | {"weights": {n: str(out / f"{n}.safetensors") for n in ("best", "last")}}
