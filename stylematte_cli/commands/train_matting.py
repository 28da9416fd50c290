"""`stylematte train` of a matting network: what a run will do, in words, and the run."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylematte_cli.commands.train_choice import Choice
    from training.config import Recipe
    from training.loop import RunOptions
    from training.plan import TrainingPlan


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
    from training.devices import set_up_threads
    from training.estimate import estimate_run
    from training.plan import make_plan
    from training.run import run_recipe

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


def _facts(request: Request, plan: "TrainingPlan", goes_on: bool) -> dict[str, Any]:
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
