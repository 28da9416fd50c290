"""`stylematte evaluate`: score alphas against ground truth, and explain each number."""

import logging
import re
from pathlib import Path
from typing import Annotated

import typer

from stylematte.errors import InputError, UsageError
from stylematte_cli.commands.evaluate_clips import ClipResult, is_clip, score_folders
from stylematte_cli.commands.evaluate_pairs import Matching, match, score_all, score_clip, some_of
from stylematte_cli.commands.evaluate_report import print_table, report, write_csv
from stylematte_cli.commands.options import Json, Quiet, Verbose, print_json, start_log
from stylematte_cli.commands.progress import with_progress

log = logging.getLogger("stylematte")


def evaluate(
    prediction: Annotated[Path, typer.Argument(metavar="PRED", help="Alpha to score, or a folder of them.")],
    truth: Annotated[Path, typer.Argument(metavar="GT", help="Ground-truth alpha, or a folder of them.")],
    trimap: Annotated[
        str | None,
        typer.Option(
            "--trimap",
            metavar="FILE|DIR|auto:R",
            help="Add scores of the unknown band. Give files with values 0, 128 and 255, or auto:R to make "
            "trimaps by eroding the regions where the true alpha is 0 or 1 by R pixels.",
        ),
    ] = None,
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence", help="Treat the images of each folder as the frames of a clip, and add its scores."
        ),
    ] = False,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV file with one line per image.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Score alphas against ground truth.

    The scores are SAD, MSE, MAD, Grad, Conn and IoU; with trimaps also those of the unknown band, and for
    clips also dtSSD, MESSDdt and flicker. PRED and GT are two images, two folders, two clips, or two image
    sequences (shot.####.png).

    Alphas are 8-bit or 16-bit files of equal size. An alpha channel is used unless it is fully opaque;
    otherwise the first channel is used. Files in folders are matched by relative path without suffix.
    """
    start_log(verbose, quiet)
    radius_px = _auto_radius_px(trimap)
    clips: list[ClipResult] = []
    if is_clip(prediction) or is_clip(truth):
        if trimap and radius_px is None:
            raise UsageError(f"--trimap {trimap}: clips need computed trimaps", "Use --trimap auto:R")
        matching = Matching([], [], [])
        frames = score_clip(prediction, truth, radius_px, clips)
        results = list(with_progress(frames, None, "frame", quiet))
    else:
        matching = match(prediction, truth, Path(trimap) if trimap and radius_px is None else None)
        _warn_of(matching.without_prediction, "in GT have no prediction and are not part of the means")
        _warn_of(matching.without_truth, "in PRED have no ground truth and are not scored")
        count = len(matching.pairs)
        results = list(with_progress(score_all(matching.pairs, radius_px), count, "image", quiet))
        if sequence:
            scored_pairs = (result.pair for result in results if result.error is None)
            clips = score_folders([(pair.name, pair.prediction, pair.truth) for pair in scored_pairs])
    for result in results:
        for warning in result.warnings:
            log.warning("warning: %s", warning)
        if result.error and len(results) > 1:
            log.error("error: %s", result.error)
    scored = [result for result in results if result.error is None]
    if not scored:
        alone = results[0].error if len(results) == 1 else None
        raise alone or InputError(f"none of {len(results)} pairs could be scored")
    if as_json:
        print_json(report(matching, results, clips, trimap))
    else:
        print_table(scored, clips, trimap)
    if csv_path:
        write_csv(csv_path, scored)
    return 1 if matching.without_prediction or len(scored) < len(results) else 0


def _auto_radius_px(trimap: str | None) -> int | None:
    """Read the radius of `auto:R`; None for anything else."""
    if trimap is None or not trimap.startswith("auto:"):
        return None
    if not re.fullmatch(r"auto:\d{1,4}", trimap):
        raise UsageError(
            f"--trimap {trimap}: the radius is not a whole number of pixels", "For example auto:10"
        )
    return int(trimap.removeprefix("auto:"))


def _warn_of(names: list[str], what: str) -> None:
    if names:
        log.warning("warning: %d %s: %s", len(names), what, some_of(names))
