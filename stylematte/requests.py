"""Requests: the results to make from photos and from clips."""

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
    """The results to make from photos.

        PhotoRequest("composite", "jpg", background=(255, 255, 255))

    Attributes:
        output: Kind of result.
        kind: File format: png, webp, tiff, jpg or exr.
        bit_depth: 8 or 16. None: 8 for alphas, and the photo's own for colours if `kind` supports it.
        background: Background of a composite: a colour (r, g, b) in 0..255, a blur of the photo's own
            background, or an image (h, w, 3) of any size; colours are sRGB.
        premultiplied: Multiply the colours of a cut-out by its alpha.
        despill: Remove the colour cast of a green or blue screen from the subject.
        light_wrap_px: Width of the light wrap: a composite's background shines around the subject's edge.
        profile: `keep` the photo's RGB profile, or convert its colours to `srgb`.
        metadata: EXIF data of the photo to copy to results.
        keep_damaged: Use the readable part of damaged photos.
        layers: Add layers to an exr: alpha, foreground, and the background of a composite.
        exr_compression: Compression of an exr; `dwaa` is lossy.
        background_name: Name of the background in manifests; derived from the background if not given.

    Raises:
        UsageError: The values are incompatible.
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
        """Reject results that the file format cannot store."""
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
        """Return everything that a result depends on besides its source and the model, as JSON values.

        Args:
            size: Requested working size, see `stylematte.load`.
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
    """The results to make from clips; the settings of `PhotoRequest` apply to each frame.

        ClipRequest("cutout", "prores", span=Span(end=Fraction(10)))

    Attributes:
        kind: prores, webm, mp4, hevc or ffv1 for one file; png, webp, tiff, jpg or exr for one per frame.
        span: Part of the clip.
        rate: Frames per second of an image sequence, which does not state it.
        is_stabilised: Stabilise the mattes over time.
        backdrop: Background clip of a composite; it is looped if it is shorter. `background` is a placeholder
            until it is open.
        reduction: Factor by which height and width of each frame are divided, for example for a preview.

    Raises:
        UsageError: The values are incompatible.
    """

    kind: str = "mp4"
    span: Span = field(default_factory=Span)
    rate: Fraction = Fraction(24)
    is_stabilised: bool = False
    backdrop: Path | None = None
    reduction: int = 1

    def _check_format(self) -> None:
        """Reject results that the file format cannot store."""
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
        """Whether the result has one file per frame."""
        return self.kind not in CLIP_FORMATS

    def settings(self, size: int | None = None) -> dict[str, Any]:
        """Return everything that a result depends on; see `PhotoRequest.settings`."""
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
