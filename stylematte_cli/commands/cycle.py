"""`stylematte cycle`: the loop that feeds itself, a network fine-tuned on pictures that it helped to make."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from stylematte.errors import InputError, UsageError
from stylematte_cli.commands.groups import with_groups
from stylematte_cli.commands.options import (
    Count,
    Detector,
    Output,
    Synthetic,
    print_json,
    start_log,
)
from stylematte_cli.commands.progress import with_frame_progress, with_progress
from stylematte_cli.commands.toolkit import let_threads_sleep, require
from stylematte_cli.commands.train_options import LoopOptions


@dataclass(frozen=True)
class Networks:
    """The two networks, by recipes or ready made."""

    recipe: Annotated[str, typer.Option("--recipe", metavar="RECIPE", help="Of the matting network.")] = (
        "nano"
    )
    gan: Annotated[str, typer.Option("--gan", metavar="RECIPE", help="Of the generator.")] = "gan/faces-64"
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="NAME|FILE",
            help="Matting network to begin with, in place of pretraining.",
        ),
    ] = ""
    generator: Annotated[
        str,
        typer.Option(
            "--generator",
            metavar="NAME|FILE",
            help="A trained generator, in place of the steps mattes and gan.",
        ),
    ] = ""


@dataclass(frozen=True)
class SyntheticForTraining(Synthetic):
    """As many as fine-tuning has use for."""

    count: Count = 2000


@with_groups
def cycle(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Folder that holds the data sets of both recipes.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Run folder; goes on with the cycle in it.")
    ],
    networks: Networks,
    synthetic: SyntheticForTraining,
    loop: LoopOptions,
    output: Output,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of fine-tuning.")] = 500,
    control: Annotated[
        bool,
        typer.Option("--control", help="Fine-tune without generated pictures, too, to tell what they bring."),
    ] = False,
    detector: Detector = "",
) -> None:
    """Train a matting network, let it matte faces, train a generator on them, and fine-tune on what it draws.

    The steps: pretrain, export, mattes, gan, synth (with its filter), finetune, score. Each is what the verb
    of that name does, in a folder of its own below --out, and none is done twice: the same command goes on
    where a cycle was stopped. OUT/report.md tells what came out, report.json the same for programs.
    """
    is_quiet = output.quiet or output.as_json
    start_log(quiet=is_quiet)
    let_threads_sleep()
    require("torch", "accelerate", "kornia", "pymatting", "tensorboard", extra="train")
    require("onnxruntime", extra="cpu")
    if not data.is_dir():
        raise InputError(f"{data}: no such folder", "--data is the folder that holds the data sets")
    from training.config import load_recipe
    from training.cycle import run_steps, write_report
    from training.cycle_steps import CycleRequest, all_steps, check_inputs, overlap
    from training.gan.config import load_gan_recipe
    from training.recipe_files import trains_generator
    from training.synthesis.filtering import THRESHOLD

    if trains_generator(networks.recipe):
        raise UsageError(f"--recipe {networks.recipe} trains a generator", "Name it as --gan")
    if not trains_generator(networks.gan):
        raise UsageError(f"--gan {networks.gan} trains a matting network", "Name it as --recipe")
    say: Callable[[str], None] = (lambda line: None) if is_quiet else typer.echo
    request = CycleRequest(
        data=data,
        out=out,
        recipe=load_recipe(networks.recipe),
        gan=load_gan_recipe(networks.gan),
        weights=networks.weights,
        trained_generator=networks.generator,
        count=synthetic.count,
        truncation=synthetic.truncation,
        threshold=synthetic.threshold or THRESHOLD,
        steps=steps,
        mattes=loop.mattes or out / "mattes",
        backbone=loop.backbone_weights,
        detector=detector,
        every=loop.every,
        workers=loop.workers,
        device=loop.torch_device,
        quiet=is_quiet,
        export=partial(_export, quiet=is_quiet),
        say=say,
        progress=partial(with_progress, unit="matte", quiet=is_quiet),
        watch=partial(with_frame_progress, quiet=is_quiet, unit="picture"),
    )
    check_inputs(request)
    if shared := overlap(request):
        print(f"stylematte: {shared}: scores may be taken on photos that the generator saw", file=sys.stderr)
    with redirect_stdout(sys.stderr) if is_quiet else nullcontext():
        results = run_steps(out, all_steps(request, control), say)
    scores = results["score"].pop("scores")
    settings = {
        "recipe": networks.recipe,
        "gan": networks.generator or networks.gan,
        "n": request.count,
        "truncation": request.truncation,
        "steps": steps,
        "threshold": request.threshold,
    }
    write_report(out, settings, results, scores)
    if output.as_json:
        print_json(json.loads((out / "report.json").read_text(encoding="utf-8")))
    elif not output.quiet:
        typer.echo((out / "report.md").read_text(encoding="utf-8"))


def _export(weights: Path, folder: Path, quiet: bool) -> None:
    """Make a model file of weights, as `stylematte export` does."""
    from stylematte_cli.commands.export import export

    export(folder, weights=str(weights), overwrite=True, quiet=True)
    start_log(quiet=quiet)  # which that set, too
