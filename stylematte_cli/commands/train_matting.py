"""`stylematte train` of a matting network: description and execution of a run."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from stylematte_cli.commands.explain import explain_estimate, explain_plan

if TYPE_CHECKING:
    from stylematte_cli.commands.train_choice import Choice
    from training.plan import TrainingPlan
    from training.run import TrainRequest


def train_matting(
    name: str, choice: "Choice | None", request: "TrainRequest", dry_run: bool
) -> dict[str, Any]:
    """Describe a run, and execute it unless it is a dry run.

    Args:
        name: Name of the recipe.
        choice: Reason for the recipe, if the user named none.
        request: The run.
        dry_run: Only describe the run.

    Returns:
        Facts for --json.
    """
    from training.devices import set_up_threads
    from training.estimate import estimate_run
    from training.plan import make_plan
    from training.run import run_recipe

    options, say = request.options, request.say
    plan = make_plan(request.recipe, request.data)
    resumes = (options.out / "state.pt").exists()
    facts = _facts(name, choice, request, plan)
    for line in explain_plan(name, plan):
        say(line)
    say(f"  {'resumes the run in' if resumes else 'into'} {options.out}")
    # Several processes would disturb each other's measurement; a resumed run has printed it before.
    if not request.quiet and not resumes and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        set_up_threads(options.device)
        estimate = estimate_run(plan.recipe, request.data, options)
        for line in explain_estimate(estimate, options.device):
            say(f"  {line}")
        facts["estimate"] = dataclasses.asdict(estimate) | {"run_s": estimate.run_s}
    if dry_run:
        return facts | {"dry_run": True}
    scores = run_recipe(request)
    weights = {name: str(options.out / f"{name}.safetensors") for name in ("best", "last")}
    return facts | {"dry_run": False, "scores": scores, "weights": weights}


def _facts(
    name: str, choice: "Choice | None", request: "TrainRequest", plan: "TrainingPlan"
) -> dict[str, Any]:
    return {
        "recipe": name,
        "why": choice.why if choice else "",
        "found": [dataclasses.asdict(one) for one in choice.found] if choice else [],
        "data": str(request.data),
        "out": str(request.options.out),
        "resumed": (request.options.out / "state.pt").exists(),
        "network": plan.recipe.preset,
        "init": request.weights,
        "device": request.options.device,
        "sets": {
            folder: {"pictures": count, "held_out": plan.held_out[folder]}
            for folder, count in plan.pictures.items()
        },
        "stages": {stage.name: stage.steps for stage in plan.recipe.stages},
        "skipped": list(plan.skipped),
    }
