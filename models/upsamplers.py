"""Upsamplers: coarse logits to full-size logits, guided by the full-size image.

Every upsampler is a local linear model, logits ≈ A · guide + b, computed on a coarse grid and applied at full
size. The upsamplers differ in how they compute A and b, and in the stride of the grid.
"""

from typing import NamedTuple

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F  # noqa: N812

from models.encoders import ConvNorm
from models.presets import Preset


class Upsampler(nn.Module):
    """Base class of all upsamplers.

    Attributes:
        stride: Stride of the grid of A and b, in pixels at working size.
    """

    stride: int = 4

    def forward(self, guide: Tensor, logits: Tensor, *maps: Tensor) -> Tensor:
        """Compute the local linear model.

        Args:
            guide: (B, 1, h, w) grey guide at the size of the logits.
            logits: (B, 1, h, w) float32.
            maps: The other fields of `models.stylematte.Coarse`: the features, the encoder's finest map and
                the grey image. Each upsampler uses those it needs.

        Returns:
            (B, 2, h, w) float32: A, then b; on a finer grid if `stride` is below 4.
        """
        raise NotImplementedError

    def upsample(self, coefficients: Tensor, guide: Tensor) -> Tensor:
        """Apply the local linear model at full size.

        Args:
            coefficients: (B, 2, h, w), as `forward` finds them.
            guide: (B, 1, H, W) grey guide at full size.

        Returns:
            (B, 1, H, W) logits.
        """
        fine = F.interpolate(coefficients, guide.shape[-2:], mode="bilinear", align_corners=True)
        a, b = fine.split(1, dim=1)  # (B, 2, H, W) → twice (B, 1, H, W)
        return a * guide + b


class Bilinear(Upsampler):
    """Bilinear upsampling without a guide: A = 0, and b is the logits."""

    def forward(self, guide: Tensor, logits: Tensor, *maps: Tensor) -> Tensor:
        """See `Upsampler.forward`."""
        return cat([torch.zeros_like(logits), logits], dim=1)


class FastGuidedFilter(Upsampler):
    """Least-squares fit in every window.

    Args:
        radius_px: Radius of the box window, in coarse pixels.
        eps: Regulariser, in squared units of the guide: the larger, the less the result follows the guide.
        averaged: Average A and b over the window, as He and Sun do.

    Reference:
        He, Sun, "Fast Guided Filter", 2015, algorithm 2.
    """

    def __init__(self, radius_px: int, eps: float, averaged: bool = True) -> None:
        super().__init__()
        self.radius_px = radius_px
        self.eps = eps
        self.averaged = averaged

    def forward(self, guide: Tensor, logits: Tensor, *maps: Tensor) -> Tensor:
        """See `Upsampler.forward`; the maps are not used."""
        size = 2 * self.radius_px + 1
        mean_guide, mean_logits, variance, covariance = window_moments(
            guide, logits, guide.new_ones(size * size)
        )
        a = covariance / (variance + self.eps)
        result = cat([a, mean_logits - a * mean_guide], dim=1)
        if self.averaged:
            result = F.avg_pool2d(result, size, 1, self.radius_px, count_include_pad=False)
        return result


