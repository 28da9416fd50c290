"""StyleMatte: an image in, alpha out, no trimap.

Reference:
    Chicherin, Efremyan, "Adversarially-Guided Portrait Matting", arXiv 2305.02981, 2023.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.encoders import build_encoder
from models.pixel_decoder import build_decoder
from models.presets import OFFERED, PRESETS, Preset
from models.selection import Selection
from models.upsamplers import build_upsampler

MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)


class Coarse(NamedTuple):
    """Results at working size, which the upsampler starts from.

    Attributes:
        guide: (B, 1, h/4, w/4) grey guide.
        logits: (B, 1, h/4, w/4) float32.
        features: (B, C, h/4, w/4) features that the logits are computed from.
        finest: (B, c, h/2, w/2) the encoder's finest map; (B, c, h/4, w/4) from large encoders.
        grey: (B, 1, h, w) normalised grey image.
    """

    guide: Tensor
    logits: Tensor
    features: Tensor
    finest: Tensor
    grey: Tensor


class Prediction(NamedTuple):
    """The network's output; alpha is the sigmoid of the fine logits.

    Attributes:
        fine_logits: (B, 1, H, W) at the guide's size.
        coarse_logits: (B, 1, h/4, w/4) before the upsampler.
    """

    fine_logits: Tensor
    coarse_logits: Tensor

    @property
    def alpha(self) -> Tensor:
        """(B, 1, H, W) opacity in [0, 1]."""
        return torch.sigmoid(self.fine_logits)


class StyleMatte(nn.Module):
    """Encoder → pixel decoder → pyramid → one channel of logits at stride 4 → upsampler to full size."""

    mean: Tensor
    std: Tensor

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.encoder = build_encoder(preset.encoder)
        self.pixel_decoder, self.fpn = build_decoder(preset, self.encoder.channels[-4:])
        self.head = nn.Conv2d(preset.fpn_channels, 1, 3, padding=1)
        self.upsampler = build_upsampler(preset, self.encoder.channels[0])
        self.selection = Selection(self.encoder.channels, preset.fpn_channels) if preset.prior else None
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] → zero mean and unit variance on ImageNet."""
        return (image - self.mean) / self.std

    def coarse(self, image: Tensor, prior: Tensor | None = None) -> Coarse:
        """Run the part that works at working size; `image` and `prior` as in `forward`."""
        if prior is not None and self.selection is None:
            raise ValueError(f"preset {self.preset.name} does not take a prior")
        normalised = self.normalise(image)
        maps, features, logits = self.without_prior(normalised)
        if prior is not None and self.selection is not None:
            logits = self.selection(logits, features, maps, prior)
        grey = normalised.mean(1, keepdim=True)  # (B, 1, h, w)
        guide = F.interpolate(grey, scale_factor=0.25, mode="bicubic", align_corners=True)
        return Coarse(guide, logits, features, maps[0], grey)  # guide (B, 1, h/4, w/4)

    def without_prior(self, normalised: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the encoder's maps, and the features and logits of all subjects at stride 4."""
        maps = self.encoder(normalised)
        levels = self.pixel_decoder(maps[-4:])  # (B, c, h/4, w/4) to (B, c, h/32, w/32)
        features = self.fpn(levels)  # (B, C, h/4, w/4)
        return maps, features, self.head(features).float()

    def coefficients(self, coarse: Coarse) -> Tensor:
        """Return A and b of the local linear model, (B, 2, h/s, w/s) float32; s is the upsampler's stride."""
        return self.upsampler(*coarse)

    def forward(self, image: Tensor, guide: Tensor, prior: Tensor | None = None) -> Prediction:
        """Matte a batch.

        Args:
            image: (B, 3, h, w) float32 RGB in [0, 1] at working size, h and w multiples of the stride.
            guide: (B, 3, H, W) float32 RGB in [0, 1], the same images at full size.
            prior: (B, 1, h, w) float32 in [0, 1], an earlier alpha: from the previous frame, or drawn by a
                person. None and zeros both mean that nothing is known.

        Returns:
            Fine and coarse logits.

        Raises:
            ValueError: A prior is given, but the preset does not take one.
        """
        coarse = self.coarse(image, prior)
        coefficients = self.coefficients(coarse)
        fine_guide = self.normalise(guide).mean(1, keepdim=True)  # (B, 1, H, W)
        return Prediction(self.upsampler.upsample(coefficients, fine_guide), coarse.logits)


def build_model(preset: str | Preset) -> StyleMatte:
    """Build a network with random weights from a preset or its name.

    Raises:
        KeyError: There is no preset of that name; the message lists the presets.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise KeyError(f"unknown preset {preset!r}; choose from {', '.join(OFFERED)}")
        preset = PRESETS[preset]
    return StyleMatte(preset)
