"""Mask2Former's pixel decoder, and the choice of a decoder for each preset."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.fpn import CoarsestOnly, Finest, LightFPN, SharedFPN
from models.presets import Preset


@dataclass(frozen=True)
class PixelDecoderShape:
    """Hyperparameters of a pixel decoder, except its width."""

    layers: int
    heads: int
    feedforward: int


_SHAPES = {
    "mask2former": PixelDecoderShape(layers=6, heads=8, feedforward=1024),
    "mask2former_tiny": PixelDecoderShape(layers=1, heads=4, feedforward=64),
}


class PixelDecoder(nn.Module):
    """Deformable attention over strides 32, 16 and 8 jointly, then one pyramid step to stride 4.

    The layers come from the package `transformers`.

    Args:
        encoder_channels: Channels at strides 4, 8, 16, 32.
        channels: Channels of all outputs, a multiple of 32.
        shape: The other hyperparameters.

    Reference:
        Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", 2022, §3.2.1;
        Zhu et al., "Deformable DETR", 2021, eq. 3.
    """

    decoder: Any

    def __init__(self, encoder_channels: list[int], channels: int, shape: PixelDecoderShape) -> None:
        super().__init__()
        from transformers import Mask2FormerConfig  # takes seconds
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

        config = Mask2FormerConfig(
            feature_size=channels,
            mask_feature_size=channels,
            encoder_layers=shape.layers,
            num_attention_heads=shape.heads,
            encoder_feedforward_dim=shape.feedforward,
        )
        self.decoder = Mask2FormerPixelDecoder(config, encoder_channels)
        self._initialise()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Let the levels attend to each other.

        Args:
            features: (B, c, h/4, w/4) to (B, c, h/32, w/32).

        Returns:
            Maps of the same sizes with `channels` channels, float32.
        """
        # In float32 even under autocast, like Mask2Former: sampling positions need more than 8 bits.
        with torch.autocast(features[0].device.type, enabled=False):
            out = self.decoder([feature.float() for feature in features])
        return [out.mask_features, *reversed(out.multi_scale_features)]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise the weights that `transformers` leaves to the caller: Zhu et al., §A.4 for attention."""
        nn.init.normal_(self.decoder.level_embed)
        for layer in self.decoder.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in self.decoder.encoder.layers:
            attention = layer.self_attn
            nn.init.zeros_(attention.attention_weights.weight)
            nn.init.zeros_(attention.sampling_offsets.weight)
            # Each head samples in its own direction, each point one step further, on a square.
            angles = torch.arange(attention.n_heads) * (2 * math.pi / attention.n_heads)
            directions = torch.stack([angles.cos(), angles.sin()], -1)  # (heads, 2)
            directions /= directions.abs().amax(-1, keepdim=True)
            steps = torch.arange(1.0, attention.n_points + 1).view(-1, 1)
            offsets = directions[:, None, None] * steps  # (heads, 1, points, 2)
            offsets = offsets.expand(-1, attention.n_levels, -1, -1)
            attention.sampling_offsets.bias.copy_(offsets.flatten())


def build_decoder(preset: Preset, encoder_channels: list[int]) -> tuple[nn.Module, nn.Module]:
    """Build the modules that merge an encoder's features, with random weights.

    Returns:
        The pixel decoder (the identity for small encoders), and the pyramid that follows it.
    """
    if preset.decoder == "light_fpn":
        light = LightFPN if preset.pyramid else CoarsestOnly
        return nn.Identity(), light(encoder_channels, preset.fpn_channels)
    pixel_decoder = PixelDecoder(encoder_channels, preset.fpn_channels, _SHAPES[preset.decoder])
    return pixel_decoder, SharedFPN(preset.fpn_channels) if preset.pyramid else Finest()
