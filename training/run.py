"""Running a recipe of a matting network: where it begins, its mattes, its loop."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stylematte_cli.commands.toolkit import find_trained

if TYPE_CHECKING:
    from stylematte_cli.commands.train_choice import Choice
    from training.config import Recipe
    from training.loop import RunOptions
    from training.plan import Plan


@dataclass(frozen=True)
class Request:
    """What `stylematte train` is asked of a matting network, made whole: nothing is left open.

    Attributes:
        name: Of the recipe.
        data: Folder of the data sets.
        recipe: With its sets.
        options: Where and how.
        init: Name or file of weights to begin with, or empty.
        teacher: Name or file of weights that label what has no label, or empty.
        backbone: `hub`, `none`, a file of encoder weights, or empty.
        choice: Why it is this recipe, where nobody named one.
        say: Takes what there is to say.
        quiet: Say nothing, and measure nothing beforehand.
    """

    name: str
    data: Path
    recipe: "Recipe"
    options: "RunOptions"
    init: str
    teacher: str
    backbone: str
    choice: "Choice | None"
    say: Callable[[str], None]
    quiet: bool


def train_matting(request: Request, dry_run: bool) -> dict[str, Any]:
    """Say what a run will do, and do it unless it is a dry one; facts for --json."""
    from stylematte_cli.commands.explain import explain_estimate, explain_plan
    from stylematte_cli.commands.torch_device import set_up_threads
    from training.estimate import estimate_run
    from training.plan import make_plan

    options, say = request.options, request.say
    plan = make_plan(request.recipe, request.data)
    goes_on = (options.out / "state.pt").exists()
    facts = _facts(request, plan, goes_on)
    for line in explain_plan(request.name, plan):
        say(line)
    say(f"  {'goes on with the run in' if goes_on else 'into'} {options.out}")
    # Several processes would measure each other; what goes on has told before.
    if not request.quiet and not goes_on and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        set_up_threads(options.device)
        estimate = estimate_run(plan.recipe, request.data, options)
        for line in explain_estimate(estimate, options.device):
            say(f"  {line}")
        facts["estimate"] = dataclasses.asdict(estimate) | {"run_s": estimate.run_s}
    if dry_run:
        return facts | {"dry_run": True}
    scores = run_recipe(
        *(request.recipe, request.data, options, request.teacher, request.init, request.backbone),
        *(request.quiet, say),
    )
    weights = {name: str(options.out / f"{name}.safetensors") for name in ("best", "last")}
    return facts | {"dry_run": False, "scores": scores, "weights": weights}


def _facts(request: Request, plan: "Plan", goes_on: bool) -> dict[str, Any]:
    choice = request.choice
    return {
        "recipe": request.name,
        "why": choice.why if choice else "",
        "found": [dataclasses.asdict(one) for one in choice.found] if choice else [],
        "data": str(request.data),
        "out": str(request.options.out),
        "resumed": goes_on,
        "network": plan.recipe.preset,
        "init": request.init,
        "device": request.options.device,
        "sets": {
            folder: {"pictures": count, "held_out": plan.held_out[folder]}
            for folder, count in plan.pictures.items()
        },
        "stages": {stage.name: stage.steps for stage in plan.recipe.stages},
        "skipped": list(plan.skipped),
    }


def run_recipe(
    recipe: "Recipe",
    data: Path,
    options: "RunOptions",
    teacher: str,
    weights: str,
    backbone: str,
    quiet: bool,
    say: Callable[[str], None] = typer.echo,
) -> dict[str, float]:
    """Run a recipe of a matting network, or go on with it: mattes first, then the loop.

    Args:
        recipe: What to learn.
        data: Folder of the data sets.
        options: Where and how.
        teacher: Name or file of weights that label what has no label.
        weights: Name or file of weights to begin with.
        backbone: `hub`, `none`, or a file of encoder weights.
        quiet: Say nothing.
        say: Takes what there is to say.

    Returns:
        Scores of the last validation, as `training.loop.train` has them.
    """
    from stylematte.files import sha256_of
    from stylematte_cli.commands.torch_device import say_where, set_up_threads
    from training.data.check import label_notes
    from training.loop import train as run
    from training.plan import make_plan
    from training.processes import check_batches, join_processes
    from training.teacher import Teacher

    paths = {
        option: find_trained(name, "--init" if option == "weights" else f"--{option}")
        for option, name in (("teacher", teacher), ("weights", weights))
        if name
    }
    origin = {option: sha256_of(path) for option, path in paths.items()}
    set_up_threads(options.device)
    start, begins_with = _start(recipe, data, paths.get("weights"), backbone)
    processes = join_processes(options.device, options.precision, options.accumulate)
    quiet = quiet or not processes.is_main_process
    if begins_with:
        origin["backbone"] = begins_with
    goes_on = (options.out / "state.pt").exists()
    if not quiet:
        say_where(processes, options.precision, options.workers)
    if not quiet and not goes_on and "weights" not in paths:
        named = begins_with if backbone in ("", "hub", "none") else backbone
        print(f"stylematte: encoder weights: {named or 'none, it begins at random'}", file=sys.stderr)
    taught_by = Teacher.load(paths["teacher"], processes.device) if teacher else None
    ready = make_plan(recipe, data).recipe
    check_batches(ready, processes)  # before hours go into mattes
    if not goes_on and processes.is_main_process:
        for line in label_notes(ready, data):
            print(f"stylematte: warning: {line}", file=sys.stderr)
    with processes.main_process_first():
        _prepare_mattes(ready, data, options, quiet)
    options = dataclasses.replace(options, origin=origin)
    report = (lambda line: None) if quiet else say
    scores = run(recipe, data, options, start, report, taught_by, shows_bar=not quiet)
    processes.end_training()
    if not quiet:
        best = options.out / "best.safetensors"
        then = f"stylematte export --weights {shlex.quote(str(best))} --name NAME --licence LICENCE"
        say(f"weights: {best}; next: {then}")
    return scores


def _start(
    recipe: "Recipe", data: Path, weights: Path | None, backbone: str
) -> tuple[Callable[[Any], None] | None, str]:
    """What fills the fresh network, and the name or hash of pretrained encoder weights."""
    from stylematte.files import sha256_of
    from training.backbone import load_backbone
    from training.checkpoint import load_start

    preset = recipe.build_preset()
    if weights is not None:
        trained = load_start(weights, preset)
        return lambda model: model.load_state_dict(trained.state_dict()), ""
    if backbone == "none" or (not backbone and not preset.hub):
        return None, ""
    if backbone in ("", "hub"):
        return lambda model: load_backbone(model, "hub", recipe, data), preset.hub
    path = Path(backbone)
    name = sha256_of(path) if path.is_file() else path.name
    return lambda model: load_backbone(model, path, recipe, data), name


def _prepare_mattes(recipe: "Recipe", data: Path, options: "RunOptions", quiet: bool) -> None:
    from training.data.subjects import prepare_set, read_data_set

    samples = {s.folder: read_data_set(data, s) for s in recipe.sets}  # all of it, before hours are spent
    if not quiet:
        _warn_of_twins(recipe, samples)
    for data_set in recipe.sets:
        prepare_set(recipe, data_set, samples[data_set.folder], options.mattes, max(1, options.workers))


def _warn_of_twins(plan: "Recipe", samples: dict[str, list[Any]]) -> None:
    from training.data.readers import split
    from training.data.twins import find_twins

    for folder in (s.folder for s in plan.sets if s.kind == "photos"):
        trained, held_out = split(samples[folder], plan.held_out_every)
        if count := sum(find_twins(held_out, trained)):
            typer.echo(
                f"{folder}: {count} of {len(held_out)} held-out photos have a near copy in the trained part; "
                "scores on them flatter",
                err=True,
            )
