"""Run a matting network's recipe: initial weights, mattes, training."""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylematte.files import sha256_of
from stylematte.weights import find_trained
from training.backbone import load_backbone
from training.checkpoint import load_start
from training.config import Recipe
from training.data.check import label_notes
from training.data.near_duplicates import find_near_duplicates
from training.data.readers import split
from training.data.subjects import prepare_set, read_data_set
from training.devices import say_where, set_up_threads
from training.loop import RunOptions, train
from training.plan import make_plan
from training.processes import check_batches, join_processes
from training.teacher import Teacher


@dataclass(frozen=True)
class TrainRequest:
    """One training run of a matting network.

    Attributes:
        recipe: The recipe.
        data: Folder of the data sets.
        options: Options of the run.
        weights: Name or file of weights to start from; empty: none.
        teacher: Name or file of weights that label unlabelled photos; empty: none.
        backbone: `hub`, `none`, or a file of encoder weights; empty: the hub's, where it has some.
        quiet: Print nothing.
        say: Called with each line of output.
    """

    recipe: Recipe
    data: Path
    options: RunOptions
    weights: str = ""
    teacher: str = ""
    backbone: str = ""
    quiet: bool = False
    say: Callable[[str], None] = print


def run_recipe(request: TrainRequest) -> dict[str, float]:
    """Run a matting network's recipe or resume it: prepare the mattes first, then train.

    Returns:
        Scores of the last validation, see `training.loop.train`.
    """
    recipe, data, options, backbone = request.recipe, request.data, request.options, request.backbone
    paths = {
        option: find_trained(name, "--init" if option == "weights" else f"--{option}")
        for option, name in (("teacher", request.teacher), ("weights", request.weights))
        if name
    }
    origin = {option: sha256_of(path) for option, path in paths.items()}
    set_up_threads(options.device)
    start, backbone_name = _start(recipe, data, paths.get("weights"), backbone)
    processes = join_processes(options.device, options.precision, options.accumulate)
    quiet = request.quiet or not processes.is_main_process
    if backbone_name:
        origin["backbone"] = backbone_name
    resumes = (options.out / "state.pt").exists()
    if not quiet:
        say_where(processes, options.precision, options.workers)
    if not quiet and not resumes and "weights" not in paths:
        named = backbone_name if backbone in ("", "hub", "none") else backbone
        print(f"stylematte: encoder weights: {named or 'random initialisation'}", file=sys.stderr)
    taught_by = Teacher.load(paths["teacher"], processes.device) if request.teacher else None
    ready = make_plan(recipe, data).recipe
    check_batches(ready, processes)  # before spending hours on mattes
    if not resumes and processes.is_main_process:
        for line in label_notes(ready, data):
            print(f"stylematte: warning: {line}", file=sys.stderr)
    with processes.main_process_first():
        _prepare_mattes(ready, data, options, quiet)
    options = dataclasses.replace(options, origin=origin)
    report = (lambda line: None) if quiet else request.say
    scores = train(recipe, data, options, start, report, taught_by, shows_bar=not quiet)
    processes.end_training()
    if not quiet:
        best = options.out / "best.safetensors"
        then = f"stylematte export --weights {shlex.quote(str(best))} --name NAME --licence LICENCE"
        request.say(f"weights: {best}; next: {then}")
    return scores


def _start(
    recipe: Recipe, data: Path, weights: Path | None, backbone: str
) -> tuple[Callable[[Any], None] | None, str]:
    """Return a function that loads initial weights, and the name or hash of pretrained encoder weights."""
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


def _prepare_mattes(recipe: Recipe, data: Path, options: RunOptions, quiet: bool) -> None:
    samples = {s.folder: read_data_set(data, s) for s in recipe.sets}  # list everything before spending hours
    if not quiet:
        _warn_of_near_duplicates(recipe, samples)
    for data_set in recipe.sets:
        prepare_set(recipe, data_set, samples[data_set.folder], options.mattes, max(1, options.workers))


def _warn_of_near_duplicates(plan: Recipe, samples: dict[str, list[Any]]) -> None:
    for folder in (s.folder for s in plan.sets if s.kind == "photos"):
        trained, held_out = split(samples[folder], plan.held_out_every)
        if count := sum(find_near_duplicates(held_out, trained)):
            print(
                f"{folder}: {count} of {len(held_out)} held-out photos have a near duplicate in the training "
                "part; scores on them are too good",
                file=sys.stderr,
            )
