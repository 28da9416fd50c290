"""`stylematte train`: data sets become weights, by a recipe that is named or that fits what is there."""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylematte.errors import InputError, MissingError, UsageError
from stylematte.weights import DEFAULT, check_allowed
from stylematte_cli.commands.explain import explain_all, explain_recipe, list_as_dict
from stylematte_cli.commands.options import (
    BackboneWeights,
    Detector,
    Device,
    Json,
    LoaderWorkers,
    Mattes,
    Policy,
    Quiet,
    StepsBetween,
    print_json,
)
from stylematte_cli.commands.progress import with_progress
from stylematte_cli.commands.toolkit import let_threads_sleep, require
from stylematte_cli.commands.train_choice import FINETUNE, SCRATCH, Choice, choose_recipe
from stylematte_cli.commands.train_generator import refuse_matting_options, train_generator
from stylematte_cli.commands.train_matting import Request, train_matting
from stylematte_cli.commands.train_teachers import label_first, teachers_of

if TYPE_CHECKING:
    from training.config import Recipe

PRECISIONS = ("fp32", "bf16", "fp16")
DATA, RUNS = Path("data"), Path("runs")
EVERY = 500  # steps between scores


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE]",
            help="A recipe of the package, or a .toml file; if not given, the one that fits the data.",
        ),
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder that holds the data sets; ./data if not given."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="DIR", help="Photos of your own, in place of --data.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="DIR", help="Their masks, of the same names.")
    ] = None,
    alpha: Annotated[
        Path | None, typer.Option("--alpha", metavar="DIR", help="Their soft alphas, in place of --mask.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Run folder; goes on with the run in it. ./runs/RECIPE if not given.",
        ),
    ] = None,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Say what each recipe needs and gives, or one of them.")
    ] = False,
    print_recipe: Annotated[
        bool, typer.Option("--print", help="Print the recipe with every key, as TOML, and stop.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another value in the recipe: stages.matting.steps=100; may be given again.",
        ),
    ] = None,
    stages: Annotated[
        str, typer.Option("--stages", metavar="A,B", help="Only these stages of the recipe.")
    ] = "",
    init: Annotated[
        str,
        typer.Option(
            "--init",
            "--weights",
            metavar="NAME|FILE|none",
            help="Trained weights to begin with; the recipe's own if not given.",
        ),
    ] = "",
    backbone_weights: BackboneWeights = "",
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            metavar="NAME|FILE",
            help="Trained weights, or a model, that label what has no label. Models may be several: give it "
            "again; where they differ, a label counts less.",
        ),
    ] = None,
    student: Annotated[
        str, typer.Option("--student", metavar="NAME", help="Network to train, in place of the recipe's.")
    ] = "",
    check_data: Annotated[
        bool, typer.Option("--check-data", help="Look through the data sets for what is wrong, and stop.")
    ] = False,
    full_check: Annotated[
        bool,
        typer.Option(
            "--full-check",
            help="The same, but decode every file and look for near copies of scored photos among the "
            "trained ones, and stop.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    policy: Policy = "any",
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="fp32|bf16|fp16", help="Of the network; fp16 on GPUs."),
    ] = "fp32",
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, help="Passes a step: so many times less memory.")
    ] = 1,
    workers: LoaderWorkers = 2,
    every: StepsBetween = None,
    stop_after: Annotated[
        float | None,
        typer.Option(
            "--stop-after",
            metavar="SECONDS",
            min=0,
            help="End a generator's run with a snapshot after so long; the same command goes on.",
        ),
    ] = None,
    mattes: Mattes = None,
    detector: Detector = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist that --out holds a run to go on with.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a network, by a recipe that is named or by the one that fits the data.

    Looks into ./data, says what is there, which recipe fits, how long it will take and what it will write,
    and trains into ./runs/RECIPE. Photos of your own: --image DIR --mask DIR, or folders
    ./data/NAME/image and ./data/NAME/mask, fine-tune the model that ships.

    The run folder gets the weights (best.safetensors, last.safetensors), config.json, log.csv, TensorBoard
    files and preview pictures. Stop it at any time, even with kill -9: the same command goes on where the
    last saved state was. Start it with accelerate launch or torchrun for several processes; a recipe's
    batch_size is that of all of them together.

    Recipes gan/... train a generator of RGBA pictures from photos and their mattes; photos without an alpha
    are matted first, by nano or by the model named as --teacher.
    """
    teachers = list(teacher or [])
    let_threads_sleep()
    require("torch", "accelerate", "tensorboard", extra="train")
    sets = list(overrides or [])
    from training.devices import usable_device
    from training.loop import RunOptions
    from training.recipe_files import trains_generator

    if list_recipes:
        _list(recipe, sets, as_json)
        return
    is_own = _check_own(image, mask, alpha, data)
    choice, say = None, _speaker(quiet, as_json)
    is_generator = bool(recipe) and trains_generator(recipe)
    torch_device = usable_device(device)
    if not recipe and is_own:
        recipe = SCRATCH if backbone_weights else FINETUNE
    elif not recipe and print_recipe:
        raise UsageError("--print needs the name of a recipe", "See `stylematte train --list`")
    elif not recipe:
        choice = choose_recipe(data or DATA, torch_device != "cpu", bool(backbone_weights))
        recipe = choice.recipe
        is_generator = trains_generator(recipe)
        for line in _explain_choice(choice, data or DATA):
            say(line)
    folder = out or RUNS / (Path(recipe).stem if recipe.endswith(".toml") else recipe)
    if print_recipe:
        _print_recipe(recipe, sets, stages, student, is_generator)
        return
    if is_generator:
        refuse_matting_options(
            {
                "--stages": bool(stages),
                "--init": bool(init),
                "--student": bool(student),
                "--check-data": check_data,
                "--full-check": full_check,
                "--precision": precision != "fp32",
                "--image": is_own,
            }
        )
        from training.gan.config import load_gan_recipe
        from training.gan.run import GanRequest

        if len(teachers) > 1:
            raise UsageError("--teacher is given more than once: one model mattes photos for a generator")
        check_allowed(policy, *(teachers or [DEFAULT]))

        generator = GanRequest(
            recipe=load_gan_recipe(recipe, sets),
            data=data or DATA,
            out=folder,
            mattes=mattes or folder / "mattes",
            matter="".join(teachers),
            backbone=backbone_weights,
            detector=detector,
            device=device,
            accumulate=accumulate,
            workers=workers,
            every=every,
            stop_after=stop_after,
            quiet=quiet,
            say=say,
            progress=partial(with_progress, unit="matte", quiet=quiet),
        )
        facts = train_generator(recipe, generator, resume, dry_run)
    else:
        if detector:
            raise UsageError("--detector is for recipes that train a generator", "Leave it out")
        if stop_after is not None:
            raise UsageError("--stop-after is for recipes that train a generator", "Leave it out")
        require("kornia", "pymatting", extra="train")
        chosen = _choose(recipe, sets, stages, student)
        root, chosen = _with_data(recipe, chosen, data or DATA, image, mask, alpha)
        if check_data or full_check:
            _check_data(chosen, root, full_check, workers, quiet, as_json)
            return
        _check_usage(folder, resume, precision, torch_device, backbone_weights, init)
        where = mattes or folder / "mattes"
        options = RunOptions(*(folder, where, torch_device, precision, accumulate, workers, every or EVERY))
        starts_from = _init_of(chosen, init, student, backbone_weights)
        check_allowed(policy, starts_from, *teachers)
        one, models = teachers_of(teachers)
        if models and not dry_run:
            chosen = label_first(chosen, root, models, where, device, say, quiet)
        request = Request(
            recipe, root, chosen, options, starts_from, one, backbone_weights, choice, say, quiet
        )
        facts = train_matting(request, dry_run)
    if as_json and _is_first_process():
        print_json(facts)


def _is_first_process() -> bool:
    """Whether this process speaks for all that train together; accelerate and torchrun number them."""
    return os.environ.get("RANK", "0") == "0"


def _speaker(quiet: bool, as_json: bool) -> Callable[[str], None]:
    """Takes what there is to say: stdout, or stderr where stdout is for JSON."""
    if quiet or not _is_first_process():
        return lambda line: None
    return lambda line: typer.echo(line, err=as_json)


def _list(name: str, overrides: list[str], as_json: bool) -> None:
    if as_json:
        print_json(list_as_dict(name))
        return
    for line in explain_recipe(name, overrides) if name else explain_all():
        typer.echo(line)


def _print_recipe(name: str, overrides: list[str], stages: str, student: str, is_generator: bool) -> None:
    from training.gan.config import load_gan_recipe
    from training.recipe_text import as_toml

    recipe = load_gan_recipe(name, overrides) if is_generator else _choose(name, overrides, stages, student)
    typer.echo(as_toml(recipe), nl=False)


def _check_own(image: Path | None, mask: Path | None, alpha: Path | None, data: Path | None) -> bool:
    """Whether folders of one's own are named; refuses halves of a pair."""
    labels = [path for path in (mask, alpha) if path is not None]
    if image is None and not labels:
        return False
    if image is None or len(labels) != 1:
        raise UsageError("--image goes with --mask or with --alpha", "Give two folders: photos, and labels")
    if data is not None:
        raise UsageError("--image and --data exclude each other", "Give the one or the other")
    for path in (image, *labels):
        if not path.is_dir():
            raise InputError(f"{path}: no such folder", "--image and --mask are folders of files named alike")
    return True


