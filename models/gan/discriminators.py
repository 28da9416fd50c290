"""Discriminators: one for RGBA, trained from scratch; one for composites, on a frozen network's features."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import spectral_norm

from models.gan.backbones import Frozen
from models.gan.layers import EqualisedConv2d, EqualisedLinear, leaky_relu


class Discriminator(nn.Module):
    """Residual discriminator of StyleGAN2.

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, section 4.1.
    """

    def __init__(
        self,
        size_px: int,
        channels: int = 4,
        channel_base: int = 32768,
        channel_max: int = 512,
        minibatch_std_group: int = 4,
    ) -> None:
        """Build the network.

        Args:
            size_px: Side of the images, a power of two, at least 8.
            channels: 4 for RGBA.
            channel_base: Each stage has `channel_base / side` channels, up to `channel_max`.
            channel_max: Maximum number of channels.
            minibatch_std_group: Group size of the minibatch standard deviation; 1 turns it off.
        """
        super().__init__()
        self.size_px, self.group = size_px, minibatch_std_group
        sides = [size_px >> step for step in range(size_px.bit_length() - 2)]  # size_px to 4
        widths = [min(channel_base // side, channel_max) for side in sides]
        self.from_rgba = EqualisedConv2d(channels, widths[0], 1)
        self.blocks = nn.Sequential(*map(ResidualBlock, widths[:-1], widths[1:]))
        last = widths[-1]
        self.conv = EqualisedConv2d(last + (minibatch_std_group > 1), last, 3)
        self.linear = EqualisedLinear(last * 16, last)
        self.out = EqualisedLinear(last, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images as real or generated.

        Args:
            x: (N, channels, size, size) float32 in [-1, 1].

        Returns:
            (N, 1) logits, high for real images.
        """
        if x.is_cuda:  # tensor cores take channels last; convolutions would transpose each map twice
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.blocks(leaky_relu(self.from_rgba(x)))  # (N, C, 4, 4)
        if self.group > 1:
            x = torch.cat([x, _minibatch_std(x, self.group)], 1)
        x = leaky_relu(self.conv(x))
        return self.out(leaky_relu(self.linear(x.flatten(1))))


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection; halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = EqualisedConv2d(inputs, inputs, 3)
        self.conv1 = EqualisedConv2d(inputs, outputs, 3, down=True)
        self.skip = EqualisedConv2d(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) → (N, outputs, h / 2, w / 2)."""
        y = leaky_relu(self.conv1(leaky_relu(self.conv0(x))))
        return (y + self.skip(x)) * math.sqrt(0.5)


def _minibatch_std(x: Tensor, group: int) -> Tensor:
    """(N, C, h, w) → (N, 1, h, w): how much the images of a group differ; the same within a group.

    The group size is the largest divisor of N up to `group`.

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, section 3.
    """
    count = next(size for size in range(min(group, len(x)), 0, -1) if len(x) % size == 0)
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(count, -1, *x.shape[1:])
    std = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))  # (N / count,)
    return std.repeat(count).to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])


class VisionAided(nn.Module):
    """Small heads that classify composites by a frozen network's features, one head per level.

    Only `heads` is trained, so only its state needs to be saved. The paper augments the backbone's input;
    the caller has to do that.

    Reference:
        Kumari et al., "Ensembling Off-the-shelf Models for GAN Training", 2022, section 3.
    """

    def __init__(self, backbone: Frozen) -> None:
        super().__init__()
        self.backbone = backbone
        *maps, last = backbone.channels
        self.heads = nn.ModuleList([MapHead(channels) for channels in maps] + [VectorHead(last)])

    def forward(self, rgb: Tensor) -> tuple[Tensor, ...]:
        """Classify composites as real or generated.

        Args:
            rgb: (N, 3, h, w) float32 in [-1, 1].

        Returns:
            Logits of every level, high for real images: (N, 1, g, g) for maps, (N, 1) for the whole image.
        """
        return tuple(head(level) for head, level in zip(self.heads, self.backbone(rgb), strict=True))


class MapHead(nn.Module):
    """A feature map to one logit per neighbourhood."""

    taps: Tensor

    def __init__(self, channels: int, hidden: int = 256) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(channels, hidden, 3, padding=1))
        self.out = nn.Conv2d(hidden, 1, 1)
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, g, g) → (N, 1, ⌈g / 2⌉, ⌈g / 2⌉)."""
        y = F.leaky_relu(self.conv(features), 0.2)
        # The 1×1 convolution and the low-pass filter commute, so only one channel is filtered.
        y = F.pad(self.out(y), (1, 2, 1, 2), mode="replicate")
        return F.conv2d(y, self.taps, stride=2)


class VectorHead(nn.Module):
    """An image embedding to one logit."""

    def __init__(self, channels: int, hidden: int = 256) -> None:
        super().__init__()
        self.linear = spectral_norm(nn.Linear(channels, hidden))
        self.out = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) → (N, 1)."""
        return self.out(F.leaky_relu(self.linear(features), 0.2))


def vision_loss(levels: tuple[Tensor, ...], label: float) -> Tensor:
    """Return the sum of the levels' cross-entropies, with equal weights.

    Args:
        levels: Logits of `VisionAided`.
        label: Target: 0.8 for real images and in the generator's loss, 0 for generated images.

    Returns:
        Scalar.
    """
    losses = [F.binary_cross_entropy_with_logits(x, torch.full_like(x, label)) for x in levels]
    return torch.stack(losses).sum()
