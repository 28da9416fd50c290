"""`stylematte train`: train a network with a named recipe, or with one that fits the data."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylematte.errors import InputError, MissingError, UsageError
from stylematte.weights import check_allowed
from stylematte_cli.commands.groups import with_groups
from stylematte_cli.commands.options import Output, print_json
from stylematte_cli.commands.toolkit import require
from stylematte_cli.commands.train_choice import FINETUNE, SCRATCH, Choice, choose_recipe
from stylematte_cli.commands.train_gan import train_gan
from stylematte_cli.commands.train_matting import train_matting
from stylematte_cli.commands.train_options import (
    LoopOptions,
    RunOfRecipe,
    is_first_process,
    list_recipes,
    print_recipe,
    speaker,
)
from stylematte_cli.commands.train_teachers import label_first, teachers_of
from stylematte_cli.commands.verbs import Verb, command_of, typed_line

if TYPE_CHECKING:
    from training.config import Recipe
    from training.run import TrainRequest

PRECISIONS = ("fp32", "bf16", "fp16")
EVERY = 500  # steps between scores


class TrainVerb(Verb):
    """`train`, or `train gan` with its own options if the named recipe trains a generator."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments of either command."""
        gan = command_of(train_gan, "gan")
        if _names_generator(args, [*self.params, *gan.params]):
            message = "is for recipes of matting networks, but this one trains a generator"
            _refuse_options(args, gan, self, message)
            return gan.make_context(f"{info_name} gan", args, parent, **extra)
        _refuse_options(args, self, gan, "is for recipes that train a generator")
        return super().make_context(info_name, args, parent, **extra)


def _names_generator(arguments: list[str], parameters: list[Any]) -> bool:
    """Tell whether the named recipe trains a generator; unreadable recipes are reported by the run."""
    require(extra="train")
    from training.recipe_files import RecipeError, trains_generator

    flags = {name for p in parameters for name in p.opts if getattr(p, "is_flag", False)} | {"-h", "--help"}
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            try:
                return trains_generator(word)
            except RecipeError:
                return False
        if word not in flags and "=" not in word:
            next(words, "")  # its value
    return False


def _refuse_options(arguments: list[str], own: Any, other: Any, message: str) -> None:
    known = {name for parameter in own.params for name in parameter.opts}
    unknown = {name: p.opts[0] for p in other.params for name in p.opts if name not in known}
    for word in arguments:
        if option := unknown.get(word.partition("=")[0]):
            raise UsageError(f"{option} {message}", f"Omit {option}")


@dataclass(frozen=True)
class MattingOptions:
    """Options for matting networks only."""

    image: Annotated[
        Path | None, typer.Option("--image", metavar="DIR", help="Your own photos, instead of --data.")
    ] = None
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="DIR", help="Masks of these photos, with the same names.")
    ] = None
    alpha: Annotated[
        Path | None,
        typer.Option("--alpha", metavar="DIR", help="Soft alphas of these photos, instead of --mask."),
    ] = None
    stages: Annotated[
        str, typer.Option("--stages", metavar="A,B", help="Run only these stages of the recipe.")
    ] = ""
    init: Annotated[
        str,
        typer.Option(
            "--init",
            "--weights",
            metavar="NAME|FILE|none",
            help="Trained weights to start from (default: the recipe's).",
        ),
    ] = ""
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            metavar="NAME|FILE",
            help="Trained weights or model that labels unlabelled photos. May be repeated: where models "
            "differ, a label has less weight.",
        ),
    ] = None
    student: Annotated[
        str, typer.Option("--student", metavar="NAME", help="Network to train, instead of the recipe's.")
    ] = ""
    check_data: Annotated[
        bool, typer.Option("--check-data", help="Check the data sets for problems, and stop.")
    ] = False
    full_check: Annotated[
        bool,
        typer.Option(
            "--full-check",
            help="Like --check-data, but decode every file and search for near duplicates of scored photos.",
        ),
    ] = False
    precision: Annotated[
        str,
        typer.Option(
            "--precision", metavar="fp32|bf16|fp16", help="Precision of the network; fp16 needs a GPU."
        ),
    ] = "fp32"


