"""`stylematte train`: a recipe and data sets become weights."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylematte_cli.commands.explain import explain, explain_all, explain_plan
from stylematte_cli.commands.options import Device, Json, Quiet, Weights, print_json
from stylematte_cli.commands.toolkit import find_trained, require, translated_errors
from stylematte_cli.commands.train_gan import Wish, refuse_matting_options, train_generator
from stylematte_cli.errors import InputError, MissingError, UsageError

if TYPE_CHECKING:
    from training.config import Recipe
    from training.loop import RunOptions

PRECISIONS = ("fp32", "bf16", "fp16")


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE]", help="A recipe of the package, or a .toml file; without one, explains them."
        ),
    ] = "",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder that holds the data sets.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Run folder; goes on with the run in it."),
    ] = None,
    stages: Annotated[
        str, typer.Option("--stages", metavar="A,B", help="Only these stages of the recipe.")
    ] = "",
    weights: Weights = "",
    backbone_weights: Annotated[
        str,
        typer.Option(
            "--backbone-weights",
            metavar="hub|FILE|none",
            help="Pretrained encoder; if not given, the hub's where the network has some there, else none.",
        ),
    ] = "",
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="NAME|FILE", help="Trained weights that label what has none.")
    ] = "",
    student: Annotated[
        str, typer.Option("--student", metavar="NAME", help="Network to train, in place of the recipe's.")
    ] = "",
    check_data: Annotated[
        bool, typer.Option("--check-data", help="Look through the data sets for what is wrong, and stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    device: Device = "cpu",
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="fp32|bf16|fp16", help="Of the network; fp16 on graphics cards."),
    ] = "fp32",
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, help="Passes a step: so many times less memory.")
    ] = 1,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that prepare pictures.")] = 2,
    every: Annotated[
        int | None,
        typer.Option(
            "--every",
            min=1,
            help="Steps between scores, previews and saved states; 500 if not given, or the recipe's.",
        ),
    ] = None,
    stop_after: Annotated[
        float | None,
        typer.Option(
            "--stop-after",
            metavar="SECONDS",
            min=0,
            help="End a generator's run with a snapshot after so long; the same command goes on.",
        ),
    ] = None,
    mattes: Annotated[
        Path | None,
        typer.Option(
            "--mattes", metavar="DIR", help="Prepared mattes, shared by runs; OUT/mattes if not given."
        ),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector", metavar="NAME|FILE|none", help="Of a generator's scores, see `stylematte fid`."
        ),
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist that --out holds a run to go on with.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a network by a recipe.

    The run folder gets the weights (best.safetensors, last.safetensors), config.json, log.csv, TensorBoard
    files and preview pictures. Stop it at any time, even with kill -9: the same command goes on where the
    last saved state was. Start it with accelerate launch or torchrun for several processes; a recipe's
    batch_size is that of all of them together.

    Recipes gan/... train a generator of RGBA pictures from photos and their mattes; photos without an alpha
    are matted first, by nano or by the model named as --teacher.
    """
    require("torch", "accelerate", "tensorboard", extra="train")
    with translated_errors():
        from training.config import trains_generator

        if not recipe:
            _print(explain_all())
            return
        if trains_generator(recipe):
            refuse_matting_options(
                {
                    "--stages": bool(stages),
                    "--weights": bool(weights),
                    "--student": bool(student),
                    "--check-data": check_data,
                    "--precision": precision != "fp32",
                    "--json": as_json,
                }
            )
            train_generator(
                Wish(
                    *(recipe, data, out, mattes, teacher, backbone_weights, detector, device),
                    *(accumulate, workers, every, resume, dry_run, quiet, stop_after),
                )
            )
            return
        if detector:
            raise UsageError("--detector is for recipes that train a generator", "Leave it out")
        if stop_after is not None:
            raise UsageError("--stop-after is for recipes that train a generator", "Leave it out")
        require("kornia", "pymatting", extra="train")
        plan = _choose(recipe, stages, student)
        if data is None:
            if out is not None or check_data or dry_run:
                raise UsageError("--data is needed", "The folder that holds the recipe's data sets")
            _print(explain(recipe, plan))
        elif not data.is_dir():
            raise InputError(f"{data}: no such folder", "--data is the folder that holds the data sets")
        elif check_data:
            _check_data(plan, data, workers, quiet, as_json)
        elif dry_run:
            from training.plan import make_plan

            _print(explain_plan(recipe, make_plan(plan, data)))
        elif out is None:
            raise UsageError("--out is needed", "A folder for weights, log and previews")
        else:
            _check_usage(out, resume, precision, backbone_weights, weights)
            from stylematte_cli.commands.torch_device import usable_device
            from training.loop import RunOptions

            device = usable_device(device)
            if precision == "fp16" and device == "cpu":
                raise UsageError("--precision fp16 needs a graphics card", "Use bf16 or fp32")
            where = mattes or out / "mattes"
            options = RunOptions(out, where, device, precision, accumulate, workers, every or 500)
            run_recipe(plan, data, options, teacher, weights, backbone_weights, quiet)


