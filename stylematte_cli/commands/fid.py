"""`stylematte fid`: how far generated pictures are from real ones."""

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
    real: Annotated[Path, typer.Argument(metavar="REAL", help="Folder of real pictures.")],
    fake: Annotated[Path, typer.Argument(metavar="FAKE", help="Folder of generated pictures.")],
    kid: Annotated[bool, typer.Option("--kid", help="Add KID, which has no bias with few pictures.")] = False,
    mode: Annotated[
        Literal["rgb", "composite"],
        typer.Option("--mode", help="rgb drops an alpha; composite lays pictures with one on --backgrounds."),
    ] = "rgb",
    backgrounds: Annotated[
        str | None,
        typer.Option(
            "--backgrounds",
            metavar="DIR|COLOUR",
            help=f"Behind composites: pictures, chosen by the file's name, or a colour; {GREY} if not given.",
        ),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            metavar="inception|NAME|FILE",
            help="What sees the pictures: Inception, or a stand-in whose scores are of another scale: "
            "mobilenet, nano, or a file.",
        ),
    ] = "inception",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures in one pass.")] = 32,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep the statistics of a folder for the next time.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Score generated pictures against real ones: FID, and KID with --kid.

    Less is better. Scores compare only with the same detector, mode and number of pictures; the standard is
    inception with 50000. Subfolders count, but those of labels and of what synth rejected.
    """
    start_log(verbose, quiet)
    if backgrounds is not None and mode != "composite":
        raise UsageError("--backgrounds stands behind composites", "Add --mode composite")
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
    """All that a score depends on besides the pictures."""
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
        spread = report["kid"]["deviation"]  # of subsets; none where each subset is the whole set
        typer.echo(f"KID  {report['kid']['mean']:.6f}" + (f" ± {spread:.6f}" if spread else ""))
    mode = report["mode"] + (f" over {report['backgrounds']}" if report["backgrounds"] else "")
    typer.echo(
        f"detector {report['detector']} ({report['features']} features), mode {mode}, "
        f"{report['real']['pictures']} real and {report['generated']['pictures']} generated pictures"
    )
    typer.echo("Scores of another detector, mode or number of pictures do not compare with these.")
