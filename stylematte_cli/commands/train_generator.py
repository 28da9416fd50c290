"""`stylematte train gan/…`: photos and their mattes become a generator of RGBA pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from stylematte.errors import InputError, UsageError
from stylematte_cli.commands.explain import explain_generator
from stylematte_cli.commands.progress import with_progress


@dataclass(frozen=True)
class Wish:
    """What the command line of `stylematte train` says that generators understand.

    Attributes:
        recipe: Name or file.
        data: Data root.
        out: Run folder.
        mattes: Folder of prepared mattes; OUT/mattes if None.
        matter: Model that mattes photos which have no alpha.
        backbone: File or folder of the vision-aided discriminator's network.
        detector: Of scores; "" takes what is at hand, "none" leaves scores out.
        device: Where all of it runs.
        accumulate: Passes a step.
        workers: Processes that read pictures.
        every: Steps between snapshots; the recipe's where None.
        resume: The run folder must hold a run.
        dry_run: Say what would be done.
        quiet: Say nothing.
        stop_after: Seconds after which the run ends; None: never.
        overrides: `key=value` for the recipe.
        say: Takes what there is to say.
    """

    recipe: str
    data: Path
    out: Path
    mattes: Path | None
    matter: str
    backbone: str
    detector: str
    device: str
    accumulate: int
    workers: int
    every: int | None
    resume: bool
    dry_run: bool
    quiet: bool
    stop_after: float | None = None
    overrides: tuple[str, ...] = ()
    say: Callable[[str], None] = typer.echo


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


def train_generator(wish: Wish) -> dict[str, Any]:
    """Say what a recipe would do, or run it; facts for --json."""
    from training.gan.config import load_gan_recipe
    from training.gan.data import list_pictures, without_alpha
    from training.gan.run import GanRequest, run_gan

    recipe = load_gan_recipe(wish.recipe, wish.overrides)
    if not wish.data.is_dir():
        raise InputError(f"{wish.data}: no such folder", "--data is a folder of pictures, or of data sets")
    if wish.resume and not (wish.out / "state.pt").exists():
        raise InputError(f"{wish.out} holds no run to go on with", "Give its folder, or leave out --resume")
    samples = list_pictures(recipe, wish.data)
    lacking = len(without_alpha(samples, wish.mattes or wish.out / "mattes"))
    facts = {
        "recipe": wish.recipe,
        "data": str(wish.data),
        "out": str(wish.out),
        "resumed": (wish.out / "state.pt").exists(),
        "dry_run": wish.dry_run,
        "pictures": len(samples),
        "to_matte": lacking,
        "steps": recipe.steps,
    }
    if wish.dry_run:
        for line in explain_generator(wish.recipe, recipe):
            wish.say(line)
        wish.say(f"  {len(samples)} pictures to train on, {lacking} of them to be matted first")
        wish.say(f"  {recipe.steps} steps, into {wish.out}")
        return facts
    run_gan(
        GanRequest(
            recipe=recipe,
            data=wish.data,
            out=wish.out,
            mattes=wish.mattes or wish.out / "mattes",
            matter=wish.matter,
            backbone=wish.backbone,
            detector=wish.detector,
            device=wish.device,
            accumulate=wish.accumulate,
            workers=wish.workers,
            every=wish.every,
            stop_after=wish.stop_after,
            quiet=wish.quiet,
            say=wish.say,
            progress=partial(with_progress, unit="matte", quiet=wish.quiet),
        )
    )
    return facts | {"weights": {n: str(wish.out / f"{n}.safetensors") for n in ("best", "last")}}
