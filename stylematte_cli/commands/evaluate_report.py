"""Report of `stylematte evaluate`: means, a table, JSON and CSV."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from stylematte.errors import InputError
from stylematte_cli.commands.evaluate_clips import ClipResult
from stylematte_cli.commands.evaluate_pairs import Matching, Result


def _summary(scored: list[Result], of: Callable[[list[float]], Any]) -> dict[str, float]:
    """Return the mean or median of each score over the images that have it."""
    summary = {}
    for key in scored[0].scores:
        values = [result.scores[key] for result in scored if not math.isnan(result.scores[key])]
        summary[key] = float(of(values)) if values else math.nan
    return summary


def report(
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


def print_table(scored: list[Result], clips: list[ClipResult], trimap: str | None) -> None:
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


def write_csv(path: Path, scored: list[Result]) -> None:
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