def _explain_choice(choice: Choice, root: Path) -> list[str]:
    lines = [f"in {root}:", *(f"  {one}" for one in choice.found)]
    return [*lines, f"recipe {choice.recipe}: {choice.why}", *(f"  {line}" for line in choice.others)]


def _choose(name: str, overrides: list[str], stages: str, student: str) -> "Recipe":
    """The recipe with the values, the stages and the network that were asked for."""
    from models.presets import OFFERED, PRESETS
    from training.config import check_priors, load_recipe, select_stages

    recipe = load_recipe(name, overrides)
    if stages:
        recipe = select_stages(recipe, tuple(part.strip() for part in stages.split(",")), "--stages")
    if not student:
        return recipe
    if student not in PRESETS:
        names = ", ".join(OFFERED)
        raise UsageError(f"--student {student} is no network", f"There are {names}")
    recipe = dataclasses.replace(recipe, preset=student, network={})
    check_priors(recipe, "--student")
    return recipe


def _with_data(
    name: str, recipe: "Recipe", data: Path, image: Path | None, mask: Path | None, alpha: Path | None
) -> tuple[Path, "Recipe"]:
    """The data root, and the recipe with the sets that it leaves open."""
    from training.config import DataSet
    from training.data.found import find_sets, own_sets, with_sets

    if image is not None:
        if not recipe.open_sets:
            raise UsageError(
                f"--image: recipe {name} names its own data sets", f"Take {FINETUNE} or {SCRATCH}, or none"
            )
        photos, labels = image.resolve(), (mask or alpha or image).resolve()
        folder = photos.parent.name if photos.name in ("image", "images") else photos.name
        own = DataSet(
            folder or "own",
            "mattes" if mask is None else "photos",
            1.0,
            image=str(photos),
            labels=str(labels),
        )
        return photos, with_sets(recipe, photos, (own,))
    if not data.is_dir():
        raise InputError(
            f"{data}: no such folder",
            f"--data is the folder that holds the data sets; `stylematte train {name} --list` names them",
        )
    if recipe.open_sets:
        sets = own_sets(find_sets(data))
        if not any(s.kind in ("photos", "mattes") for s in sets):
            raise InputError(
                f"{data}: no photos with masks in it",
                f"Put them in {data}/NAME/image and {data}/NAME/mask, or give --image and --mask",
            )
        recipe = with_sets(recipe, data, sets)
    return data, recipe


