"""`stylematte matte`: photos, clips and folders in, mattes out."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylematte.errors import InputError, UsageError
from stylematte.media.paths import CLIP_FORMATS, CLIP_SUFFIXES
from stylematte_cli.commands import options
from stylematte_cli.commands.matte_files import MatteRequest, Model, RunOptions, matte_files
from stylematte_cli.commands.toolkit import require
from stylematte_cli.commands.verbs import typed_line

if TYPE_CHECKING:
    from stylematte.batch import Job, Output
    from stylematte.matter import Matter

log = logging.getLogger("stylematte")

STDIN = Path("-")
DEFAULT_RATE = "24"


def matte(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Photos, clips, sequences of pictures (shot.####.png), and folders; - reads a photo from "
            "stdin and writes stdout.",
        ),
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
            metavar="COLOR|FILE|blur:R",
            help="Behind a composite: #rrggbb, r,g,b or a name; a picture; for clips a clip, which starts "
            "again where it is shorter; the photo's own, blurred by R px.",
        ),
    ] = None,
    kind: Annotated[
        Literal["png", "webp", "tiff", "jpg", "exr", "prores", "webm", "mp4", "hevc", "ffv1"] | None,
        typer.Option(
            "--format",
            help="Of the results. If not given, png for photos; for clips mp4, or prores for cut-outs and "
            "foregrounds. Of clips, png, webp, tiff, jpg and exr make one file a frame.",
        ),
    ] = None,
    bit_depth: Annotated[
        Literal["8", "16"] | None,
        typer.Option("--bit-depth", help="Of the results: 8, or for colours the photo's own, if not given."),
    ] = None,
    colours: Annotated[
        Literal["straight", "premultiplied"] | None,
        typer.Option(
            "--alpha", help="Colours of a cut-out: premultiplied in exr, else straight, if not given."
        ),
    ] = None,
    despill: Annotated[
        Literal["green", "blue"] | None,
        typer.Option("--despill", help="Take the cast of a screen out of the subject's colours."),
    ] = None,
    light_wrap: Annotated[
        float | None,
        typer.Option(
            "--light-wrap", min=0, metavar="PX", help="Let the background shine around the subject's edge."
        ),
    ] = None,
    profile: Annotated[
        Literal["keep", "srgb"],
        typer.Option("--profile", help="Colours of results: in the photo's RGB profile, or sRGB."),
    ] = "keep",
    metadata: Annotated[
        Literal["keep", "public", "none"],
        typer.Option(
            "--metadata",
            help="EXIF in results: all but the thumbnail; copyright, artist, date and camera, without place, "
            "serial numbers and owner; or nothing.",
        ),
    ] = "public",
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Use what is there of damaged photos.")
    ] = False,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="In an exr: alpha, foreground and what is behind as layers, too."),
    ] = False,
    exr_compression: Annotated[
        Literal["zip", "piz", "dwaa", "none"],
        typer.Option("--exr-compression", help="Of an exr. dwaa is the smallest, and loses something."),
    ] = "zip",
    stabilize: Annotated[
        bool, typer.Option("--stabilize", help="Clips: keep the soft edge from flickering, from cut to cut.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--start", metavar="TIME|Nf", help="Clips: where to begin: 12.5, 1:02:03 or frame 120f."
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--end", metavar="TIME|Nf", help="Clips: where to stop; a frame named is the last one."),
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, metavar="N", help="Clips: each N-th frame.")] = 1,
    rate: Annotated[
        str,
        typer.Option(
            "--rate", metavar="FPS", help="Sequences of pictures: frames a second, 24 or 30000/1001."
        ),
    ] = DEFAULT_RATE,
    weights: options.Weights = "nano",
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    precision: options.EnginePrecision = "auto",
    policy: options.Policy = "any",
    size: options.Size = None,
    detail: options.Detail = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, metavar="N", help="Most pictures in one network pass."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Pictures in work at once: one a core if not given."
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
    """Matte photos and clips: alphas, cut-outs, foregrounds or composites.

    Finished files are kept, so the same command finishes a run that was broken off.
    """
    with _own_stderr(verbose):
        options.start_log(verbose, quiet)
        made = output or ("alpha" if background is None else "composite")
        _check_usage(inputs, out, as_json, dry_run, f"{typed_line(context)} --out ./{made}s")
        request = _read_request(
            output=made,
            background=background,
            kind=kind,
            bit_depth=bit_depth,
            colours=colours,
            despill=despill,
            light_wrap=light_wrap,
            profile=profile,
            metadata=metadata,
            keep_damaged=keep_damaged,
            layers=layers,
            exr_compression=exr_compression,
            stabilize=stabilize,
            start=start,
            end=end,
            every=every,
            rate=rate,
        )
        model = Model(weights, engine, device, size, detail, precision, policy)
        if out is None:
            if request.for_clips or kind in CLIP_FORMATS:
                raise UsageError("- reads one picture, and these options are for clips")
            return _matte_stdin(model.open(1), request.job)
        how = RunOptions(batch_size, workers, overwrite, dry_run, quiet, as_json)
        return matte_files(inputs, out, request, model, how)


def _read_request(
    *,
    output: "Output",
    background: str | None,
    kind: str | None,
    bit_depth: str | None,
    colours: str | None,
    despill: Any,
    light_wrap: float | None,
    profile: Literal["keep", "srgb"],
    metadata: Literal["keep", "public", "none"],
    keep_damaged: bool,
    layers: bool,
    exr_compression: Literal["zip", "piz", "dwaa", "none"],
    stabilize: bool,
    start: str | None,
    end: str | None,
    every: int,
    rate: str,
) -> MatteRequest:
    """Turn options into what is to be made of photos and clips.

    Raises:
        UsageError: Values that cannot be meant, or do not go together.
    """
    from stylematte.batch import PREMULTIPLIABLE, Job
    from stylematte.media.span import Span, parse_moment, parse_rate

    behind, behind_text, backdrop = _read_background(background)
    if kind == "exr":
        require("OpenEXR", extra="exr")
    photo_kind = "png" if kind is None or kind in CLIP_FORMATS else kind
    clip_kind = kind or ("prores" if output in ("cutout", "foreground") else "mp4")
    is_premultiplied = colours == "premultiplied"
    if colours is None:
        is_premultiplied = kind == "exr" and output == "cutout"  # what compositing programs expect
    job = Job(
        output,
        photo_kind,
        int(bit_depth) if bit_depth else None,
        behind,
        is_premultiplied and (photo_kind in PREMULTIPLIABLE or kind not in CLIP_FORMATS),
        despill,
        light_wrap or 0.0,
        profile,
        metadata,
        keep_damaged,
        layers,
        exr_compression,
    )
    given = {
        "--stabilize": stabilize,
        "--start": start,
        "--end": end,
        "--every": every > 1,
        "--rate": rate != DEFAULT_RATE,
        f"--format {kind}": kind in CLIP_FORMATS,
    }
    span = Span(
        None if start is None else parse_moment(start, "--start"),
        None if end is None else parse_moment(end, "--end"),
        every,
    )
    return MatteRequest(
        job=job,
        clip_kind=clip_kind,
        background=behind_text,
        backdrop=backdrop,
        premultiplied=is_premultiplied,
        is_stabilised=stabilize,
        span=span,
        rate=parse_rate(rate),
        for_clips=tuple(name for name, is_given in given.items() if is_given),
    )


def _check_usage(inputs: list[Path], out: Path | None, as_json: bool, dry_run: bool, whole: str) -> None:
    """Refuse what cannot be meant; `whole` is the line to type where --out is missing."""
    if STDIN not in inputs:
        if out is None:
            raise UsageError("--out DIR is missing, the folder for the results", f"Type: {whole}")
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


def _read_background(text: str | None) -> tuple[Any, str | None, Path | None]:
    """Read --background: what it is, how the manifest names it, and the path of a clip."""
    if text is None:
        return None, None, None
    from stylematte.imaging.compose import BASIC_COLORS, composite, parse_background
    from stylematte.media.decode import decode_image
    from stylematte.media.manifest import identify, read_and_identify

    path = Path(text)
    if path.is_file() and path.suffix.lower() in CLIP_SUFFIXES:
        return (0, 0, 0), f"clip {identify(path)['sha256']}", path
    if path.is_file():
        data, identity = read_and_identify(path)
        photo = decode_image(data, text).in_srgb()
        pixels = photo.pixels
        if photo.alpha is not None:
            pixels = composite(pixels, photo.alpha, BASIC_COLORS["white"])
        return pixels, f"picture {identity['sha256']}", None
    try:
        return parse_background(text), text, None
    except UsageError as error:
        if path.suffix and not text.startswith("blur:"):
            raise InputError(
                f"--background {text}: no such picture or clip", "Or give a colour, or blur:R"
            ) from None
        raise UsageError(f"--background {error.message}", error.hint) from None


def _matte_stdin(matter: "Matter", job: "Job") -> int:
    from stylematte.batch import encode, read, render

    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("stdin: empty, 0 bytes")
    photo = read(data, "stdin", job)
    for note in photo.notes:
        log.warning("stdin: %s", note)
    encoded = encode(photo, render(photo, matter(photo.srgb), job), job)
    sys.stdout.buffer.write(encoded)
    sys.stdout.buffer.flush()
    return 0


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
