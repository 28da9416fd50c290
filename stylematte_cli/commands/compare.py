"""`stylematte compare`: matte the same photos with several models, for a contact sheet and numbers."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylematte.errors import InputError, UsageError
from stylematte_cli.commands import options
from stylematte_cli.commands.progress import with_progress

if TYPE_CHECKING:
    from stylematte.comparison import Compared

log = logging.getLogger("stylematte")

MAX_MODELS = 4
SHEET, NUMBERS = "sheet.png", "compare.json"


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL MODEL [MODEL] PHOTOS", help="Two to four models, followed by the photos."
        ),
    ],
    out: options.Out = Path("compared"),
    most: Annotated[
        int,
        typer.Option("--limit", min=1, metavar="N", help="Maximum number of photos, spread over the folder."),
    ] = 24,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    detail: options.Detail = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> int:
    """Compare several models on the same photos.

    Writes DIR/sheet.png, with a row per photo, starting with those on which the models differ most, and
    DIR/compare.json. IOU measures whether two models find the same subject. BAND is the difference of their
    alphas at its soft edge, on a scale of 255. SECONDS is the median time from a decoded photo to its alpha.
    """
    options.start_log(quiet=quiet or as_json)
    *names, place = models
    if not 2 <= len(names) <= MAX_MODELS:
        raise UsageError(
            f"{len(names)} model(s) given", f"Give 2 to {MAX_MODELS} models, followed by the photos"
        )
    sheet, numbers = out / SHEET, out / NUMBERS
    if not overwrite and (there := [path for path in (sheet, numbers) if path.exists()]):
        raise InputError(f"{there[0]} already exists", "Give --overwrite, or another --out")
    photos = _photos(Path(place), out, most)
    import stylematte
    from stylematte.comparison import compare as compare_photos
    from stylematte.comparison import draw_sheet, summarise
    from stylematte.files import write_bytes
    from stylematte.media.images import encode_image

    matters = [stylematte.load(name, engine=engine, device=device, detail=detail) for name in names]
    results = list(with_progress(compare_photos(photos, matters), len(photos), "photo", quiet))
    failed = [result for result in results if result.error is not None]
    for result in failed:
        log.error("failed: %s", result.error)
    if len(failed) == len(results):
        raise InputError(f"{place}: none of {len(results)} photos can be read")
    report = summarise(results, names)
    report["failed"] = [{"input": str(result.photo), "error": str(result.error)} for result in failed]
    write_bytes(sheet, encode_image(draw_sheet(results, names, most), "png"))
    write_bytes(numbers, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    if as_json:
        options.print_json({"sheet": str(sheet), **report})
    else:
        typer.echo("\n".join(_lines(report, results)))
        typer.echo(f"\n{sheet}: contact sheet; {numbers}: numbers for every photo")
    return 1 if failed else 0


def _photos(place: Path, out: Path, most: int) -> list[Path]:
    """Return at most `most` photos of a folder, spread evenly."""
    from stylematte.media.paths import collect

    if not place.exists():
        raise InputError(f"{place}: no such photo or folder", "The photos come last, after the models")
    found = [item.source for item in collect([place], out, ".png").items if not item.is_clip]
    if not found:
        raise InputError(f"{place}: no photos in it")
    count = min(most, len(found))
    return [found[index * len(found) // count] for index in range(count)]


def _lines(report: dict[str, Any], results: "list[Compared]") -> list[str]:
    rows = [("MODEL", "SECONDS")]
    rows += [(model["name"], f"{model['median_s']:.2f}") for model in report["models"]]
    pairs = [("", "", "IOU", "BAND", "WHOLE")]
    for pair in report["pairs"]:
        numbers = (f"{255 * pair['band_difference']:.1f}", f"{255 * pair['mean_difference']:.2f}")
        pairs.append((pair["first"], pair["second"], f"{pair['iou']:.3f}", *numbers))
    lines = [*_table(rows), "", *_table(pairs)]
    least = [row for row in report["photos"][:5] if row["iou"] < 0.9]
    if least:
        lines += ["", "the models find different subjects in"]
        lines += [f"  {row['photo']} (IoU {row['iou']:.2f})" for row in least]
    return lines


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
