"""`stylematte synth`: pictures with alpha, drawn from a generator."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from stylematte.errors import MissingError, UsageError
from stylematte.weights import DEFAULT_GENERATOR, WHERE_GENERATORS_COME_FROM, check_allowed, find_trained
from stylematte_cli.commands.groups import with_groups
from stylematte_cli.commands.options import (
    Device,
    Out,
    Output,
    Overwrite,
    Policy,
    Synthetic,
    Verbose,
    print_json,
    start_log,
)
from stylematte_cli.commands.progress import with_frame_progress
from stylematte_cli.commands.toolkit import require


@dataclass(frozen=True)
class Drawing:
    """What a generator draws, and as which files."""

    weights: Annotated[
        str,
        typer.Option("--weights", metavar="NAME|FILE", help="The generator: a name, or a .safetensors file."),
    ] = DEFAULT_GENERATOR
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures in one pass.")] = 8
    form: Annotated[
        Literal["rgba", "pairs"],
        typer.Option("--format", help="RGBA files, or RGB in image/ and alphas in alpha/."),
    ] = "rgba"
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=8, metavar="PX", help="Shrink to this side; the generator's own if not given."
        ),
    ] = None
    jitter: Annotated[
        str,
        typer.Option(
            "--jitter",
            metavar="SHIFT:DEG",
            help="Vary the pose: shifted up to this share of the side, turned up to DEG degrees: 0.05:10.",
        ),
    ] = ""


@dataclass(frozen=True)
class FilterOptions:
    """What a matting network has to agree with."""

    use_filter: Annotated[
        bool,
        typer.Option(
            "--filter",
            help="Keep only what the matting network agrees with; also for pictures already there.",
        ),
    ] = False
    matting: Annotated[
        str, typer.Option("--matting", metavar="NAME|FILE", help="Matting network of the filter.")
    ] = "nano"
    backgrounds: Annotated[
        str,
        typer.Option("--backgrounds", metavar="DIR|COLOUR", help="Behind the filter's composites."),
    ] = "128,128,128"


@with_groups
def synth(
    out: Out = Path("synthetic"),
    *,
    synthetic: Synthetic,
    drawing: Drawing,
    filtering: FilterOptions,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview", metavar="FILE", help="Write a sheet of the first pictures, on a chequered ground."
        ),
    ] = None,
    policy: Policy = "any",
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output,
    verbose: Verbose = 0,
) -> None:
    """Draw pictures with alpha from a generator: training data for `stylematte train`.

    Picture number i depends on the weights, the seed and i alone, and the manifest has all that it takes to
    draw it again. Near copies are refused, and the filter's rejects go to OUT/rejected; the manifest names
    both, and others are drawn for them. The same command goes on with a run that was broken off, and with a
    greater --n it adds.
    """
    start_log(verbose, output.quiet)
    if synthetic.threshold is not None and not filtering.use_filter:
        raise UsageError("--threshold is the filter's", "Add --filter")
    path = _find_generator(drawing.weights or DEFAULT_GENERATOR)
    check_allowed(policy, path, filtering.matting if filtering.use_filter else "")
    _check_preview(preview, out)
    require("torch", extra="train")
    from training.devices import usable_device
    from training.synthesis.run import Filter, SynthesisRequest, parse_plan, report_lines, synthesize

    request = SynthesisRequest(
        out=out,
        weights=path,
        plan=parse_plan(drawing.seed, synthetic.truncation, drawing.jitter),
        count=synthetic.count,
        size_px=drawing.size,
        form=drawing.form,
        batch_size=drawing.batch_size,
        keep=Filter(filtering.matting, synthetic.threshold or Filter.threshold, filtering.backgrounds)
        if filtering.use_filter
        else None,
        preview=preview,
        device=usable_device(device),
        overwrite=overwrite,
    )
    report = synthesize(request, partial(with_frame_progress, quiet=output.quiet, unit="picture"))
    if output.as_json:
        print_json(report)
    else:
        for line in report_lines(report, out):
            typer.echo(line)


def _find_generator(name_or_path: str) -> Path:
    try:
        return find_trained(name_or_path)
    except MissingError as error:
        if name_or_path != DEFAULT_GENERATOR:
            raise
        message = f"weights {DEFAULT_GENERATOR!r}, the generator that draws if none is named, are not here"
        raise MissingError(message, WHERE_GENERATORS_COME_FROM) from error


def _check_preview(preview: Path | None, out: Path) -> None:
    if preview is None:
        return
    if preview.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise UsageError(f"--preview {preview}: a file .png, .jpg or .webp")
    if out.resolve() in preview.resolve().parents:
        raise UsageError(
            f"--preview {preview} lies in --out, and would be taken for training data", "Choose another place"
        )
