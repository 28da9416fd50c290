"""Generate synthetic images into a folder."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from models.gan.checkpoints import load_generator
from models.gan.generator import Generator as Network
from stylematte.errors import InputError, UsageError
from stylematte.files import sha256_of
from stylematte.media.backdrop import Backdrop
from stylematte.weights import WHERE_GENERATORS_COME_FROM
from training.synthesis.agreement import bars
from training.synthesis.drawing import CopyMonitor, SamplingPlan, check_variety, generate
from training.synthesis.filling import Run, fill, filter_report
from training.synthesis.filtering import THRESHOLD, AgreementFilter
from training.synthesis.folder import SampleFolder, Settings
from training.synthesis.sheet import write_sheet

GREY = "128,128,128"

# Runs a generator that yields (images kept, images to keep), and shows the progress; the text is the folder.
Watcher = Callable[[Generator[tuple[int, int | None], None, None], str], None]


@dataclass(frozen=True)
class Filter:
    """Which images to keep: those whose alpha a matting network confirms.

    Attributes:
        matting: Name or file of the network.
        threshold: Largest mean difference.
    """

    matting: str = "nano"
    threshold: float = THRESHOLD


@dataclass(frozen=True)
class SynthesisRequest:
    """What to generate, and into which folder.

    Attributes:
        out: The folder.
        weights: File of the generator.
        plan: Seed, truncation and jitter.
        count: Images to keep.
        size_px: Side of the images; None keeps the generator's.
        form: `rgba`, `pairs` of an image and its alpha, or `composites` and their alpha.
        backgrounds: Background of composites, and of what the filter sees: a folder or a colour.
        batch_size: Images per pass.
        precision: `fp32`; or `bf16` for the generator's convolutions, on a CPU.
        keep: The filter; None keeps all.
        preview: Sheet of the first images; None writes none.
        device: Torch device, such as "cpu" or "cuda:0".
        overwrite: Delete existing images, and start over.
    """

    out: Path
    weights: Path
    plan: SamplingPlan
    count: int = 100
    size_px: int | None = None
    form: str = "rgba"
    backgrounds: str = GREY
    batch_size: int = 8
    precision: Literal["fp32", "bf16"] = "fp32"
    keep: Filter | None = None
    preview: Path | None = None
    device: str = "cpu"
    overwrite: bool = False


def parse_plan(seed: int, truncation: str, jitter: str = "") -> SamplingPlan:
    """Parse a plan from the command line: `0.7` or `-0.9:0.9`, and `0.05:10`.

    Raises:
        UsageError: The values are invalid.
    """
    try:
        low, _, high = truncation.partition(":")
        between = float(low), float(high or low)
    except ValueError:
        raise UsageError(f"--truncation {truncation!r}: give a number, or two as in -0.9:0.9") from None
    try:
        shift, _, turn_deg = jitter.partition(":")
        moved = float(shift or 0), float(turn_deg or 0)
    except ValueError:
        raise UsageError(f"--jitter {jitter!r}: give a shift and degrees, as in 0.05:10") from None
    try:
        return SamplingPlan(seed, between, *moved)
    except InputError as error:
        raise UsageError(f"--{error}") from None


def synthesize(request: SynthesisRequest, watch: Watcher) -> dict[str, Any]:
    """Generate images, or resume.

    Args:
        request: The request.
        watch: Runs the work and shows its progress.

    Returns:
        A report of plain values.

    Raises:
        UsageError: The requested size is larger than the generator's images, or the precision is not for
            this device.
        InputError: The weights are not those of a generator with alpha; the folder contains other images; or
            nearly all images are near duplicates or rejected by the filter.
        MissingError: The filter's network is missing.
    """
    if request.precision == "bf16" and request.device != "cpu":
        raise UsageError(
            "--precision bf16 is for CPUs", "Leave it out: on a GPU the larger layers run in float16"
        )
    plan = request.plan
    generator = open_generator(request.weights, request.device)
    if request.precision == "bf16":
        generator.convolve_in(torch.bfloat16)
    side_px = _choose_side(request.size_px, generator.config.size_px)
    behind = Backdrop.parse(request.backgrounds)
    backdrop = behind if request.form == "composites" else None
    settings = Settings(
        *(sha256_of(request.weights), plan.seed, plan.truncation, plan.shift, plan.turn_deg),
        *(side_px, request.form, "" if backdrop is None else backdrop.sha256()),
        request.precision,
    )
    folder = SampleFolder(request.out, settings, request.overwrite, backdrop)
    image_filter = None
    if request.keep is not None:
        image_filter = AgreementFilter(
            request.keep.matting, request.keep.threshold, behind, request.device, side_px
        )
    seconds = _fill(folder, request, generator, image_filter, watch)
    if request.preview is not None:
        write_sheet(request.preview, folder)
    report = _report(folder, image_filter, seconds)
    return report | {"preview": None if request.preview is None else str(request.preview)}


def report_lines(report: dict[str, Any], out: Path) -> Iterator[str]:
    """Format a report as text."""
    copies = report["near_copies_refused"]
    if found := report.get("filter"):
        yield from bars([(b["from"], b["pictures"]) for b in found["histogram"]], found["threshold"])
        rejected = f"{found['rejected']} rejected images are in {out / 'rejected'}"
        yield f"the filter kept {found['kept_share']:.1%}; {rejected}"
    yield f"{report['pictures']} images in {out}" + (f", {copies} near copies refused" if copies else "")
    if report["preview"]:
        yield f"the first ones: {report['preview']}"


def open_generator(path: Path, device: str) -> Network:
    """Open a generator with an alpha channel.

    Raises:
        InputError: The generator has no alpha.
        CheckpointError: See `load_generator`.
    """
    generator, _ = load_generator(path)
    if generator.config.channels != 4:
        raise InputError(
            f"{path}: its images have {generator.config.channels} channels and no alpha",
            WHERE_GENERATORS_COME_FROM,
        )
    return generator.to(device)


def _choose_side(size_px: int | None, own: int) -> int:
    if size_px is not None and size_px > own:
        raise UsageError(
            f"--size {size_px}: the generator's images have {own} px and can only be downsampled"
        )
    return size_px or own


def _fill(
    folder: SampleFolder,
    request: SynthesisRequest,
    generator: Network,
    image_filter: AgreementFilter | None,
    watch: Watcher,
) -> float:
    """Fill the folder, and return the seconds it took."""
    plan, z_dim = request.plan, generator.config.z_dim
    side_px = folder.settings.size_px
    run = Run(
        request.count,
        request.batch_size,
        lambda index: plan.draft(index, z_dim),
        lambda drafts: generate(generator, drafts, request.device, side_px),
        CopyMonitor(plan).record,
        image_filter,
    )
    folder.open()
    try:
        if plan.has_jitter and request.count > 1 and not folder.lines:
            check_variety(generator, plan, z_dim, request.batch_size, request.device)
        started = time.monotonic()
        watch(fill(folder, run), folder.out.name)
        return time.monotonic() - started
    finally:
        folder.close()


def _report(folder: SampleFolder, image_filter: AgreementFilter | None, seconds: float) -> dict[str, Any]:
    outcomes = Counter(line["outcome"] for line in folder.lines.values())
    report = {
        "out": str(folder.out),
        "pictures": outcomes["ok"],
        "near_copies_refused": outcomes["duplicate"],
        "rejected": outcomes["rejected"],
        "seconds": round(seconds, 2),
        "settings": dataclasses.asdict(folder.settings),
    }
    return (
        report if image_filter is None else report | {"filter": filter_report(folder, image_filter.threshold)}
    )