def _print(lines: Any) -> None:
    for line in lines:
        typer.echo(line)


def _choose(name: str, stages: str, student: str) -> "Recipe":
    """The recipe with the stages and the network that were asked for."""
    import dataclasses

    from models.presets import PRESETS
    from training.config import load_recipe, select_stages

    recipe = load_recipe(name)
    if stages:
        recipe = select_stages(recipe, tuple(part.strip() for part in stages.split(",")), "--stages")
    if not student:
        return recipe
    if student not in PRESETS:
        raise UsageError(f"--student {student} is no network", f"There are {', '.join(PRESETS)}")
    return dataclasses.replace(recipe, preset=student, network={})


def _check_data(plan: "Recipe", data: Path, workers: int, quiet: bool, as_json: bool) -> None:
    from training.data.check import check_data

    report = check_data(plan, data, workers=max(1, workers), quiet=quiet)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report.lines())
    if report.errors:
        raise typer.Exit(InputError.exit_code)


def _check_usage(out: Path, resume: bool, precision: str, backbone: str, weights: str) -> None:
    if resume and not (out / "state.pt").exists():
        raise InputError(f"{out} holds no run to go on with", "Give its folder, or leave out --resume")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not known", ", ".join(PRECISIONS))
    if backbone not in ("", "hub", "none") and not Path(backbone).exists():
        raise MissingError(f"--backbone-weights: {backbone} is not there", "Give a file, hub or none")
    if weights and backbone not in ("", "none"):
        raise UsageError("--weights and --backbone-weights exclude each other", "The former have an encoder")


def run_recipe(
    recipe: "Recipe",
    data: Path,
    options: "RunOptions",
    teacher: str,
    weights: str,
    backbone: str,
    quiet: bool,
) -> None:
    """Run a recipe of a matting network, or go on with it: mattes first, then the loop."""
    import dataclasses

    from stylematte_cli.weights import sha256_of
    from training.loop import train as run
    from training.plan import make_plan
    from training.processes import check_batches, join_processes
    from training.teacher import Teacher

    paths = {
        option: find_trained(name, f"--{option}")
        for option, name in (("teacher", teacher), ("weights", weights))
        if name
    }
    origin = {option: sha256_of(path) for option, path in paths.items()}
    start, begins_with = _start(recipe, data, paths.get("weights"), backbone)
    processes = join_processes(options.device, options.precision, options.accumulate)
    quiet = quiet or not processes.is_main_process
    if begins_with:
        origin["backbone"] = begins_with
    goes_on = (options.out / "state.pt").exists()
    if not quiet and not goes_on and "weights" not in paths:
        named = begins_with if backbone in ("", "hub", "none") else backbone
        print(f"stylematte: encoder weights: {named or 'none, it begins at random'}", file=sys.stderr)
    taught_by = Teacher.load(paths["teacher"], processes.device) if teacher else None
    ready = make_plan(recipe, data).recipe
    check_batches(ready, processes)  # before hours go into mattes
    with processes.main_process_first():
        _prepare_mattes(ready, data, options, quiet)
    options = dataclasses.replace(options, origin=origin)
    run(recipe, data, options, start, (lambda line: None) if quiet else typer.echo, taught_by)
    processes.end_training()
    if not quiet:
        best = options.out / "best.safetensors"
        typer.echo(f"weights: {best}; next: stylematte export --weights {best} --out DIR")


def _start(
    recipe: "Recipe", data: Path, weights: Path | None, backbone: str
) -> tuple[Callable[[Any], None] | None, str]:
    """What fills the fresh network, and the name or hash of pretrained encoder weights."""
    from stylematte_cli.weights import sha256_of
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
