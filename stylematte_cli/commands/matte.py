"""`stylematte matte`: photos and folders in, mattes out."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylematte_cli.commands import options
from stylematte_cli.commands.progress import with_progress
from stylematte_cli.errors import INTERRUPTED, InputError, UsageError

if TYPE_CHECKING:
    from stylematte_cli.batch import Job, Outcome
    from stylematte_cli.matter import Matter
    from stylematte_cli.media.manifest import State
    from stylematte_cli.media.paths import Item

log = logging.getLogger("stylematte")

STDIN = Path("-")
MOST_NAMES = 5  # on one line of stderr


@dataclass(frozen=True)
class Model:
    """Which model is asked for, and how it is to run."""

    weights: str
    engine: str
    device: str
    size: int | None

    def open(self, lanes: int) -> "Matter":
        """Open the model for as many threads as there are lanes."""
        from stylematte_cli.commands.card import use_card
        from stylematte_cli.engines import open_engine
        from stylematte_cli.matter import Matter
        from stylematte_cli.weights import resolve

        engine = open_engine(resolve(self.weights), self.engine, self.device, lanes=lanes)
        use_card(engine, self.device)
        return Matter(engine, self.size)


@dataclass(frozen=True)
class How:
    """How the files are to be worked through, and what is to be said about it."""

    batch_size: int | None
    workers: int | None
    overwrite: bool
    dry_run: bool
    quiet: bool
    as_json: bool


@dataclass
class Tally:
    """What became of a run."""

    done: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    is_interrupted: bool = False

    def add(self, outcome: "Outcome") -> None:
        """Count one picture."""
        for stage, seconds in outcome.seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        if outcome.error is None:
            self.done += 1
        else:
            self.fail(outcome.item.source, outcome.error.message, outcome.error.hint)

    def fail(self, source: Path, message: str, hint: str = "") -> None:
        """Name an input that failed, at once and in the end."""
        log.error("failed: %s%s", message, f". {hint}" if hint else "")
        self.failed.append({"input": str(source), "error": message})

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 130 interrupted."""
        return INTERRUPTED if self.is_interrupted else 1 if self.failed else 0


def matte(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Photos and folders; - reads stdin and writes stdout."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for the results; input folders are mirrored."
        ),
    ] = None,
    output: Annotated[
        Literal["alpha", "cutout", "foreground", "composite"] | None,
        typer.Option("--output", help="What to make: alpha, or with --background composite, if not given."),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="COLOR|IMAGE|blur:R",
            help="Behind a composite: #rrggbb, r,g,b or a name; a picture; the photo's own, blurred by R px.",
        ),
    ] = None,
    kind: Annotated[
        Literal["png", "webp", "tiff", "jpg"],
        typer.Option(
            "--format",
            help="Of the results. The colour profile travels into all of them, EXIF not into tiff.",
        ),
    ] = "png",
    bit_depth: Annotated[
        Literal["8", "16"] | None,
        typer.Option("--bit-depth", help="Of the results: 8, or for colours the photo's own, if not given."),
    ] = None,
    weights: options.Weights = "nano",
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    size: options.Size = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, metavar="N", help="Most photos in one network pass.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Photos in work at once: one a core if not given."
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    verbose: options.Verbose = 0,
) -> int:
    """Matte photos: alphas, cut-outs, foregrounds or composites.

    Finished files are kept, so the same command finishes a run that was broken off.
    """
    with _own_stderr(verbose):
        options.start_log(verbose, quiet)
        _check_usage(inputs, out, as_json, dry_run)
        from stylematte_cli.batch import Job

        behind, behind_text = _read_background(background)
        job = Job(
            output or ("alpha" if background is None else "composite"),
            kind,
            int(bit_depth) if bit_depth else None,
            behind,
        )
        model = Model(weights, engine, device, size)
        if out is None:
            return _matte_stdin(model.open(1), job)
        how = How(batch_size, workers, overwrite, dry_run, quiet, as_json)
        return _matte_files(inputs, out, job, behind_text, model, how)


def _check_usage(inputs: list[Path], out: Path | None, as_json: bool, dry_run: bool) -> None:
    if STDIN not in inputs:
        if out is None:
            raise UsageError("--out DIR is missing", "It names the folder for the results")
        return
    if len(inputs) > 1 or out is not None or as_json or dry_run:
        raise UsageError(
            "- stands alone: one picture from stdin, its result to stdout",
            "Leave out other inputs, --out, --json and --dry-run",
        )
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UsageError(
            "- wants a picture on stdin and a file on stdout, not a terminal",
            "stylematte matte - < photo.jpg > matte.png",
        )


def _read_background(text: str | None) -> tuple[Any, str | None]:
    """Read --background: what it is, and how the manifest names it."""
    if text is None:
        return None, None
    from stylematte_cli.imaging.compose import parse_background
    from stylematte_cli.media.images import decode_image
    from stylematte_cli.media.manifest import read_and_identify

    path = Path(text)
    if path.is_file():
        data, identity = read_and_identify(path)
        return decode_image(data, text).pixels, f"picture {identity['sha256']}"
    try:
        return parse_background(text), text
    except UsageError as error:
        if path.suffix and not text.startswith("blur:"):
            raise InputError(f"--background {text}: no such picture", "Or give a colour, or blur:R") from None
        raise UsageError(f"--background {error.message}", error.hint) from None


