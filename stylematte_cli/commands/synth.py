"""`stylematte synth`: pictures with alpha, drawn from a generator."""

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylematte.errors import InputError, MissingError, UsageError
from stylematte.weights import find_trained
from stylematte_cli.commands.options import (
    Count,
    Device,
    Json,
    Out,
    Overwrite,
    Quiet,
    Threshold,
    Truncation,
    Verbose,
    print_json,
    start_log,
)
from stylematte_cli.commands.progress import with_frame_progress
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from models.gan.generator import Generator
    from training.synthesis.drawing import Plan
    from training.synthesis.filtering import Judge
    from training.synthesis.folder import SampleFolder

DEFAULT_GENERATOR = "faces"
WHERE_GENERATORS_COME_FROM = (
    f"Import released ones: `stylematte models import humans.pkl --name {DEFAULT_GENERATOR}`; or train some: "
    "`stylematte train gan`, and give their file as --weights FILE"
)


def synth(
    out: Out = Path("synthetic"),
    count: Count = 100,
    truncation: Truncation = "0.7",
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="NAME|FILE", help="The generator: a name, or a .safetensors file."),
    ] = DEFAULT_GENERATOR,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures in one pass.")] = 8,
    form: Annotated[
        Literal["rgba", "pairs"],
        typer.Option("--format", help="RGBA files, or RGB in image/ and alphas in alpha/."),
    ] = "rgba",
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=8, metavar="PX", help="Shrink to this side; the generator's own if not given."
        ),
    ] = None,
    jitter: Annotated[
        str,
        typer.Option(
            "--jitter",
            metavar="SHIFT:DEG",
            help="Vary the pose: shifted up to this share of the side, turned up to DEG degrees: 0.05:10.",
        ),
    ] = "",
    use_filter: Annotated[
        bool,
        typer.Option(
            "--filter",
            help="Keep only what the matting network agrees with; also for pictures already there.",
        ),
    ] = False,
    threshold: Threshold = None,
    matting: Annotated[
        str, typer.Option("--matting", metavar="NAME|FILE", help="Matting network of the filter.")
    ] = "nano",
    backgrounds: Annotated[
        str,
        typer.Option("--backgrounds", metavar="DIR|COLOUR", help="Behind the filter's composites."),
    ] = "128,128,128",
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview", metavar="FILE", help="Write a sheet of the first pictures, on a chequered ground."
        ),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Draw pictures with alpha from a generator: training data for `stylematte train`.

    Picture number i depends on the weights, the seed and i alone, and the manifest has all that it takes to
    draw it again. Near copies are refused, and the filter's rejects go to OUT/rejected; the manifest names
    both, and others are drawn for them. The same command goes on with a run that was broken off, and with a
    greater --n it adds.
    """
    start_log(verbose, quiet)
    if threshold is not None and not use_filter:
        raise UsageError("--threshold is the filter's", "Add --filter")
    path = _find_generator(weights or DEFAULT_GENERATOR)
    _check_preview(preview, out)
    require("torch", extra="train")
    from stylematte.files import sha256_of
    from training.devices import usable_device
    from training.synthesis.folder import SampleFolder, Settings

    plan = _read_plan(seed, truncation, jitter)
    device = usable_device(device)
    generator = _open_generator(path, device)
    side_px = _choose_side(size, generator.config.size_px)
    settings = Settings(sha256_of(path), seed, plan.truncation, plan.shift, plan.turn_deg, side_px, form)
    folder = SampleFolder(out, settings, overwrite)
    judge = None
    if use_filter:
        judge = _open_judge(matting, threshold, backgrounds, device, side_px)
    seconds = _fill(folder, _Drawing(generator, plan, device, side_px, batch_size), count, judge, quiet)
    if preview is not None:
        from training.synthesis.sheet import write_sheet

        write_sheet(preview, folder)
    report = _report(folder, plan, judge, seconds)
    if as_json:
        print_json(report)
    else:
        _print(report, out)


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


def _read_plan(seed: int, truncation: str, jitter: str) -> "Plan":
    """Read the options.

    Raises:
        UsageError: They cannot be meant.
    """
    from training.synthesis.drawing import Plan

    try:
        low, _, high = truncation.partition(":")
        between = float(low), float(high or low)
    except ValueError:
        raise UsageError(f"--truncation {truncation!r}: a number, or two as in -0.9:0.9") from None
    try:
        shift, _, turn_deg = jitter.partition(":")
        moved = float(shift or 0), float(turn_deg or 0)
    except ValueError:
        raise UsageError(f"--jitter {jitter!r}: a shift and degrees, as in 0.05:10") from None
    try:
        return Plan(seed, between, *moved)
    except InputError as error:
        raise UsageError(f"--{error}") from None


def _open_generator(path: Path, device: str) -> "Generator":
    from models.gan.checkpoints import load_generator

    generator, _ = load_generator(path)
    if generator.config.channels != 4:
        raise InputError(
            f"{path}: draws {generator.config.channels} channels, without alpha", WHERE_GENERATORS_COME_FROM
        )
    return generator.to(device)


def _choose_side(size: int | None, own: int) -> int:
    if size is not None and size > own:
        raise UsageError(f"--size {size}: the generator draws {own} px, and is only shrunk from that")
    return size or own


def _open_judge(
    matting: str, threshold: float | None, backgrounds: str, device: str, side_px: int
) -> "Judge":
    from stylematte.media.backdrop import Backdrop
    from training.synthesis.filtering import THRESHOLD, Judge

    return Judge(matting, threshold or THRESHOLD, Backdrop.parse(backgrounds), device, side_px)


@dataclass(frozen=True)
class _Drawing:
    """How pictures are drawn."""

    generator: "Generator"
    plan: "Plan"
    device: str
    side_px: int
    batch_size: int


def _fill(folder: "SampleFolder", drawing: _Drawing, count: int, judge: "Judge | None", quiet: bool) -> float:
    """Fill the folder, and say how long it took."""
    from training.synthesis.drawing import Watch, check_variety, draw
    from training.synthesis.filling import Run, fill

    plan, z_dim = drawing.plan, drawing.generator.config.z_dim
    run = Run(
        count,
        drawing.batch_size,
        lambda index: plan.draft(index, z_dim),
        lambda drafts: draw(drawing.generator, drafts, drawing.device, drawing.side_px),
        Watch(plan).saw,
        judge,
    )
    folder.open()
    try:
        if plan.has_jitter and count > 1 and not folder.lines:
            check_variety(drawing.generator, plan, z_dim, drawing.batch_size, drawing.device)
        started = time.monotonic()
        with_frame_progress(fill(folder, run), folder.out.name, quiet, "picture")
        return time.monotonic() - started
    finally:
        folder.close()


def _report(folder: "SampleFolder", plan: "Plan", judge: "Judge | None", seconds: float) -> dict[str, Any]:
    outcomes = Counter(line["outcome"] for line in folder.lines.values())
    report = {
        "out": str(folder.out),
        "pictures": outcomes["ok"],
        "near_copies_refused": outcomes["duplicate"],
        "rejected": outcomes["rejected"],
        "seconds": round(seconds, 2),
        "settings": dataclasses.asdict(folder.settings),
    }
    if judge is not None:
        from training.synthesis.filling import filter_report

        report["filter"] = filter_report(folder, judge.threshold)
    return report


def _print(report: dict[str, Any], out: Path) -> None:
    refused = (
        f", {report['near_copies_refused']} near copies refused" if report["near_copies_refused"] else ""
    )
    if found := report.get("filter"):
        from training.synthesis.agreement import bars

        for line in bars([(b["from"], b["pictures"]) for b in found["histogram"]], found["threshold"]):
            typer.echo(line)
        typer.echo(
            f"the filter kept {found['kept_share']:.1%}, and put {found['rejected']} in {out / 'rejected'}"
        )
    typer.echo(f"{report['pictures']} pictures in {out}{refused}")