@with_groups
def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE]",
            help="A bundled recipe or a .toml file (default: the recipe that fits the data).",
        ),
    ] = "",
    *,
    run: RunOfRecipe,
    matting: MattingOptions,
    loop: LoopOptions,
    output: Output,
) -> None:
    """Train a network with a named recipe, or with the one that fits the data.

    Reports the data sets in ./data, the recipe that fits them, the expected time and disk space, and trains
    into ./runs/RECIPE. To fine-tune the bundled model on your own photos, use --image DIR --mask DIR, or put
    them in ./data/NAME/image and ./data/NAME/mask.

    The run folder contains the weights (best.safetensors, last.safetensors), config.json, log.csv,
    TensorBoard files and preview images. You can stop a run at any time, even with kill -9: the same command
    resumes from the last saved state. Use accelerate launch or torchrun for several processes; a recipe's
    batch_size is for all of them together.

    Recipes gan/... train a generator of RGBA images from photos and their mattes, with different options: see
    stylematte train gan --help.
    """
    require("torch", "accelerate", "tensorboard", extra="train")
    from training.recipe_files import trains_generator

    if run.list_recipes:
        list_recipes(recipe, run.changes, output.as_json)
        return
    is_own = _check_own(matting, run.data)
    choice, say = None, speaker(output)
    device = loop.torch_device
    if not recipe and is_own:
        recipe = SCRATCH if loop.backbone_weights else FINETUNE
    elif not recipe and run.print_recipe:
        raise UsageError("--print needs the name of a recipe", "See `stylematte train --list`")
    elif not recipe:
        choice = choose_recipe(run.root, device != "cpu", bool(loop.backbone_weights))
        recipe = choice.recipe
        for line in _explain_choice(choice, run.root):
            say(line)
        if trains_generator(recipe):
            _train_generator(context, recipe)
            return
    if run.print_recipe:
        print_recipe(_choose(recipe, run.changes, matting))
        return
    require("kornia", "pymatting", extra="train")
    root, chosen = _with_data(recipe, _choose(recipe, run.changes, matting), run.root, matting)
    if matting.check_data or matting.full_check:
        _check_data(chosen, root, matting.full_check, loop.workers, output)
        return
    folder = run.folder(recipe)
    run.check_resume(folder)
    _check_usage(matting, device, loop.backbone_weights)
    request = _read_request(chosen, root, folder, run, matting, loop, output)
    facts = train_matting(recipe, choice, request, run.dry_run)
    if output.as_json and is_first_process():
        print_json(facts)


def _read_request(
    recipe: "Recipe",
    root: Path,
    folder: Path,
    run: RunOfRecipe,
    matting: MattingOptions,
    loop: LoopOptions,
    output: Output,
) -> "TrainRequest":
    from training.loop import RunOptions
    from training.run import TrainRequest

    weights = _init_of(recipe, matting, loop.backbone_weights)
    teachers = matting.teacher or []
    check_allowed(run.policy, weights, *teachers)
    mattes = loop.mattes or folder / "mattes"
    teacher, models = teachers_of(teachers)
    if models and not run.dry_run:
        recipe = label_first(recipe, root, models, mattes, loop.device, speaker(output), output.quiet)
    return TrainRequest(
        recipe,
        root,
        RunOptions(
            out=folder,
            mattes=mattes,
            device=loop.torch_device,
            precision=matting.precision,
            accumulate=run.accumulate,
            workers=loop.workers,
            every=loop.every or EVERY,
        ),
        weights=weights,
        teacher=teacher,
        backbone=loop.backbone_weights,
        quiet=output.quiet,
        say=speaker(output),
    )


def _train_generator(context: typer.Context, recipe: str) -> None:
    """Continue as `train RECIPE` with the typed options."""
    typed = shlex.split(typed_line(context))[len(context.command_path.split()) :]
    command: Any = context.command
    with command.make_context(context.info_name, [recipe, *typed], context.parent) as inner:
        inner.command.invoke(inner)


