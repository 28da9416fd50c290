"""An image that has been read."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]


class Light(NamedTuple):
    """What is known of scene-linear colours.

    Attributes:
        primaries: x and y of red, green, blue and white.
        is_single: The file has float numbers, not half.
        pixel_shape: Width of a pixel over its height.
    """

    primaries: tuple[float, float, float, float, float, float, float, float]
    is_single: bool
    pixel_shape: float = 1.0


@dataclass(eq=False)
class Photo:
    """A decoded image, upright.

    Attributes:
        pixels: (H, W, 3) RGB uint8 or uint16. Grey, palette, Lab and CMYK images have been turned into RGB.
        alpha: (H, W), same dtype: the image's own opacity; None where it is opaque all over. `pixels` are
            its colours, not premultiplied.
        icc: Profile of `pixels`; None for sRGB.
        exif: EXIF bytes as in the file; None where there are none. `metadata.chosen` makes of them what a
            result may have.
        notes: What is to be told about the image, a line each.
        light: Of a scene-linear image: its `pixels` are float32 light, and `alpha` is float32.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    light: Light | None = None

    def in_srgb(self) -> "Photo":
        """Convert the colours into sRGB at their own depth; a photo without a profile stays as it is."""
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
        """(H, W, 3) uint8, or uint16 where nothing is to be converted: what the network sees.

        The network and the guided filter need no more than 8 bits, and Little CMS is exact and quick with
        these alone.
        """
        from stylematte.imaging.geometry import convert
        from stylematte.media import colour

        if self.light is not None:
            from stylematte.media import exr

            return exr.seen(self.pixels, self.light.primaries)
        if colour.is_srgb(self.icc):
            return self.pixels
        return colour.to_srgb(convert(self.pixels, "uint8"), self.icc)
