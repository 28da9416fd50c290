"""`stylematte evaluate`: score alphas against ground truth, and explain each number."""

import csv
import io
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stylematte.errors import InputError, StyleMatteError, UsageError
from stylematte_cli.commands.evaluate_clips import ClipResult, is_clip, read_pairs, score_folders
from stylematte_cli.commands.options import Json, Quiet, Verbose, print_json, start_log
from stylematte_cli.commands.progress import with_progress

log = logging.getLogger("stylematte")

MAX_THREADS = 4  # each holds a few float copies of one image
MAX_NAMES = 20  # in one line of stderr; --json lists all of them


@dataclass(frozen=True)
class Pair:
    """Matching files; `name` is the path below the folders, without suffix."""

    name: str
    prediction: Path
    truth: Path
    trimap: Path | None = None


@dataclass(frozen=True)
class Matching:
    """Matches between two folders; names are relative paths without suffix."""

    pairs: list[Pair]
    without_prediction: list[str]
    without_truth: list[str]


@dataclass
class Result:
    """Result for one pair: scores by name, or an error; and warnings."""

    pair: Pair
    scores: dict[str, float]
    warnings: list[str]
    error: StyleMatteError | None = None


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
        frames = _score_clip(prediction, truth, radius_px, clips)
        results = list(with_progress(frames, None, "frame", quiet))
    else:
        matching = match(prediction, truth, Path(trimap) if trimap and radius_px is None else None)
        _warn_of(matching.without_prediction, "in GT have no prediction and are not part of the means")
        _warn_of(matching.without_truth, "in PRED have no ground truth and are not scored")
        count = len(matching.pairs)
        results = list(with_progress(_score_all(matching.pairs, radius_px), count, "image", quiet))
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
        print_json(_report(matching, results, clips, trimap))
    else:
        _print_table(scored, clips, trimap)
    if csv_path:
        _write_csv(csv_path, scored)
    return 1 if matching.without_prediction or len(scored) < len(results) else 0


def match(prediction: Path, truth: Path, trimap: Path | None = None) -> Matching:
    """Match the files of two folders.

    Args:
        prediction: A file, or a folder, which is searched recursively.
        truth: A file or folder, like `prediction`.
        trimap: A file or folder; for two files it may also be a folder.

    Raises:
        UsageError: One is a file and the other a folder.
        InputError: A path does not exist, no names match, or a folder has two files of the same name.
    """
    for path in (prediction, truth, trimap):
        if path is not None and not path.exists():
            raise InputError(f"{path}: no such file or folder")
    if prediction.is_dir() != truth.is_dir():
        raise UsageError(
            f"{prediction} and {truth}: one is a folder and the other a file", "Give two files or two folders"
        )
    if not prediction.is_dir():
        if trimap is not None and trimap.is_dir():
            trimap = _trimap_of(truth.stem, trimap, _by_name(trimap))
        return Matching([Pair(truth.stem, prediction, truth, trimap)], [], [])
    if trimap is not None and not trimap.is_dir():
        raise UsageError(
            f"--trimap {trimap}: one file for two folders", "Give a folder of trimaps, or auto:R"
        )

    predictions, truths = _by_name(prediction), _by_name(truth)
    names = sorted(predictions.keys() & truths.keys())
    if not names:
        raise InputError(
            f"{prediction} and {truth}: no files in these folders have the same name",
            f"Found {len(predictions)} and {len(truths)} images; suffixes may differ, but names must match",
        )
    trimaps = {} if trimap is None else _by_name(trimap)
    pairs = [Pair(name, predictions[name], truths[name], trimaps.get(name)) for name in names]
    lacking = [pair.name for pair in pairs if trimap is not None and pair.trimap is None]
    if lacking:
        raise InputError(f"{trimap}: no trimap for {_some(lacking)}")
    return Matching(pairs, sorted(truths.keys() - predictions), sorted(predictions.keys() - truths))


