"""What is to be made of photos and of clips: a request for each, built in Python or by the commands."""

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from stylematte.errors import UsageError
from stylematte.imaging import compose
from stylematte.imaging.geometry import ImageArray
from stylematte.media.exr import Compression
from stylematte.media.images import DEEP_FORMATS
from stylematte.media.metadata import Policy
from stylematte.media.paths import CLIP_FORMATS, DEEP_CLIP_FORMATS, OPAQUE_CLIP_FORMATS
from stylematte.media.span import Span

Output = Literal["alpha", "cutout", "foreground", "composite"]

PREMULTIPLIABLE = ("tiff", "exr")
PREMULTIPLIABLE_CLIPS = ("prores", "ffv1", *PREMULTIPLIABLE)


@dataclass(frozen=True)
class PhotoRequest:
    """What to make of every photo.

        PhotoRequest("composite", "jpg", background=(255, 255, 255))

    Attributes:
        output: Kind of result.
        kind: File format: png, webp, tiff, jpg or exr.
        bit_depth: 8 or 16. None takes 8 for alphas, and the photo's own for colours where `kind` holds it.
        background: For a composite: a colour (r, g, b) with 0..255, a blur of the photo's own background, or
            an image (h, w, 3) of any size; colours are sRGB.
        premultiplied: Multiply the colours of a cut-out by its alpha.
        despill: Take the cast of a green or blue screen out of the subject's colours.
        light_wrap_px: How far a composite's background shines around the subject's edge.
        profile: `keep` the photo's RGB profile, or convert its colours into `srgb`.
        metadata: What of the photo's EXIF goes into results.
        keep_damaged: Take what is there of damaged photos.
        layers: In an exr, also as layers of their own: alpha, foreground, and what is behind a composite.
        exr_compression: Of an exr; `dwaa` loses something.
        background_name: How manifests name the background; made from it if not given.

    Raises:
        UsageError: Values that do not go together.
    """

    output: Output = "alpha"
    kind: str = "png"
    bit_depth: int | None = None
    background: compose.Color | compose.Blur | ImageArray | None = None
    premultiplied: bool = False
    despill: compose.Screen | None = None
    light_wrap_px: float = 0.0
    profile: Literal["keep", "srgb"] = "keep"
    metadata: Policy = "public"
    keep_damaged: bool = False
    layers: bool = False
    exr_compression: Compression = "zip"
    background_name: str | None = None

    def __post_init__(self) -> None:
        if self.output == "composite" and self.background is None:
            raise UsageError("a composite needs a background", "For example --background white")
        if self.output != "composite" and self.background is not None:
            raise UsageError(
                f"output {self.output} does not take a background",
                "Use --output composite, or leave it out",
            )
        self._check_format()
        if self.layers and (self.kind != "exr" or self.output not in ("cutout", "composite")):
            raise UsageError(
                "layers are for cut-outs and composites in exr", "Add --format exr --output cutout"
            )
        if self.exr_compression != "zip" and self.kind != "exr":
            raise UsageError(f"{self.exr_compression} is a compression for exr", "Add --format exr")
        if self.light_wrap_px and self.output != "composite":
            raise UsageError("light wrap needs a background", "Add --background")
        if self.despill is not None and self.output == "alpha":
            raise UsageError(
                "despill has no effect on alphas, which have no colours", "Use --output cutout, for example"
            )

    def _check_format(self) -> None:
        """Refuse what the file format cannot hold."""
        if self.output == "cutout" and self.kind == "jpg":
            raise UsageError("a jpg cannot hold the transparency of a cut-out", "Use --format png or webp")
        if self.bit_depth == 16 and self.kind not in (*DEEP_FORMATS, "exr"):
            raise UsageError(f"{self.kind} holds 8 bits, not 16", f"Use --format {' or '.join(DEEP_FORMATS)}")
        if self.premultiplied and (self.output != "cutout" or self.kind not in PREMULTIPLIABLE):
            raise UsageError(
                f"a {self.output} in {self.kind} cannot be premultiplied",
                f"Cut-outs can, in {' and '.join(PREMULTIPLIABLE)}; png and webp are straight by standard",
            )

    def settings(self, size: int | None = None) -> dict[str, Any]:
        """All that a result depends on besides its source and the model, as JSON can hold it.

        Args:
            size: Working size that was asked for, see `stylematte.load`.
        """
        settings = {
            "output": self.output,
            "format": self.kind,
            "bit_depth": self.bit_depth,
            "background": self.background_name or _name_of(self.background),
            "size": size,
        }
        if self.output == "cutout":
            settings["colours"] = "premultiplied" if self.premultiplied else "straight"
        if self.output != "alpha":
            settings |= {"profile": self.profile, "metadata": self.metadata}
        chosen = {
            "despill": self.despill,
            "light_wrap_px": self.light_wrap_px or None,
            "keep_damaged": self.keep_damaged or None,
            "layers": self.layers or None,
            "exr_compression": self.exr_compression if self.kind == "exr" else None,
        }
        return settings | {key: value for key, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class ClipRequest(PhotoRequest):
    """What to make of every clip: what a `PhotoRequest` asks is made of each frame.

        ClipRequest("cutout", "prores", span=Span(end=Fraction(10)))

    Attributes:
        kind: prores, webm, mp4, hevc or ffv1 for one file; png, webp, tiff, jpg or exr for one a frame.
        span: Which part.
        rate: Frames a second of a sequence of images, which says nothing about it itself.
        is_stabilised: Steady the mattes from frame to frame.
        backdrop: A clip behind a composite; it starts again where it is shorter. `background` stands in its
            place until it is open.
        reduction: Divide height and width of every frame by this, as for a preview.

    Raises:
        UsageError: Values that do not go together.
    """

    kind: str = "mp4"
    span: Span = field(default_factory=Span)
    rate: Fraction = Fraction(24)
    is_stabilised: bool = False
    backdrop: Path | None = None
    reduction: int = 1

    def _check_format(self) -> None:
        """Refuse what the file format cannot hold."""
        if self.output == "cutout" and self.kind in (*OPAQUE_CLIP_FORMATS, "jpg"):
            raise UsageError(
                f"{self.kind} cannot hold the transparency of a cut-out", "Use --format prores, webm or png"
            )
        if self.premultiplied and (self.output != "cutout" or self.kind not in PREMULTIPLIABLE_CLIPS):
            raise UsageError(
                f"a {self.output} in {self.kind} cannot be premultiplied",
                f"Cut-outs can, in {', '.join(PREMULTIPLIABLE_CLIPS)}",
            )
        if self.bit_depth == 16 and self.kind not in ("png", "tiff", "exr", *DEEP_CLIP_FORMATS):
            raise UsageError(f"{self.kind} holds 8 bits, not 16", "Use --format png, tiff, prores or ffv1")

    @property
    def is_sequence(self) -> bool:
        """One file a frame."""
        return self.kind not in CLIP_FORMATS

    def settings(self, size: int | None = None) -> dict[str, Any]:
        """See `PhotoRequest.settings`."""
        span = {"start": self.span.start, "end": self.span.end, "rate": self.rate}
        texts = {key: None if value is None else str(value) for key, value in span.items()}
        ours = {"stabilised": self.is_stabilised, **texts, "every": self.span.every}
        if self.reduction != 1:
            ours["reduction"] = self.reduction
        return super().settings(size) | ours


def _name_of(background: compose.Color | compose.Blur | ImageArray | None) -> str | None:
    if background is None:
        return None
    if isinstance(background, compose.Blur):
        return f"blur:{background.radius_px:g}"
    if isinstance(background, tuple):
        return ",".join(map(str, background))
    return f"picture {hashlib.sha256(background.tobytes()).hexdigest()}"
