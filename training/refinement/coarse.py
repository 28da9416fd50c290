"""Coarse alphas for training a refiner: from a real network, or degraded true alphas."""

import random

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.stylematte import StyleMatte
from models.upsamplers import FastGuidedFilter

GUIDE_SHIFT, GUIDE_SCALE = -2.04, 4.44  # (grey - mean) / std of ImageNet, as the networks' guide


@torch.no_grad()
def network_alpha(network: StyleMatte, image: Tensor, working_px: float) -> Tensor:
    """Predict alpha with the coarse network, at the image's size.

    Args:
        network: Network in evaluation mode.
        image: (1, 3, H, W) float32 RGB in [0, 1].
        working_px: Side of a square with as many pixels as the network's input.

    Returns:
        (1, 1, H, W) in [0, 1].
    """
    height, width = image.shape[-2:]
    stride = network.preset.stride
    scale = working_px / (height * width) ** 0.5
    size = [max(stride, round(side * scale / stride) * stride) for side in (height, width)]
    small = F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)
    return network(small, image).alpha


@torch.no_grad()
def degraded(image: Tensor, alpha: Tensor, ratio: float) -> Tensor:
    """Downsample true alphas by `ratio`, degrade them on this grid, and upsample them again.

    Args:
        image: (B, 3, H, W) RGB in [0, 1].
        alpha: (B, 1, H, W) in [0, 1].
        ratio: Pixels per cell of the grid.

    Returns:
        (B, 1, H, W) in [0, 1]; each image is degraded differently, but all with the same upsampler.
    """
    height, width = alpha.shape[-2:]
    size = (max(4, round(height / ratio)), max(4, round(width / ratio)))
    small = F.interpolate(_moved(alpha, ratio), size, mode="bilinear", antialias=True)
    if random.random() < 0.6:
        small = _blurred(small, random.uniform(0.3, 1.2))
    softness = (small * (1 - small) * 4).clamp(min=0).sqrt()
    small = (small + 0.06 * _clouds(alpha, size, 6) * softness).clamp(0, 1)
    least = random.choice((0.002, 0.01, 0.03))
    logits = torch.logit(small.clamp(least, 1 - least))
    logits = logits * _each(alpha, 0.6, 1.5) + _each(alpha, -0.6, 0.6)
    logits = logits + 0.5 * _clouds(alpha, size, 4) + 0.2 * torch.randn_like(logits)
    logits = (
        logits - 2.5 * (_clouds(alpha, size, 5) > 2.0).float() * _each(alpha, -1, 1).sign()
    )  # holes, blobs
    if random.random() < 0.5:
        return torch.sigmoid(F.interpolate(logits, (height, width), mode="bilinear", align_corners=True))
    fine_guide = image.mean(1, keepdim=True) * GUIDE_SCALE + GUIDE_SHIFT
    guide = F.interpolate(fine_guide, size, mode="bilinear", antialias=True)
    upsampler = FastGuidedFilter(1, 10 ** random.uniform(-4, -1.5))
    return torch.sigmoid(upsampler.upsample(upsampler(guide, logits.float()), fine_guide))


def _each(like: Tensor, low: float, high: float) -> Tensor:
    """Return (B, 1, 1, 1) uniform random numbers, one per image."""
    return torch.empty(len(like), 1, 1, 1, device=like.device).uniform_(low, high)


def _clouds(like: Tensor, size: tuple[int, int], cells: int) -> Tensor:
    """Return (B, 1, *size) smooth noise, roughly standard normal, with about `cells` waves per side."""
    noise = torch.randn(len(like), 1, cells, cells, device=like.device)
    return F.interpolate(noise, size, mode="bicubic", align_corners=True)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2.5 * sigma))
    t = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(x, [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def _moved(alpha: Tensor, ratio: float) -> Tensor:
    """Shift a batch by up to a third of a cell, and sometimes dilate or erode it."""
    most = max(1, round(ratio / 3))
    shift = [random.randint(-most, most) for _ in range(2)]
    moved = F.pad(alpha, [most] * 4, mode="replicate")
    height, width = alpha.shape[-2:]
    moved = moved[..., most + shift[0] :, most + shift[1] :][..., :height, :width]
    kind = random.random()
    size = 2 * random.randint(1, most) + 1
    if kind < 0.12:  # thicken strands, or remove them
        return F.max_pool2d(moved, size, 1, size // 2)
    if kind < 0.4:
        return -F.max_pool2d(-moved, size, 1, size // 2)
    return moved