def score(pair: Pair, radius_px: int | None = None) -> Result:
    """Read and score one pair.

    Args:
        pair: The files.
        radius_px: Make the trimap from the true alpha with a band of this radius.

    Raises:
        InputError: A file cannot be read, or the sizes differ.
    """
    import numpy as np

    from stylematte.media.images import read_alpha
    from training import metrics

    warnings: list[str] = []
    prediction, truth = (_read_alpha(path, warnings) for path in (pair.prediction, pair.truth))
    _check_sizes(pair, "prediction", prediction, truth)
    trimap = None
    if radius_px is not None:
        trimap = metrics.trimap_from_alpha(truth, radius_px)
    elif pair.trimap is not None:
        trimap = (read_alpha(pair.trimap) * 255 + 0.5).astype(np.uint8)
        _check_sizes(pair, "trimap", trimap, truth)
        odd = sorted(set(np.unique(trimap).tolist()) - {0, 128, 255})
        if odd:
            values = ", ".join(map(str, odd[:5])) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
            warnings.append(
                f"{pair.trimap}: value {values} is counted as unknown; code that only looks for 128 would "
                "ignore it"
            )
    return Result(pair, metrics.measure(prediction, truth, trimap), warnings)


def _read_alpha(path: Path, warnings: list[str]) -> Any:
    """Read an alpha, and warn if the file does not look like one."""
    import numpy as np

    from stylematte.media.images import alpha_of, is_coloured, read_image

    photo = read_image(path, is_data=True)
    alpha = alpha_of(photo)
    if is_coloured(photo):
        warnings.append(f"{path}: a colour image, not an alpha; its red channel is scored")
    levels = np.iinfo(photo.pixels.dtype).max
    if alpha.any() and alpha.max() * levels < 1.5:
        warnings.append(f"{path}: a mask with values 0 and 1; it is scored as 0 and {levels}")
        alpha = alpha * np.float32(levels)
    return alpha


def _score_clip(
    prediction: Path, truth: Path, radius_px: int | None, clips: list[ClipResult]
) -> Iterator[Result]:
    """Score every frame of a clip, then add the clip itself to `clips`."""
    from training import metrics

    stability = metrics.ClipScores()
    for number, found, true in read_pairs(prediction, truth):
        pair = Pair(f"{truth.stem}.{number:04}", prediction, truth)
        _check_sizes(pair, "prediction", found, true)
        trimap = None if radius_px is None else metrics.trimap_from_alpha(true, radius_px)
        stability.add(found, true)
        yield Result(pair, metrics.measure(found, true, trimap), [])
    clips.append(ClipResult(truth.stem, stability.frames, stability.scores()))


def _score_all(pairs: list[Pair], radius_px: int | None) -> Iterator[Result]:
    """Score on several threads, results in the order of the pairs; OpenCV and NumPy release the GIL."""
    from stylematte.engines.base import usable_cores

    def attempt(pair: Pair) -> Result:
        try:
            return score(pair, radius_px)
        except StyleMatteError as error:
            return Result(pair, {}, [], error)

    from concurrent.futures import ThreadPoolExecutor  # takes long, and no help needs it

    pool = ThreadPoolExecutor(min(MAX_THREADS, usable_cores()))
    try:
        yield from pool.map(attempt, pairs)
    finally:  # also after Ctrl-C: drop the waiting pairs
        pool.shutdown(cancel_futures=True)


def _auto_radius_px(trimap: str | None) -> int | None:
    """Read the radius of `auto:R`; None for anything else."""
    if trimap is None or not trimap.startswith("auto:"):
        return None
    if not re.fullmatch(r"auto:\d{1,4}", trimap):
        raise UsageError(
            f"--trimap {trimap}: the radius is not a whole number of pixels", "For example auto:10"
        )
    return int(trimap.removeprefix("auto:"))


def _by_name(folder: Path) -> dict[str, Path]:
    """Map relative paths without suffix to files; the folder is searched as by `stylematte matte`."""
    from stylematte.media.paths import walk

    found: dict[str, Path] = {}
    problems: list[tuple[Path, str]] = []
    for path in walk(folder, problems):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{found[name]} and {path}: two files have the same name", "Remove one of them")
        found[name] = path
    for path, reason in problems:
        log.warning("warning: %s: %s", path, reason)
    return found


def _trimap_of(name: str, folder: Path, trimaps: dict[str, Path]) -> Path:
    if name not in trimaps:
        raise InputError(f"{folder}: no trimap for {name}")
    return trimaps[name]


