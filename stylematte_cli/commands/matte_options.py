"""Options of `stylematte matte`, in groups, and what they ask for: a request for photos and one for clips."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from stylematte.errors import InputError, UsageError
from stylematte.media.paths import CLIP_FORMATS, CLIP_SUFFIXES
from stylematte_cli.commands import options
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from stylematte.requests import ClipRequest, PhotoRequest

DEFAULT_RATE = "24"


@dataclass(frozen=True)
class ResultOptions:
    """What is made of each input, and as which file."""

    output: Annotated[
        Literal["alpha", "cutout", "foreground", "composite"] | None,
        typer.Option("--output", help="What to make: alpha, or with --background composite, if not given."),
    ] = None
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="COLOR|FILE|blur:R",
            help="Behind a composite: #rrggbb, r,g,b or a name; a picture; for clips a clip, which starts "
            "again where it is shorter; the photo's own, blurred by R px.",
        ),
    ] = None
    kind: Annotated[
        Literal["png", "webp", "tiff", "jpg", "exr", "prores", "webm", "mp4", "hevc", "ffv1"] | None,
        typer.Option(
            "--format",
            help="Of the results. If not given, png for photos; for clips mp4, or prores for cut-outs and "
            "foregrounds. Of clips, png, webp, tiff, jpg and exr make one file a frame.",
        ),
    ] = None
    bit_depth: Annotated[
        Literal["8", "16"] | None,
        typer.Option("--bit-depth", help="Of the results: 8, or for colours the photo's own, if not given."),
    ] = None
    colours: Annotated[
        Literal["straight", "premultiplied"] | None,
        typer.Option(
            "--alpha", help="Colours of a cut-out: premultiplied in exr, else straight, if not given."
        ),
    ] = None
    despill: Annotated[
        Literal["green", "blue"] | None,
        typer.Option("--despill", help="Take the cast of a screen out of the subject's colours."),
    ] = None
    light_wrap: Annotated[
        float | None,
        typer.Option(
            "--light-wrap", min=0, metavar="PX", help="Let the background shine around the subject's edge."
        ),
    ] = None
    profile: Annotated[
        Literal["keep", "srgb"],
        typer.Option("--profile", help="Colours of results: in the photo's RGB profile, or sRGB."),
    ] = "keep"
    metadata: Annotated[
        Literal["keep", "public", "none"],
        typer.Option(
            "--metadata",
            help="EXIF in results: all but the thumbnail; copyright, artist, date and camera, without place, "
            "serial numbers and owner; or nothing.",
        ),
    ] = "public"
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Use what is there of damaged photos.")
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
        """Kind of result."""
        return self.output or ("alpha" if self.background is None else "composite")


@dataclass(frozen=True)
class ClipOptions:
    """What is asked of clips alone."""

    stabilize: Annotated[
        bool, typer.Option("--stabilize", help="Clips: keep the soft edge from flickering, from cut to cut.")
    ] = False
    start: Annotated[
        str | None,
        typer.Option(
            "--start", metavar="TIME|Nf", help="Clips: where to begin: 12.5, 1:02:03 or frame 120f."
        ),
    ] = None
    end: Annotated[
        str | None,
        typer.Option("--end", metavar="TIME|Nf", help="Clips: where to stop; a frame named is the last one."),
    ] = None
    every: Annotated[int, typer.Option("--every", min=1, metavar="N", help="Clips: each N-th frame.")] = 1
    rate: Annotated[
        str,
        typer.Option(
            "--rate", metavar="FPS", help="Sequences of pictures: frames a second, 24 or 30000/1001."
        ),
    ] = DEFAULT_RATE

    @property
    def given(self) -> list[str]:
        """Which of them were given."""
        given = {
            "--stabilize": self.stabilize,
            "--start": self.start,
            "--end": self.end,
            "--every": self.every > 1,
            "--rate": self.rate != DEFAULT_RATE,
        }
        return [name for name, is_given in given.items() if is_given]


@dataclass(frozen=True)
class WorkOptions:
    """How the inputs are worked through."""

    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, metavar="N", help="Most pictures in one network pass."),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Pictures in work at once: one a core if not given."
        ),
    ] = None
    overwrite: options.Overwrite = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = (
        False
    )


class Background(NamedTuple):
    """What --background names: the value, how the manifest names it, and the path of a clip."""

    value: Any = None
    name: str | None = None
    clip: Path | None = None


@dataclass(frozen=True)
class Requests:
    """What the options ask for.

    Attributes:
        photo: What to make of photos.
        make_clip: Makes the request for clips; called where there are some, since what is asked of photos may
            be more than clips can have.
        clip_kind: Format of clips.
        backdrop: A clip that is behind clips.
        for_clips: Options given that only clips know.
    """

    photo: "PhotoRequest"
    make_clip: "Callable[[], ClipRequest]"
    clip_kind: str
    backdrop: Path | None
    for_clips: tuple[str, ...]


def read_requests(result: ResultOptions, clips: ClipOptions) -> Requests:
    """Turn options into requests.

    Raises:
        UsageError: Values that cannot be meant, or do not go together.
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
        is_premultiplied = kind == "exr" and made == "cutout"  # what compositing programs expect
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
            clips.every,
        ),
        rate=parse_rate(clips.rate),
        is_stabilised=clips.stabilize,
        backdrop=behind.clip,
    )
    for_clips = (*clips.given, *([f"--format {kind}"] if kind in CLIP_FORMATS else []))
    return Requests(photo, make_clip, clip_kind, behind.clip, for_clips)


def _read_background(text: str | None) -> Background:
    if text is None:
        return Background()
    from stylematte.imaging.compose import BASIC_COLORS, composite, parse_background
    from stylematte.media.decode import decode_image
    from stylematte.media.manifest import identify, read_and_identify

    path = Path(text)
    if path.is_file() and path.suffix.lower() in CLIP_SUFFIXES:
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
                f"--background {text}: no such picture or clip", "Or give a colour, or blur:R"
            ) from None
        raise UsageError(f"--background {error.message}", error.hint) from None
