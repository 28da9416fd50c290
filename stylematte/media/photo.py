"""A decoded image."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]


class Light(NamedTuple):
    """Description of scene-linear colours.

    Attributes:
        primaries: x and y of red, green, blue and white.
        is_single: Whether the file has float values, not half.
        pixel_shape: Width of a pixel over its height.
    """

    primaries: tuple[float, float, float, float, float, float, float, float]
    is_single: bool
    pixel_shape: float = 1.0


@dataclass(eq=False)
class Photo:
    """A decoded image, upright.

    Attributes:
        pixels: (H, W, 3) straight RGB, uint8 or uint16. Grey, palette, Lab and CMYK images are converted.
        alpha: (H, W), same dtype: the image's own opacity; None if it is fully opaque.
        icc: Profile of `pixels`; None for sRGB.
        exif: EXIF bytes of the file; None if there are none. `metadata.chosen` selects those for a result.
        notes: Messages for the user about the image.
        light: Description of a scene-linear image, whose `pixels` and `alpha` are float32; else None.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    light: Light | None = None

    def in_srgb(self) -> "Photo":
        """Convert the colours to sRGB at their bit depth, light to uint16; unchanged without a profile."""
        from stylematte.imaging.geometry import convert
        from stylematte.media import colour

        if self.light is not None:
            from stylematte.media import exr

            pixels = exr.srgb_of(self.pixels, self.light.primaries)
            alpha = None if self.alpha is None else convert(self.alpha, "uint16")
            return replace(self, pixels=pixels, alpha=alpha, light=None)
        if self.icc is None:
            return self
        return replace(self, pixels=colour.to_srgb(self.pixels, self.icc), icc=colour.srgb_profile())

    @cached_property
    def srgb(self) -> Array:
        """The network's input: (H, W, 3) sRGB, uint8 if converted with a profile.

        The network and the guided filter need no more than 8 bits, and Little CMS is exact and fast only with
        8 bits.
        """
        from stylematte.imaging.geometry import convert
        from stylematte.media import colour

        if self.light is not None:
            from stylematte.media import exr

            return exr.seen(self.pixels, self.light.primaries)
        if colour.is_srgb(self.icc):
            return self.pixels
        return colour.to_srgb(convert(self.pixels, "uint8"), self.icc)
