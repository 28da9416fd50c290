"""`stylematte bench`: time models on this machine, each in a separate process."""

from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylematte.errors import StyleMatteError, UsageError
from stylematte_cli.commands import options
from stylematte_cli.commands.progress import with_progress

if TYPE_CHECKING:
    from stylematte.timing import Timing

HEADER = (
    *("MODEL", "PRECISION", "ENGINE", "PROVIDER", "NETWORK SEES", "BATCH"),
    *("MEDIAN ms", "P95 ms", "PHOTOS/s", "MATTE ms", "MEMORY"),
)


def bench(
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", metavar="NAME|FILE", help="Model to time; may be repeated (default: nano)."
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", metavar=options.ENGINES, help="Runtime; may be repeated."),
    ] = None,
    device: options.Device = "auto",
    precision: options.EnginePrecision = "auto",
    size: Annotated[
        list[int] | None,
        typer.Option(
            "--size",
            min=32,
            max=4096,
            metavar="PX",
            help="Working size, as for matte; may be repeated (default: the model's own).",
        ),
    ] = None,
    detail: options.Detail = "off",
    batch_size: Annotated[
        list[int] | None,
        typer.Option("--batch-size", min=1, metavar="N", help="Photos per pass; may be repeated."),
    ] = None,
    photo: Annotated[
        str, typer.Option("--photo", metavar="HxW", help="Height and width of the photo to matte.")
    ] = "1536x2048",
    runs: Annotated[
        int, typer.Option("--runs", min=3, metavar="N", help="Number of timed passes per case.")
    ] = 20,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads (default: all cores).")
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> int:
    """Time models: the network alone, and complete mattes; every combination in a separate process.

    MEDIAN, P95 and PHOTOS/s measure the network; MATTE measures the whole way from a decoded photo to its
    8-bit alpha. MEMORY is the peak resident size of the process, including everything it loads.
    """
    options.start_log(quiet=quiet)
    photo_size = _read_size(photo)
    from stylematte.timing import Case, machine, measure_apart
    from stylematte.weights import resolve

    paths = [resolve(name) for name in weights or ["nano"]]
    sizes: list[int | None] = [*size] if size else [None]
    cases = [
        Case(path, one_engine, device, one_size, one_batch, photo_size, runs, threads, detail, precision)
        for path, one_engine, one_size, one_batch in product(
            paths, engine or ["auto"], sizes, batch_size or [1]
        )
    ]
    timings: list[Timing] = []
    failures: list[dict[str, str]] = []
    for case in with_progress(cases, len(cases), "case", quiet or as_json):
        try:
            timings.append(measure_apart(case))
        except StyleMatteError as error:
            if len(cases) == 1:
                raise
            failures.append({"weights": str(case.path), "engine": case.engine, "error": str(error)})
    here = machine()
    if as_json:
        rows = [timing.as_dict() for timing in timings]
        options.print_json(
            {"machine": here, "photo_size": photo_size, "runs": runs, "timings": rows, "failed": failures}
        )
    else:
        _print_table(timings, here, photo, runs)
    for failure in failures:
        typer.echo(f"stylematte: failed: {failure['weights']}: {failure['error']}", err=True)
    return 1 if failures else 0


def _read_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and 0 < int(height) * int(width) <= 1 << 28):
        raise UsageError(
            f"--photo {text!r} is not a size", "Give height and width in pixels: --photo 1536x2048"
        )
    return int(height), int(width)


def _print_table(timings: "list[Timing]", here: dict[str, Any], photo: str, runs: int) -> None:
    rows = [HEADER, *(_row(timing) for timing in timings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    versions = ", ".join(f"{name} {release}" for name, release in here["versions"].items() if release)
    gpus = "; ".join(here["cards"]) or "no NVIDIA GPU"
    typer.echo(
        f"\n{here['processor']}, {here['cores']} core(s) usable; {gpus}; {here['system']}\n"
        f"Python {here['python']}, {versions}; photo of {photo} (height x width), {runs} runs each"
    )


def _row(timing: "Timing") -> tuple[str, ...]:
    gpu = f" + {timing.card_bytes / 1e6:.0f} on the GPU" if timing.card_bytes is not None else ""
    return (
        timing.weights,
        timing.precision,
        timing.engine,
        timing.provider.removesuffix("ExecutionProvider"),
        "x".join(map(str, timing.working_size)),
        str(timing.batch_size),
        f"{timing.network_ms:.1f}",
        f"{timing.network_p95_ms:.1f}",
        f"{timing.photos_per_second:.1f}",
        f"{timing.matte_ms:.1f}",
        f"{timing.memory_bytes / 1e6:.0f} MB{gpu}",
    )
