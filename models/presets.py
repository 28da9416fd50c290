"""Network presets: a preset holds everything needed to build a network, and weights files name theirs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Decoder = Literal["light_fpn", "mask2former", "mask2former_tiny"]
Upsampler = Literal["bilinear", "fast_gf", "conv_gf", "deep_gf", "fine_gf"]


@dataclass(frozen=True)
class Preset:
    """Shape of a StyleMatte network.

    Attributes:
        name: Name that users type.
        encoder: Encoder family, see `models.encoders.build_encoder`.
        decoder: Decoder family, see `models.pixel_decoder.build_decoder`.
        fpn_channels: Width of the feature pyramid, and of the pixel decoder before it.
        pyramid: Whether the head follows a pyramid; otherwise it follows the pixel decoder's finest map, or
            the coarsest map of an encoder without pixel decoder.
        upsampler: How coarse logits become full-size alpha, see `models.upsamplers`. "fine_gf" needs the map
            at stride 2 that only the encoders of "light_fpn" have.
        averaged: Whether the fast guided filter averages its coefficients over the window, as He and Sun do;
            the published StyleMatte does not.
        radius_px: Radius of the guided filter, in pixels of the coarse grid.
        eps: Regulariser of the fast guided filter, in squared units of the normalised guide.
        working_size: Side of a square with as many pixels as the images that the network is trained on.
        stride: Height and width of the network's input are multiples of this.
        prior: Whether the network takes an earlier alpha, see `StyleMatte.forward`; only with "light_fpn".
        least_size: Smallest working size it was trained on; 0 if unknown.
        most_size: Largest working size it was trained on; 0 if unknown.
        hub: Repository on the Hugging Face hub with weights to start training from, or empty.
    """

    name: str
    encoder: str
    fpn_channels: int
    decoder: Decoder = "light_fpn"
    pyramid: bool = True
    upsampler: Upsampler = "fast_gf"
    averaged: bool = True
    radius_px: int = 1
    eps: float = 1e-4
    working_size: int = 512
    stride: int = 32
    prior: bool = False
    least_size: int = 0
    most_size: int = 0
    hub: str = ""

    def __post_init__(self) -> None:
        """Reject combinations that cannot be built.

        Raises:
            ValueError: "fine_gf" or a prior with a decoder other than "light_fpn".
        """
        if self.decoder == "light_fpn":
            return
        if self.upsampler == "fine_gf":
            raise ValueError(
                f"upsampler fine_gf needs features at stride 2, which {self.encoder} does not have"
            )
        if self.prior:
            raise ValueError(f"encoder {self.encoder} does not take a prior")


_TINY = Preset(
    "tiny",
    encoder="swinv2_tiny",
    decoder="mask2former",
    fpn_channels=256,
    averaged=False,
    working_size=768,
    hub="microsoft/swinv2-tiny-patch4-window8-256",
)
_NANO = Preset(
    "nano",
    encoder="efficientnet_lite0",
    fpn_channels=48,
    upsampler="fine_gf",
    working_size=480,
    prior=True,
    least_size=320,
    most_size=512,
)
_TEST_SWIN = Preset(
    "test_swin",
    encoder="swinv2_test",
    decoder="mask2former_tiny",
    fpn_channels=32,
    averaged=False,
    working_size=128,
)

PRESETS = {
    preset.name: preset
    for preset in (
        _NANO,
        # The article's network, and the quality preset.
        _TINY,
        replace(_TINY, name="base", encoder="swinv2_base", hub="microsoft/swinv2-base-patch4-window8-256"),
        # The network of the released weights, with all of their hyperparameters.
        replace(
            _TINY, name="official", encoder="swin_tiny", hub="facebook/mask2former-swin-tiny-coco-instance"
        ),
        # For tests: the same code at a size that trains in seconds.
        Preset("test", encoder="mobilenet_v2_tiny", fpn_channels=16, working_size=128),
        replace(
            _NANO,
            name="test_nano",
            encoder="mobilenet_v2_tiny",
            fpn_channels=16,
            working_size=128,
            least_size=64,
            most_size=192,
        ),
        _TEST_SWIN,
        replace(_TEST_SWIN, name="test_official", encoder="swin_test"),
    )
}

OFFERED = tuple(name for name in PRESETS if not name.startswith("test"))  # the others are for tests


def preset_of(metadata: Mapping[str, str]) -> Preset:
    """Return the preset that a weights file names in its metadata, with the changes it lists.

    Raises:
        ValueError: The metadata names no preset of this project, or changes that it does not have.
    """
    name = metadata.get("preset", "")
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose from {', '.join(OFFERED)}")
    try:
        return replace(PRESETS[name], **json.loads(metadata.get("network", "{}")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"this version cannot build the network: {error}") from None