def _check_own(matting: MattingOptions, data: Path | None) -> bool:
    """Tell whether own folders are given; rejects incomplete pairs."""
    image, labels = matting.image, [path for path in (matting.mask, matting.alpha) if path is not None]
    if image is None and not labels:
        return False
    if image is None or len(labels) != 1:
        raise UsageError("--image needs --mask or --alpha", "Give two folders: photos and labels")
    if data is not None:
        raise UsageError("--image and --data exclude each other", "Give only one of them")
    for path in (image, *labels):
        if not path.is_dir():
            raise InputError(
                f"{path}: no such folder", "--image and --mask are folders of files with the same names"
            )
    return True


def _explain_choice(choice: Choice, root: Path) -> list[str]:
    lines = [f"in {root}:", *(f"  {one}" for one in choice.found)]
    return [*lines, f"recipe {choice.recipe}: {choice.why}", *(f"  {line}" for line in choice.others)]


def _choose(name: str, overrides: list[str], matting: MattingOptions) -> "Recipe":
    """Return the recipe with the requested values, stages and network."""
    from models.presets import OFFERED, PRESETS
    from training.config import check_priors, load_recipe, select_stages

    recipe, student = load_recipe(name, overrides), matting.student
    if matting.stages:
        recipe = select_stages(recipe, tuple(part.strip() for part in matting.stages.split(",")), "--stages")
    if not student:
        return recipe
    if student not in PRESETS:
        names = ", ".join(OFFERED)
        raise UsageError(f"--student {student} is not a network", f"Choose from {names}")
    recipe = replace(recipe, preset=student, network={})
    check_priors(recipe, "--student")
    return recipe


def _with_data(name: str, recipe: "Recipe", data: Path, matting: MattingOptions) -> tuple[Path, "Recipe"]:
    """Return the data root, and the recipe with its open sets filled in."""
    from training.config import DataSet
    from training.data.found import find_sets, own_sets, with_sets

    if matting.image is not None:
        if not recipe.open_sets:
            raise UsageError(
                f"--image: recipe {name} has its own data sets", f"Use {FINETUNE}, {SCRATCH} or no recipe"
            )
        photos = matting.image.resolve()
        labels = (matting.mask or matting.alpha or matting.image).resolve()
        folder = photos.parent.name if photos.name in ("image", "images") else photos.name
        own = DataSet(
            folder or "own",
            "mattes" if matting.mask is None else "photos",
            1.0,
            image=str(photos),
            labels=str(labels),
        )
        return photos, with_sets(recipe, photos, (own,))
    if not data.is_dir():
        raise InputError(
            f"{data}: no such folder",
            f"--data is the folder of the data sets; `stylematte train {name} --list` lists them",
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


def _init_of(recipe: "Recipe", matting: MattingOptions, backbone: str) -> str:
    """Return the initial weights: those given, or the recipe's; none for other networks and encoders."""
    if matting.init:
        return "" if matting.init == "none" else matting.init
    return "" if matting.student or backbone else recipe.init


def _check_data(recipe: "Recipe", data: Path, full: bool, workers: int, output: Output) -> None:
    from training.data.check import check_data

    report = check_data(recipe, data, full, max(1, workers), output.quiet)
    if output.as_json:
        print_json(report.as_dict())
    else:
        for line in report.lines():
            typer.echo(line)
    if report.errors:
        raise typer.Exit(InputError.exit_code)


def _check_usage(matting: MattingOptions, device: str, backbone: str) -> None:
    precision = matting.precision
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is unknown", f"Choose from {', '.join(PRECISIONS)}")
    if precision == "fp16" and device == "cpu":
        raise UsageError("--precision fp16 needs a GPU", "Use bf16 or fp32")
    if backbone not in ("", "hub", "none") and not Path(backbone).exists():
        raise MissingError(f"--backbone-weights: {backbone} does not exist", "Give a file, hub or none")
    if matting.init not in ("", "none") and backbone not in ("", "none"):
        raise UsageError(
            "--init and --backbone-weights exclude each other", "Trained weights include an encoder"
        )


command = command_of(train, "train", TrainVerb)
