"""`stylematte synth`: generate images with alpha."""

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
class GenerationOptions:
    """What to generate, and in which format."""

    weights: Annotated[
        str,
        typer.Option("--weights", metavar="NAME|FILE", help="Generator: a name or a .safetensors file."),
    ] = DEFAULT_GENERATOR
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per pass.")] = 8
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(
            "--precision",
            help="Precision of the convolutions. bf16 is faster on CPUs with instructions for bfloat16; most "
            "values then differ by less than 2 of 255.",
        ),
    ] = "fp32"
    form: Annotated[
        Literal["rgba", "pairs", "composites"] | None,
        typer.Option(
            "--format",
            help="Write RGBA files, pairs in image/ and alpha/, or pairs with composites over --backgrounds "
            "(default: rgba, or composites if --backgrounds is given).",
        ),
    ] = None
    backgrounds: Annotated[
        str,
        typer.Option(
            "--backgrounds",
            metavar="DIR|COLOUR",
            help="Background of the composites, and of what the filter sees (default: grey).",
        ),
    ] = ""
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=8, metavar="PX", help="Downsample images to this side (default: the generator's)."
        ),
    ] = None
    jitter: Annotated[
        str,
        typer.Option(
            "--jitter",
            metavar="SHIFT:DEG",
            help="Shift images by up to this fraction of the side, and rotate them by up to DEG degrees: "
            "0.05:10.",
        ),
    ] = ""


@dataclass(frozen=True)
class FilterOptions:
    """Filter of the generated images."""

    use_filter: Annotated[
        bool,
        typer.Option(
            "--filter",
            help="Keep only images whose alpha a matting network confirms; also applies to existing images.",
        ),
    ] = False
    matting: Annotated[
        str, typer.Option("--matting", metavar="NAME|FILE", help="Matting network of the filter.")
    ] = "nano"


@with_groups
def synth(
    out: Out = Path("synthetic"),
    *,
    synthetic: Synthetic,
    generation: GenerationOptions,
    filtering: FilterOptions,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            metavar="FILE",
            help="Contact sheet of the first images over a checkerboard (default: OUT.preview.png).",
        ),
    ] = None,
    policy: Policy = "any",
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output,
    verbose: Verbose = 0,
) -> None:
    """Generate images with alpha, as training data for `stylematte train`.

    Image number i depends only on the weights, the seed and i, and the manifest records everything needed to
    generate it again. Near duplicates are rejected, and images rejected by the filter go to OUT/rejected. The
    manifest lists both, and replacements are generated for them. The same command resumes an interrupted run;
    with a larger --n it adds images.
    """
    start_log(verbose, output.quiet)
    if synthetic.threshold is not None and not filtering.use_filter:
        raise UsageError("--threshold needs --filter", "Add --filter")
    form = generation.form or ("composites" if generation.backgrounds else "rgba")
    if generation.backgrounds and form != "composites" and not filtering.use_filter:
        raise UsageError(f"--backgrounds has no effect with --format {form}", "Leave out one of them")
    path = _find_generator(generation.weights or DEFAULT_GENERATOR)
    check_allowed(policy, path, filtering.matting if filtering.use_filter else "")
    sheet = preview or out.resolve().with_name(f"{out.resolve().name}.preview.png")
    _check_preview(sheet, out)
    require("torch", extra="train")
    from training.devices import usable_device
    from training.synthesis.run import GREY, Filter, SynthesisRequest, parse_plan, report_lines, synthesize

    request = SynthesisRequest(
        out=out,
        weights=path,
        plan=parse_plan(generation.seed, synthetic.truncation, generation.jitter),
        count=synthetic.count,
        size_px=generation.size,
        form=form,
        backgrounds=generation.backgrounds or GREY,
        batch_size=generation.batch_size,
        precision=generation.precision,
        keep=Filter(filtering.matting, synthetic.threshold or Filter.threshold)
        if filtering.use_filter
        else None,
        preview=sheet,
        device=usable_device(device),
        overwrite=overwrite,
    )
    report = synthesize(request, partial(with_frame_progress, quiet=output.quiet, unit="image"))
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
        message = f"weights {DEFAULT_GENERATOR!r}, the default generator, are missing"
        raise MissingError(message, WHERE_GENERATORS_COME_FROM) from error


def _check_preview(preview: Path, out: Path) -> None:
    if preview.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise UsageError(f"--preview {preview}: give a .png, .jpg or .webp file")
    if out.resolve() in preview.resolve().parents:
        raise UsageError(
            f"--preview {preview} is inside --out and would be used as training data", "Choose another folder"
        )
