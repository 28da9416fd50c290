"""`stylematte matte`: matte photos, clips and folders."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylematte.errors import InputError, UsageError
from stylematte.media.paths import CLIP_FORMATS
from stylematte_cli.commands import options
from stylematte_cli.commands.groups import with_groups
from stylematte_cli.commands.matte_files import matte_files
from stylematte_cli.commands.matte_layout import check_dataset
from stylematte_cli.commands.matte_options import ClipOptions, ResultOptions, WorkOptions, read_requests
from stylematte_cli.commands.verbs import typed_line

if TYPE_CHECKING:
    from stylematte.matter import Matter
    from stylematte.requests import PhotoRequest

log = logging.getLogger("stylematte")

STDIN = Path("-")


@with_groups
def matte(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Photos, clips, image sequences (shot.####.png) and folders; - reads a photo from stdin and "
            "writes to stdout.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for the results, which mirrors input folders."
        ),
    ] = None,
    *,
    result: ResultOptions,
    clips: ClipOptions,
    model: options.ModelOptions,
    work: WorkOptions,
    output: options.Output,
    verbose: options.Verbose = 0,
) -> int:
    """Matte photos and clips: write alphas, cut-outs, foregrounds or composites.

    Existing results are kept, so the same command resumes an interrupted run.
    """
    with _own_stderr(verbose):
        options.start_log(verbose, output.quiet)
        whole = f"{typed_line(context)} --out ./{result.made}s"
        _check_usage(inputs, out, output.as_json, work.dry_run, whole)
        requests = read_requests(result, clips)
        if out is None:
            if requests.for_clips or result.kind in CLIP_FORMATS:
                raise UsageError("- reads one photo, but these options are for clips")
            return _matte_stdin(model.open(1), requests.photo)
        if work.layout == "dataset":
            check_dataset(result)
        return matte_files(inputs, out, requests, model, work, output)


def _check_usage(inputs: list[Path], out: Path | None, as_json: bool, dry_run: bool, whole: str) -> None:
    """Reject invalid combinations; `whole` is the command line to suggest if --out is missing."""
    if STDIN not in inputs:
        if out is None:
            raise UsageError("--out DIR is missing: give a folder for the results", f"Type: {whole}")
        return
    if len(inputs) > 1 or out is not None or as_json or dry_run:
        raise UsageError(
            "- reads one photo from stdin and writes its result to stdout",
            "Omit other inputs, --out, --json and --dry-run",
        )
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UsageError(
            "- needs a photo on stdin and a file on stdout, not a terminal",
            "stylematte matte - < photo.jpg > matte.png",
        )


def _matte_stdin(matter: "Matter", request: "PhotoRequest") -> int:
    from stylematte.batch import encode, read, render

    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("stdin: empty, 0 bytes")
    photo = read(data, "stdin", request)
    for note in photo.notes:
        log.warning("stdin: %s", note)
    encoded = encode(photo, render(photo, matter(photo.srgb), request), request)
    sys.stdout.buffer.write(encoded)
    sys.stdout.buffer.flush()
    return 0


@contextmanager
def _own_stderr(verbose: int) -> Iterator[None]:
    """Keep stderr for our own output: libpng, libtiff and OpenCV also print there and cannot be silenced.

    Meanwhile everything else written to file descriptor 2 is discarded, except with -v.
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
