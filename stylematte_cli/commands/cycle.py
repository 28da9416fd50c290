"""`stylematte cycle`: pretrain, matte photos, train a generator on them, fine-tune on its images."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from stylematte_cli.commands.toolkit import require
from stylematte_cli.commands.train_options import LoopOptions

if TYPE_CHECKING:
    from training.cycle_steps import CycleRequest


@dataclass(frozen=True)
class Networks:
    """The two networks, from recipes or already trained."""

    recipe: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="Recipe of the matting network.")
    ] = "nano"
    gan: Annotated[str, typer.Option("--gan", metavar="RECIPE", help="Recipe of the generator.")] = (
        "gan/faces-64"
    )
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="NAME|FILE",
            help="Trained matting network, instead of pretraining one.",
        ),
    ] = ""
    generator: Annotated[
        str,
        typer.Option(
            "--generator",
            metavar="NAME|FILE",
            help="Trained generator, instead of the steps mattes and gan.",
        ),
    ] = ""


@dataclass(frozen=True)
class SyntheticForTraining(Synthetic):
    """Generated images for fine-tuning."""

    count: Count = 2000
    share: Annotated[
        float,
        typer.Option(
            "--share",
            min=0.01,
            max=0.99,
            help="Fraction of generated images in the fine-tuning, unless the recipe has its own "
            "stage for them.",
        ),
    ] = 0.3


@with_groups
def cycle(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Folder of the data sets of both recipes.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Run folder; an existing cycle in it is resumed."),
    ],
    networks: Networks,
    synthetic: SyntheticForTraining,
    loop: LoopOptions,
    output: Output,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the fine-tuning.")] = 500,
    control: Annotated[
        bool,
        typer.Option("--control", help="Also fine-tune without generated images, for comparison."),
    ] = False,
    detector: Detector = "",
) -> None:
    """Pretrain a matting network, matte photos, train a generator on them, and fine-tune on its images.

    The steps are pretrain, export, mattes, gan, synth (with its filter), finetune and score. Each step has
    its own folder below --out. Finished steps are not repeated: the same command resumes an interrupted
    cycle. The results are in OUT/report.md, and in OUT/report.json for programs.
    """
    is_quiet = output.quiet or output.as_json
    start_log(quiet=is_quiet)
    require("torch", "accelerate", "kornia", "pymatting", "tensorboard", extra="train")
    require("onnxruntime", extra="cpu")
    if not data.is_dir():
        raise InputError(f"{data}: no such folder", "--data is the folder of the data sets")
    from training.cycle import run_steps, write_report
    from training.cycle_steps import all_steps, check_inputs, overlap

    request = _read_request(data, out, networks, synthetic, loop, steps, detector, is_quiet)
    check_inputs(request)
    if shared := overlap(request):
        print(
            f"stylematte: {shared}: scores may include photos that the generator was trained on",
            file=sys.stderr,
        )
    with redirect_stdout(sys.stderr) if is_quiet else nullcontext():
        results = run_steps(out, all_steps(request, control), request.say)
    scores = results["score"].pop("scores")
    settings = {
        "recipe": networks.recipe,
        "gan": networks.generator or networks.gan,
        "n": request.count,
        "truncation": request.truncation,
        "steps": steps,
        "share": synthetic.share,
        "threshold": request.threshold,
    }
    write_report(out, settings, results, scores)
    if output.as_json:
        print_json(json.loads((out / "report.json").read_text(encoding="utf-8")))
    elif not output.quiet:
        typer.echo((out / "report.md").read_text(encoding="utf-8"))


def _read_request(
    data: Path,
    out: Path,
    networks: Networks,
    synthetic: SyntheticForTraining,
    loop: LoopOptions,
    steps: int,
    detector: str,
    is_quiet: bool,
) -> "CycleRequest":
    from training.config import load_recipe
    from training.cycle_steps import CycleRequest
    from training.gan.config import load_gan_recipe
    from training.recipe_files import trains_generator
    from training.synthesis.filtering import THRESHOLD

    if trains_generator(networks.recipe):
        raise UsageError(f"--recipe {networks.recipe} trains a generator", "Give it as --gan")
    if not trains_generator(networks.gan):
        raise UsageError(f"--gan {networks.gan} trains a matting network", "Give it as --recipe")
    say: Callable[[str], None] = (lambda line: None) if is_quiet else typer.echo
    return CycleRequest(
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
        share=synthetic.share,
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
        watch=partial(with_frame_progress, quiet=is_quiet, unit="image"),
    )


def _export(weights: Path, folder: Path, quiet: bool) -> None:
    """Export weights like `stylematte export`."""
    from stylematte_cli.commands.export import export

    export(folder, weights=str(weights), overwrite=True, quiet=True)
    start_log(quiet=quiet)  # export changed it