def _matte_stdin(matter: "Matter", job: "Job") -> int:
    from stylematte_cli.batch import encode, render
    from stylematte_cli.media.images import decode_image

    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("stdin: empty, 0 bytes")
    photo = decode_image(data, "stdin")
    encoded = encode(photo, render(photo, matter(photo.pixels), job), job)
    sys.stdout.buffer.write(encoded)
    sys.stdout.buffer.flush()
    return 0


def _matte_files(
    inputs: list[Path], out: Path, job: "Job", background: str | None, model: Model, how: How
) -> int:
    from stylematte_cli import batch
    from stylematte_cli.engines.base import usable_cores
    from stylematte_cli.media import images
    from stylematte_cli.media.manifest import Manifest
    from stylematte_cli.media.paths import collect

    started = time.perf_counter()
    work = collect(inputs, out, images.FORMATS[job.kind])
    workers = min(how.workers or usable_cores(), max(1, len(work.items)))
    matter = model.open(workers)
    settings = {
        "output": job.output,
        "format": job.kind,
        "bit_depth": job.bit_depth,
        "background": background,
        "size": model.size,
    }
    manifest = Manifest(out, settings, matter.engine.contract.weights_sha256)
    states: list[State] = ["new" if how.overwrite else manifest.state_of(item) for item in work.items]
    todo = [item for item, state in zip(work.items, states, strict=True) if state in ("new", "changed")]
    tally = Tally()
    for path, reason in work.problems:
        tally.fail(path, f"{path}: {reason}")
    _tell_kept(work.items, states)
    if how.dry_run:
        _print_plan(work.items, states, how.as_json)
        return tally.exit_code

    manifest.open()
    images.remove_leftovers({item.output.parent for item in work.items})
    outcomes = batch.run(todo, matter, job, manifest, workers, how.batch_size)
    try:
        with closing(manifest), closing(outcomes):
            for outcome in with_progress(outcomes, len(todo), "photo", how.quiet):
                tally.add(outcome)
    except KeyboardInterrupt:
        tally.is_interrupted = True
    seconds = time.perf_counter() - started
    _tell_end(tally, states, seconds)
    if how.as_json:
        how_it_ran = {
            "workers": workers,
            "engine": matter.engine.name,
            "provider": matter.engine.provider,
            "weights_sha256": manifest.weights_sha256,
            "settings": settings,
        }
        options.print_json({"out": str(out), **_summary(tally, states, seconds), **how_it_ran})
    return tally.exit_code


def _print_plan(items: "list[Item]", states: "list[State]", as_json: bool) -> None:
    plan = [
        {"input": str(item.source), "output": str(item.output), "state": state}
        for item, state in zip(items, states, strict=True)
    ]
    if as_json:
        options.print_json({"dry_run": True, "items": plan})
        return
    for line in plan:
        typer.echo(f"{line['state']:<8}{line['input']} -> {line['output']}")


def _tell_kept(items: "list[Item]", states: "list[State]") -> None:
    """Files that the manifest does not know may be anybody's: they stay, and that is said."""
    kept = [str(item.output) for item, state in zip(items, states, strict=True) if state == "kept"]
    if kept:
        names = ", ".join(kept[:MOST_NAMES]) + (", ..." if len(kept) > MOST_NAMES else "")
        log.warning(
            "kept %d file(s) that no run of this folder's manifest made (--overwrite makes them anew): %s",
            len(kept),
            names,
        )


def _tell_end(tally: Tally, states: "list[State]", seconds: float) -> None:
    parts = [f"{tally.done} done"]
    if before := states.count("done"):
        parts.append(f"{before} finished before")
    if tally.failed:
        parts.append(f"{len(tally.failed)} failed")
    rate = f", {tally.done / seconds:.2f} photos/s" if tally.done else ""
    log.info("%s%s in %.1f s%s", "interrupted: " * tally.is_interrupted, ", ".join(parts), seconds, rate)
    total = sum(tally.stage_seconds.values())
    if total:
        shares = (f"{stage} {value / total:.0%}" for stage, value in tally.stage_seconds.items())
        log.debug("share of the workers' time: %s", ", ".join(shares))


def _summary(tally: Tally, states: "list[State]", seconds: float) -> dict[str, Any]:
    return {
        "done": tally.done,
        "finished_before": states.count("done"),
        "kept": states.count("kept"),
        "failed": tally.failed,
        "interrupted": tally.is_interrupted,
        "seconds": round(seconds, 3),
        "stage_seconds": {stage: round(value, 3) for stage, value in tally.stage_seconds.items()},
    }


@contextmanager
def _own_stderr(verbose: int) -> Iterator[None]:
    """Keep stderr for our lines: libpng, libtiff and OpenCV print there too, with no way to ask them not to.

    Everything else that writes to file descriptor 2 writes to nowhere meanwhile; with -v it is let through.
    """
    try:
        saved = os.dup(2)
    except OSError:  # started without a stderr
        saved = -1
    if verbose or saved < 0:
        yield
        return
    before = sys.stderr
    is_ours = before is sys.__stderr__
    if is_ours:
        sys.stderr = os.fdopen(os.dup(saved), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        if is_ours:
            sys.stderr.flush()
            sys.stderr = before
            options.start_log(verbose)
        os.dup2(saved, 2)
        os.close(saved)
