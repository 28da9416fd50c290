"""Options of `stylematte matte`, and their conversion to requests for photos and for clips."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from stylematte.errors import InputError, UsageError
from stylematte.media.paths import CLIP_FORMATS, is_clip_file
from stylematte_cli.commands import options
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from stylematte.requests import ClipRequest, PhotoRequest

DEFAULT_RATE = "24"
PREVIEW = 4  # divides the size, and selects one frame in 4


@dataclass(frozen=True)
class ResultOptions:
    """Kind and format of the results."""

    output: Annotated[
        Literal["alpha", "cutout", "foreground", "composite"] | None,
        typer.Option("--output", help="Kind of result (default: alpha, or composite with --background)."),
    ] = None
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="COLOR|FILE|blur:R",
            help="Background of composites: a colour (#rrggbb, r,g,b or a name), an image, the photo's own "
            "background blurred by R px, or, for clips, a clip, which repeats if it is shorter.",
        ),
    ] = None
    kind: Annotated[
        Literal["png", "webp", "tiff", "jpg", "exr", "prores", "webm", "mp4", "hevc", "ffv1"] | None,
        typer.Option(
            "--format",
            help="File format of the results (default: png for photos; mp4 for clips, or prores for their "
            "cut-outs and foregrounds). For clips, png, webp, tiff, jpg and exr write one file per frame.",
        ),
    ] = None
    bit_depth: Annotated[
        Literal["8", "16"] | None,
        typer.Option(
            "--bit-depth",
            help="Bit depth of the results (default: 8 for alphas, the photo's own for colours).",
        ),
    ] = None
    colours: Annotated[
        Literal["straight", "premultiplied"] | None,
        typer.Option(
            "--alpha-mode",
            "--alpha",
            help="Write cut-outs with straight or premultiplied colours (default: premultiplied in exr, "
            "otherwise straight).",
        ),
    ] = None
    despill: Annotated[
        Literal["green", "blue"] | None,
        typer.Option("--despill", help="Remove the colour cast of a green or blue screen from the subject."),
    ] = None
    light_wrap: Annotated[
        float | None,
        typer.Option(
            "--light-wrap",
            min=0,
            metavar="PX",
            help="Let the background's light wrap around the subject's edge.",
        ),
    ] = None
    profile: Annotated[
        Literal["keep", "srgb"],
        typer.Option("--profile", help="Keep the photo's RGB profile, or convert results to sRGB."),
    ] = "keep"
    metadata: Annotated[
        Literal["keep", "public", "none"],
        typer.Option(
            "--metadata",
            help="EXIF data in results. keep: all but the thumbnail. public: copyright, artist, date and "
            "camera, without location, serial numbers and owner. none: nothing.",
        ),
    ] = "public"
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Use the readable part of damaged photos.")
    ] = False
    layers: Annotated[
        bool,
        typer.Option("--layers", help="In an exr: alpha, foreground and what is behind as layers, too."),
    ] = False
    exr_compression: Annotated[
        Literal["zip", "piz", "dwaa", "none"],
        typer.Option("--exr-compression", help="Of an exr. dwaa is the smallest, and loses something."),
    ] = "zip"

    @property
    def made(self) -> Literal["alpha", "cutout", "foreground", "composite"]:
        """Kind of the results."""
        return self.output or ("alpha" if self.background is None else "composite")


@dataclass(frozen=True)
class ClipOptions:
    """Options for clips only."""

    stabilize: Annotated[
        bool, typer.Option("--stabilize", help="For clips: reduce flicker of soft edges; restarts at cuts.")
    ] = False
    start: Annotated[
        str | None,
        typer.Option(
            "--start", metavar="TIME|Nf", help="For clips: start time or frame: 12.5, 1:02:03 or 120f."
        ),
    ] = None
    end: Annotated[
        str | None,
        typer.Option("--end", metavar="TIME|Nf", help="For clips: end time, or last frame."),
    ] = None
    every: Annotated[
        int, typer.Option("--every", min=1, metavar="N", help="For clips: use every N-th frame.")
    ] = 1
    rate: Annotated[
        str,
        typer.Option(
            "--rate", metavar="FPS", help="For image sequences: frames per second, such as 24 or 30000/1001."
        ),
    ] = DEFAULT_RATE
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="For clips: process every fourth frame at quarter size, into clip.preview.mp4.",
        ),
    ] = False

    @property
    def given(self) -> list[str]:
        """Options that were given."""
        given = {
            "--stabilize": self.stabilize,
            "--start": self.start,
            "--end": self.end,
            "--every": self.every > 1,
            "--rate": self.rate != DEFAULT_RATE,
            "--preview": self.preview,
        }
        return [name for name, is_given in given.items() if is_given]


@dataclass(frozen=True)
class WorkOptions:
    """How to process the inputs."""

    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, metavar="N", help="Maximum number of images per network pass."),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Images processed in parallel (default: one per core)."
        ),
    ] = None
    layout: Annotated[
        Literal["mirror", "dataset"],
        typer.Option(
            "--layout",
            help="Of --out: as the input lies, or image/ and alpha/, as `stylematte train` reads it.",
        ),
    ] = "mirror"
    overwrite: options.Overwrite = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would be done, for clips with frames, duration, size and time, and stop.",
        ),
    ] = False


class Background(NamedTuple):
    """A parsed --background: its value, its name in manifests, and the path of a clip."""

    value: Any = None
    name: str | None = None
    clip: Path | None = None


@dataclass(frozen=True)
class Requests:
    """Requests made from the options.

    Attributes:
        photo: Request for photos.
        make_clip: Makes the request for clips; only called if there are clips, because options for photos may
            be invalid for clips.
        clip_kind: Format of clips.
        backdrop: A clip used as the background of clips.
        for_clips: Given options that are only for clips.
        is_preview: Clips are processed small and in part, photos are not.
    """

    photo: "PhotoRequest"
    make_clip: "Callable[[], ClipRequest]"
    clip_kind: str
    backdrop: Path | None
    for_clips: tuple[str, ...]
    is_preview: bool = False


def read_requests(result: ResultOptions, clips: ClipOptions) -> Requests:
    """Convert options to requests.

    Raises:
        UsageError: A value is invalid, or options cannot be combined.
        InputError: The background cannot be read.
    """
    from stylematte.media.span import Span, parse_moment, parse_rate
    from stylematte.requests import PREMULTIPLIABLE, ClipRequest, PhotoRequest

    made, kind = result.made, result.kind
    behind = _read_background(result.background)
    if kind == "exr":
        require("OpenEXR", extra="exr")
    is_premultiplied = result.colours == "premultiplied"
    if result.colours is None:
        is_premultiplied = kind == "exr" and made == "cutout"  # as compositing programs expect
    facts: dict[str, Any] = {
        "output": made,
        "bit_depth": int(result.bit_depth) if result.bit_depth else None,
        "background": behind.value,
        "background_name": behind.name,
        "despill": result.despill,
        "light_wrap_px": result.light_wrap or 0.0,
        "profile": result.profile,
        "metadata": result.metadata,
        "keep_damaged": result.keep_damaged,
        "layers": result.layers,
        "exr_compression": result.exr_compression,
    }
    photo_kind = "png" if kind is None or kind in CLIP_FORMATS else kind
    is_of_clips = photo_kind not in PREMULTIPLIABLE and kind in CLIP_FORMATS
    photo = PhotoRequest(**facts, kind=photo_kind, premultiplied=is_premultiplied and not is_of_clips)
    clip_kind = kind or ("prores" if made in ("cutout", "foreground") else "mp4")
    make_clip = partial(
        ClipRequest,
        **facts,
        kind=clip_kind,
        premultiplied=is_premultiplied,
        span=Span(
            None if clips.start is None else parse_moment(clips.start, "--start"),
            None if clips.end is None else parse_moment(clips.end, "--end"),
            clips.every * (PREVIEW if clips.preview else 1),
        ),
        rate=parse_rate(clips.rate),
        is_stabilised=clips.stabilize,
        backdrop=behind.clip,
        reduction=PREVIEW if clips.preview else 1,
    )
    for_clips = (*clips.given, *([f"--format {kind}"] if kind in CLIP_FORMATS else []))
    return Requests(photo, make_clip, clip_kind, behind.clip, for_clips, clips.preview)


def _read_background(text: str | None) -> Background:
    if text is None:
        return Background()
    from stylematte.imaging.compose import BASIC_COLORS, composite, parse_background
    from stylematte.media.decode import decode_image
    from stylematte.media.manifest import identify, read_and_identify

    path = Path(text)
    if path.is_file() and is_clip_file(path):
        return Background((0, 0, 0), f"clip {identify(path)['sha256']}", path)
    if path.is_file():
        data, identity = read_and_identify(path)
        photo = decode_image(data, text).in_srgb()
        pixels = photo.pixels
        if photo.alpha is not None:
            pixels = composite(pixels, photo.alpha, BASIC_COLORS["white"])
        return Background(pixels, f"picture {identity['sha256']}")
    try:
        return Background(parse_background(text), text)
    except UsageError as error:
        if path.suffix and not text.startswith("blur:"):
            raise InputError(
                f"--background {text}: no such image or clip", "You can also give a colour or blur:R"
            ) from None
        raise UsageError(f"--background {error.message}", error.hint) from None