def _check_sizes(pair: Pair, what: str, array: Any, truth: Any) -> None:
    if array.shape != truth.shape:
        one, other = ("x".join(map(str, a.shape)) for a in (array, truth))
        raise InputError(
            f"{pair.name}: {what} is {one}, ground truth is {other} (height x width)",
            "Compute the alpha at the size of the photo; scores of resized alphas are not meaningful",
        )


def _warn_of(names: list[str], what: str) -> None:
    if names:
        log.warning("warning: %d %s: %s", len(names), what, _some(names))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _summary(scored: list[Result], of: Callable[[list[float]], Any]) -> dict[str, float]:
    """Return the mean or median of each score over the images that have it."""
    summary = {}
    for key in scored[0].scores:
        values = [result.scores[key] for result in scored if not math.isnan(result.scores[key])]
        summary[key] = float(of(values)) if values else math.nan
    return summary


def _report(
    matching: Matching, results: list[Result], clips: list[ClipResult], trimap: str | None
) -> dict[str, Any]:
    """Return the whole report for --json; missing scores are null."""
    import numpy as np

    from training.metrics import CONVENTIONS

    def jsonable(scores: dict[str, float]) -> dict[str, float | None]:
        return {key: None if math.isnan(value) else value for key, value in scores.items()}

    scored = [result for result in results if result.error is None]
    return {
        "images": len(scored),
        "trimap": trimap,
        "mean": jsonable(_summary(scored, np.mean)),
        "median": jsonable(_summary(scored, np.median)),
        "clips": [{"name": c.name, "frames": c.frames, **jsonable(c.scores)} for c in clips],
        "conventions": {
            key: CONVENTIONS[key] for key in [*scored[0].scores, *(clips[0].scores if clips else ())]
        },
        "per_image": [
            {
                "name": result.pair.name,
                "prediction": str(result.pair.prediction),
                "truth": str(result.pair.truth),
                **jsonable(result.scores),
            }
            for result in scored
        ],
        "failed": {result.pair.name: str(result.error) for result in results if result.error},
        "without_prediction": matching.without_prediction,
        "without_truth": matching.without_truth,
        "warnings": [warning for result in results for warning in result.warnings],
    }


def _print_table(scored: list[Result], clips: list[ClipResult], trimap: str | None) -> None:
    """Print one line per score, followed by the meaning of each score."""
    import numpy as np

    from training.metrics import CONVENTIONS

    mean, median = _summary(scored, np.mean), _summary(scored, np.median)
    if len(scored) == 1:
        for key, value in mean.items():
            typer.echo(f"{key:<8}{_number(key, value):>12}")
    else:
        typer.echo(f"{'':<8}{'mean':>12}{'median':>12}{'worst':>12}")
        for key in mean:
            have = [result for result in scored if not math.isnan(result.scores[key])] or scored
            worst = (min if key == "IoU" else max)(have, key=lambda result: result.scores[key])
            numbers = (mean[key], median[key], worst.scores[key])
            typer.echo(
                f"{key:<8}" + "".join(f"{_number(key, n):>12}" for n in numbers) + f"  {worst.pair.name}"
            )

    for clip in clips:
        values = "".join(f"  {key} {_number(key, value)}" for key, value in clip.scores.items())
        typer.echo(f"clip {clip.name}, {clip.frames} frames:{values}")

    typer.echo(f"\n{len(scored)} image{'s' if len(scored) > 1 else ''}; d is prediction minus truth.")
    for key in [*scored[0].scores, *(clips[0].scores if clips else ())]:
        typer.echo(f"  {key:<8} {CONVENTIONS[key]}")
    if trimap and trimap.startswith("auto:"):
        typer.echo(
            f"The trimaps were computed by eroding the regions alpha = 0 and alpha = 1 by "
            f"{trimap.removeprefix('auto:')} px; scores are not comparable with those of a data set's own "
            "trimaps."
        )


def _number(key: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.6f}" if key.startswith(("MSE", "MAD")) else f"{value:.4f}"


def _write_csv(path: Path, scored: list[Result]) -> None:
    """Write one line per image; missing scores are empty."""
    from stylematte.files import write_bytes

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *scored[0].scores])
    for result in scored:
        values = ["" if math.isnan(value) else value for value in result.scores.values()]
        writer.writerow([result.pair.name, *values])
    try:
        write_bytes(path, text.getvalue().encode())
    except InputError as error:
        raise InputError(error.message, "Choose another place with --csv") from None
