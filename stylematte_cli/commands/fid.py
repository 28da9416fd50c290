"""`stylematte fid`: score generated images against real ones."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylematte.errors import UsageError
from stylematte_cli.commands.options import Device, Json, Quiet, Verbose, print_json, start_log
from stylematte_cli.commands.progress import with_progress
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from training.fid import Detector
    from training.fid_images import FidImages

log = logging.getLogger("stylematte")

GREY = "128,128,128"


def fid(
    real: Annotated[Path, typer.Argument(metavar="REAL", help="Folder of real images.")],
    fake: Annotated[Path, typer.Argument(metavar="FAKE", help="Folder of generated images.")],
    kid: Annotated[
        bool, typer.Option("--kid", help="Add KID, which is unbiased even for few images.")
    ] = False,
    mode: Annotated[
        Literal["rgb", "composite"],
        typer.Option("--mode", help="rgb ignores alphas; composite puts images over --backgrounds."),
    ] = "rgb",
    backgrounds: Annotated[
        str | None,
        typer.Option(
            "--backgrounds",
            metavar="DIR|COLOUR",
            help=f"Background of composites: a folder of images or a colour (default: {GREY}).",
        ),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            metavar="inception|NAME|FILE",
            help="Feature extractor: inception, or a substitute with scores on another scale: mobilenet, "
            "nano, or a file.",
        ),
    ] = "inception",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per pass.")] = 32,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Cache the statistics of each folder.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Score generated images against real ones: FID, and KID with --kid.

    Lower is better. Scores are only comparable with the same detector, mode and number of images; the
    standard is inception with 50000 images. Subfolders are included, except labels and images that synth
    rejected.
    """
    start_log(verbose, quiet)
    if backgrounds is not None and mode != "composite":
        raise UsageError("--backgrounds needs --mode composite", "Add --mode composite")
    require("torch", "torchmetrics", extra="train")
    from stylematte.media.backdrop import Backdrop
    from training import fid as scores
    from training.devices import usable_device
    from training.fid_images import FidImages, read_statistics
    from training.gan.run import detector_folders

    backdrop = Backdrop.parse(backgrounds or GREY) if mode == "composite" else None
    sets = [FidImages.find(folder, backdrop) for folder in (real, fake)]
    seeing = scores.load_detector(detector, detector_folders()).to(usable_device(device))
    if seeing.name != "inception":
        log.info("detector %s, SHA-256 %s", seeing.name, seeing.sha256)
    progress = partial(with_progress, unit="group", quiet=quiet)
    of_real, of_fake = (read_statistics(s, seeing, kid, batch_size, cache, progress) for s in sets)
    values: dict[str, Any] = {"fid": scores.fid(of_real, of_fake)}
    if kid:
        mean, deviation = scores.kid(of_real, of_fake)
        values["kid"] = {"mean": mean, "deviation": deviation}
    doubts = scores.doubts(of_real.count, of_fake.count, seeing.num_features)
    for doubt in doubts:
        log.warning("%s", doubt)
    report = values | _conditions(sets, seeing, mode, backgrounds or GREY) | {"warnings": doubts}
    if as_json:
        print_json(report)
    else:
        _print(report)


def _conditions(sets: "list[FidImages]", detector: "Detector", mode: str, backgrounds: str) -> dict[str, Any]:
    """Return everything that a score depends on besides the images."""
    return {
        "detector": detector.name,
        "detector_sha256": detector.sha256,
        "features": detector.num_features,
        "mode": mode,
        "backgrounds": backgrounds if mode == "composite" else None,
        "real": {"folder": str(sets[0].folder), "pictures": len(sets[0].files)},
        "generated": {"folder": str(sets[1].folder), "pictures": len(sets[1].files)},
    }


def _print(report: dict[str, Any]) -> None:
    typer.echo(f"FID  {report['fid']:.4f}")
    if "kid" in report:
        spread = report["kid"]["deviation"]  # 0 if each subset is the whole set
        typer.echo(f"KID  {report['kid']['mean']:.6f}" + (f" ± {spread:.6f}" if spread else ""))
    mode = report["mode"] + (f" over {report['backgrounds']}" if report["backgrounds"] else "")
    typer.echo(
        f"detector {report['detector']} ({report['features']} features), mode {mode}, "
        f"{report['real']['pictures']} real and {report['generated']['pictures']} generated images"
    )
    typer.echo("These scores are only comparable with the same detector, mode and number of images.")
