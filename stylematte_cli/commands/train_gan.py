"""`stylematte train gan`: train a generator of RGBA images from photos and their mattes."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylematte.errors import InputError
from stylematte.weights import DEFAULT, check_allowed
from stylematte_cli.commands.explain import explain_generator
from stylematte_cli.commands.groups import with_groups
from stylematte_cli.commands.options import Detector, Output, print_json
from stylematte_cli.commands.progress import with_progress
from stylematte_cli.commands.toolkit import require
from stylematte_cli.commands.train_options import (
    LoopOptions,
    RunOfRecipe,
    is_first_process,
    list_recipes,
    print_recipe,
    speaker,
)

if TYPE_CHECKING:
    from training.gan.run import GanRequest


@dataclass(frozen=True)
class GeneratorOptions:
    """Options for generators only."""

    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            metavar="NAME|FILE",
            help="Model that mattes photos without an alpha (default: nano).",
        ),
    ] = ""
    detector: Detector = ""
    stop_after: Annotated[
        float | None,
        typer.Option(
            "--stop-after",
            metavar="SECONDS",
            min=0,
            help="Stop with a snapshot after this time; the same command resumes the run.",
        ),
    ] = None


@with_groups
def train_gan(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A bundled recipe gan/..., or a .toml file.")
    ],
    run: RunOfRecipe,
    generator: GeneratorOptions,
    loop: LoopOptions,
    output: Output,
) -> None:
    """Train a generator of RGBA images from photos and their mattes.

    Photos without an alpha are matted first, with nano or the model given as --teacher. An existing run in
    --out is resumed. Writes best.safetensors, last.safetensors, sample grids and scores.
    """
    require("torch", "accelerate", "tensorboard", extra="train")
    from training.gan.config import load_gan_recipe
    from training.gan.loop import GanOptions
    from training.gan.run import GanRequest

    if run.list_recipes:
        list_recipes(recipe, run.changes, output.as_json)
        return
    loaded = load_gan_recipe(recipe, run.changes)
    if run.print_recipe:
        print_recipe(loaded)
        return
    check_allowed(run.policy, generator.teacher or DEFAULT)
    folder = run.folder(recipe)
    request = GanRequest(
        loaded,
        run.root,
        GanOptions(
            out=folder,
            mattes=loop.mattes or folder / "mattes",
            device=loop.torch_device,
            accumulate=run.accumulate,
            workers=loop.workers,
            every=loop.every,
            stop_after_s=generator.stop_after,
        ),
        matter=generator.teacher,
        backbone=loop.backbone_weights,
        detector=generator.detector,
        quiet=output.quiet,
        say=speaker(output),
        progress=partial(with_progress, unit="matte", quiet=output.quiet),
    )
    facts = _train(recipe, request, run)
    if output.as_json and is_first_process():
        print_json(facts)


def _train(name: str, request: "GanRequest", run: RunOfRecipe) -> dict[str, Any]:
    """Describe a recipe's run, or run it; returns facts for --json."""
    from training.gan.data import list_samples, without_alpha
    from training.gan.run import run_gan

    recipe, out = request.recipe, request.options.out
    if not request.data.is_dir():
        raise InputError(f"{request.data}: no such folder", "--data is a folder of images or of data sets")
    run.check_resume(out)
    samples = list_samples(recipe, request.data)
    lacking = len(without_alpha(samples, request.options.mattes))
    facts = {
        "recipe": name,
        "data": str(request.data),
        "out": str(out),
        "resumed": (out / "state.pt").exists(),
        "dry_run": run.dry_run,
        "pictures": len(samples),
        "to_matte": lacking,
        "steps": recipe.steps,
    }
    if run.dry_run:
        for line in explain_generator(name, recipe):
            request.say(line)
        request.say(f"  {len(samples)} images to train on, of which {lacking} will be matted first")
        request.say(f"  {recipe.steps} steps, into {out}")
        return facts
    run_gan(request)
    return facts | {"weights": {n: str(out / f"{n}.safetensors") for n in ("best", "last")}}
