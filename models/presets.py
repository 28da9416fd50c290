"""The networks by name: a preset is all that is needed to build one, and weights files name theirs."""

from dataclasses import dataclass
from typing import Literal

Upsampler = Literal["fast_gf"]


@dataclass(frozen=True)
class Preset:
    """Shape of a StyleMatte network.

    Attributes:
        name: What users call it.
        encoder: Encoder family, see `models.encoders.build_encoder`.
        fpn_channels: Width of the feature pyramid.
        upsampler: How coarse logits become full-size alpha.
        radius_px: Radius of the guided filter, in pixels of the coarse grid.
        eps: Regulariser of the guided filter, in squared units of the normalised guide.
        working_size: Side of the square with as many pixels as the network is trained to see.
        stride: Height and width of the network's input are multiples of it.
    """

    name: str
    encoder: str
    fpn_channels: int
    upsampler: Upsampler = "fast_gf"
    radius_px: int = 1
    eps: float = 1e-4
    working_size: int = 512
    stride: int = 32


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("nano", encoder="mobilenet_v2", fpn_channels=64, working_size=480),
        # For tests: the same code at a size that trains in seconds.
        Preset("test", encoder="mobilenet_v2_tiny", fpn_channels=16, working_size=128),
    )
}