class ConvGuidedFilter(Upsampler):
    """Learned means and a learned fit: a small network computes A from the covariance and the variance.

    The means use a learned window whose weights are positive and sum to 1, so that variances are never
    negative and windows can be cropped at borders. Training starts with the box mean and A = 0, which gives
    the upsampled mean of the logits.

    Args:
        radius_px: Radius of the window, in coarse pixels.
        extra: Additional input channels of the small network, see `DeepGuidedFilter`.
        width: Width of the small network.

    Reference:
        Wu et al., "Fast End-to-End Trainable Guided Filter", 2018, §3.3.
    """

    def __init__(self, radius_px: int, extra: int = 0, width: int = 32) -> None:
        super().__init__()
        self.window = nn.Parameter(torch.zeros((2 * radius_px + 1) ** 2))  # before the softmax
        last = nn.Conv2d(width, 1, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.fit = nn.Sequential(ConvNorm(2 + extra, width), ConvNorm(width, width), last)

    def forward(self, guide: Tensor, logits: Tensor, *maps: Tensor) -> Tensor:
        """See `Upsampler.forward`."""
        mean_guide, mean_logits, variance, covariance = window_moments(
            guide, logits, self.window.float().softmax(0)
        )
        a = self.fit(self.evidence(covariance, variance, *maps)).float()
        return cat([a, mean_logits - a * mean_guide], dim=1)

    def evidence(self, covariance: Tensor, variance: Tensor, *maps: Tensor) -> Tensor:
        """Return the input of the small network, (B, 2 + extra, h, w)."""
        return cat([covariance, variance], dim=1)


class DeepGuidedFilter(ConvGuidedFilter):
    """Like `ConvGuidedFilter`, but the small network also sees the features behind the logits.

    Args:
        radius_px: Radius of the window, in coarse pixels.
        channels: Channels of the features.
        width: Width of the small network, and of the features projected for it.

    Reference:
        Lin et al., "Robust High-Resolution Video Matting with Temporal Guidance", 2021, §3.3.
    """

    def __init__(self, radius_px: int, channels: int, width: int = 32) -> None:
        super().__init__(radius_px, extra=width, width=width)
        self.project = nn.Conv2d(channels, width, 1)

    def evidence(self, covariance: Tensor, variance: Tensor, *maps: Tensor) -> Tensor:
        """See `ConvGuidedFilter.evidence`."""
        return cat([covariance, variance, self.project(maps[0])], dim=1)


class FineGuidedFilter(Upsampler):
    """A and b predicted at stride 2 by a small network, from the features and the encoder's finest map.

    No window is fitted, because the fit takes more time than the small network. Strands and fingers that
    stride 4 averages away are still visible in the finest map. A multiplies the guide minus its mean in the
    grid cell, so it adds nothing to the cell's mean; a separate correction adjusts the logits. Training
    starts with the upsampled logits.

    Args:
        channels: Channels of the features.
        finest: Channels of the finest map.
        width: Width of the small network.

    Reference:
        Gharbi et al., "Deep Bilateral Learning for Real-Time Image Enhancement", 2017, §3.1, for local models
        that a network predicts rather than fits.
    """

    stride = 2

    def __init__(self, channels: int, finest: int, width: int = 16) -> None:
        super().__init__()
        self.narrow = ConvNorm(channels, width, active=False)
        self.lateral = ConvNorm(finest, width, active=False)
        self.smooth = ConvNorm(width, width, 3)
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, guide: Tensor, logits: Tensor, *maps: Tensor) -> Tensor:
        """See `Upsampler.forward`; (B, 2, 2h, 2w)."""
        features, finest, grey = maps
        x = _upsampled(self.narrow(features))  # (B, width, 2h, 2w)
        x = self.smooth(torch.relu(x + self.lateral(finest)))
        a, correction = self.last(x).float().split(1, dim=1)
        b = _upsampled(logits) + correction - a * F.avg_pool2d(grey, 2)
        return cat([a, b], dim=1)


def _upsampled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Moments(NamedTuple):
    """Moments of guide and logits in the window around every pixel, each (B, 1, h, w)."""

    mean_guide: Tensor
    mean_logits: Tensor
    variance: Tensor
    covariance: Tensor


def window_moments(guide: Tensor, logits: Tensor, weights: Tensor) -> Moments:
    """Return weighted means, the guide's variance and the covariance in a window around every pixel.

    The means are subtracted before multiplying, instead of E[xy] − E[x]E[y]: where the guide is flat, that
    difference is pure rounding error, and divided by a small eps it changes an alpha by 2e-3.

    Args:
        guide: (B, 1, h, w).
        logits: (B, 1, h, w).
        weights: (n²,) non-negative, row by row, n odd. Windows are cropped at the border, and the remaining
            weights are rescaled to sum to 1.
    """
    radius_px = int(weights.numel() ** 0.5) // 2
    share = weights.view(1, -1, 1, 1, 1) * _windows(torch.ones_like(guide[:1]), radius_px)
    share = share / share.sum(1, keepdim=True)  # (1, n², 1, h, w)
    near_guide, near_logits = _windows(guide, radius_px), _windows(logits, radius_px)
    mean_guide, mean_logits = (share * near_guide).sum(1), (share * near_logits).sum(1)  # (B, 1, h, w)
    off_guide = near_guide - mean_guide.unsqueeze(1)  # (B, n², 1, h, w)
    off_logits = near_logits - mean_logits.unsqueeze(1)
    weighted = share * off_guide
    return Moments(mean_guide, mean_logits, (weighted * off_guide).sum(1), (weighted * off_logits).sum(1))


def _windows(x: Tensor, radius_px: int) -> Tensor:
    """(B, 1, h, w) → (B, n², 1, h, w), n = 2 · radius_px + 1: the neighbours of every pixel, zero-padded.

    Slices instead of a convolution: slices are exact where autocast or TF32 would round.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, [radius_px] * 4)
    offsets = range(2 * radius_px + 1)
    return torch.stack([padded[..., i : i + height, j : j + width] for i in offsets for j in offsets], dim=1)


def build_upsampler(preset: Preset, finest_channels: int) -> Upsampler:
    """Build the preset's upsampler, with random weights if it has any.

    Args:
        preset: Preset of the network.
        finest_channels: Channels of the encoder's finest map.
    """
    if preset.upsampler == "bilinear":
        return Bilinear()
    if preset.upsampler == "conv_gf":
        return ConvGuidedFilter(preset.radius_px)
    if preset.upsampler == "deep_gf":
        return DeepGuidedFilter(preset.radius_px, preset.fpn_channels)
    if preset.upsampler == "fine_gf":
        return FineGuidedFilter(preset.fpn_channels, finest_channels)
    return FastGuidedFilter(preset.radius_px, preset.eps, preset.averaged)
