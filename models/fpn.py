"""Decoders that merge an encoder's features into one map at stride 4."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.encoders import ConvNorm


class HardSigmoid(nn.Module):
    """x / 6 + 1/2, clipped to [0, 1]; written out because OpenCV 5.0 computes the ONNX operator wrongly."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return (x * (1 / 6) + 0.5).clamp(0, 1)


class Context(nn.Module):
    """Give every coarse pixel the context of its surroundings and of the whole image.

    A dark coat in front of a dark door cannot be separated locally. A 7×7 window at stride 32 spans 224 px,
    and the mean over the map summarises the whole image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = ConvNorm(channels, channels, 7, groups=channels, active=False)
        self.mix = nn.Sequential(
            ConvNorm(channels, 2 * channels), ConvNorm(2 * channels, channels, active=False)
        )
        self.whole = nn.Sequential(nn.Conv2d(channels, channels, 1), HardSigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        gate = self.whole(x.mean((2, 3), keepdim=True))  # (B, C, 1, 1)
        return x + self.mix(self.depthwise(x)) * gate


class LightFPN(nn.Module):
    """Feature pyramid for small encoders: context at the top, then one 3×3 convolution per level.

    Args:
        encoder_channels: Channels at strides 4, 8, 16, 32.
        channels: Channels of the output; the two coarse levels have twice as many.

    Reference:
        Lin et al., "Feature Pyramid Networks for Object Detection", 2017, figure 3.
    """

    def __init__(self, encoder_channels: list[int], channels: int) -> None:
        super().__init__()
        widths = [channels, channels, 2 * channels, 2 * channels]
        self.laterals = nn.ModuleList(
            ConvNorm(inputs, width, active=False)
            for inputs, width in zip(encoder_channels, widths, strict=True)
        )
        self.context = nn.Sequential(Context(widths[3]), Context(widths[3]))
        self.narrow = ConvNorm(widths[2], widths[1], active=False)
        self.smooth = nn.ModuleList(ConvNorm(width, width, 3) for width in widths[:3])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Merge features from coarse to fine.

        Args:
            features: (B, c, h/4, w/4) to (B, c, h/32, w/32).

        Returns:
            (B, channels, h/4, w/4).
        """
        maps = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        x = self.context(maps[3])  # (B, 2C, h/32, w/32)
        for level in (2, 1, 0):
            if level == 1:
                x = self.narrow(x)  # (B, 2C, h/16, w/16) → (B, C, h/16, w/16)
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.smooth[level](torch.relu(x + maps[level]))
        return x


class CoarsestOnly(nn.Module):
    """No pyramid, for small encoders: context at stride 32, upsampled; for the article's ablation.

    Args:
        encoder_channels: Channels at strides 4, 8, 16, 32.
        channels: Channels of the output.
    """

    def __init__(self, encoder_channels: list[int], channels: int) -> None:
        super().__init__()
        self.lateral = ConvNorm(encoder_channels[3], 2 * channels, active=False)
        self.context = nn.Sequential(Context(2 * channels), Context(2 * channels))
        self.narrow = ConvNorm(2 * channels, channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Four maps from fine to coarse → (B, channels, h/4, w/4), computed from the last map only."""
        x = self.narrow(self.context(self.lateral(features[3])))  # (B, C, h/32, w/32)
        return F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)


class SharedFPN(nn.Module):
    """Feature pyramid as published with StyleMatte: all three levels share one 3×3 convolution.

    Args:
        channels: Channels of the input maps and of the output.

    Reference:
        Chicherin, Efremyan, "Adversarially-Guided Portrait Matting", 2023, and the code published with it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(3))  # stride 32, 16, 8
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Merge maps from coarse to fine.

        Args:
            features: (B, channels, h/4, w/4) to (B, channels, h/32, w/32), sides rounded up.

        Returns:
            (B, channels, h/4, w/4).
        """
        finest, *coarse = features
        maps = [lateral(x) for lateral, x in zip(self.laterals, reversed(coarse), strict=True)]
        x = maps[0]  # (B, C, h/32, w/32)
        for finer in (*maps[1:], finest):
            x = self.smooth(x)  # before upsampling: a quarter of the work
            x = finer + F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=True)
        return self.fuse(torch.cat([x, finest], dim=1))  # (B, 2C, h/4, w/4) → (B, C, h/4, w/4)


class Finest(nn.Module):
    """No pyramid: the pixel decoder's finest map as it is, for the article's ablation."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Four maps from fine to coarse → the first, (B, channels, h/4, w/4)."""
        return features[0]