def _init_of(recipe: "Recipe", init: str, student: str, backbone: str) -> str:
    """Weights to begin with: those named, else the recipe's; other networks and encoders begin without."""
    if init:
        return "" if init == "none" else init
    return "" if student or backbone else recipe.init


def _check_data(plan: "Recipe", data: Path, full: bool, workers: int, quiet: bool, as_json: bool) -> None:
    from training.data.check import check_data

    report = check_data(plan, data, full, max(1, workers), quiet)
    if as_json:
        print_json(report.as_dict())
    else:
        for line in report.lines():
            typer.echo(line)
    if report.errors:
        raise typer.Exit(InputError.exit_code)


def _check_usage(out: Path, resume: bool, precision: str, device: str, backbone: str, init: str) -> None:
    if resume and not (out / "state.pt").exists():
        raise InputError(f"{out} holds no run to go on with", "Give its folder, or leave out --resume")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not known", ", ".join(PRECISIONS))
    if precision == "fp16" and device == "cpu":
        raise UsageError("--precision fp16 needs a GPU", "Use bf16 or fp32")
    if backbone not in ("", "hub", "none") and not Path(backbone).exists():
        raise MissingError(f"--backbone-weights: {backbone} is not there", "Give a file, hub or none")
    if init not in ("", "none") and backbone not in ("", "none"):
        raise UsageError("--init and --backbone-weights exclude each other", "The former have an encoder")
