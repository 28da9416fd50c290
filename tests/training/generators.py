"""A generator that can be foretold: a red disc on grey, its place, size and shade by the noise."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Discs(nn.Module):
    """Like `models.gan.generator.Generator`; a lookup moves the disc."""

    def __init__(self, size_px: int = 32, channels: int = 4) -> None:
        super().__init__()
        self.config = SimpleNamespace(size_px=size_px, channels=channels, z_dim=4)

    def forward(self, z: Tensor, truncation: Tensor, transform: Tensor) -> Tensor:
        z = torch.tanh(z) * truncation[:, None]
        side = self.config.size_px
        ticks = (torch.arange(side) + 0.5) / side - 0.5
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        places = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
        looked_up = (places @ transform.transpose(1, 2)).view(-1, side, side, 3)
        dx, dy = (looked_up[..., i] - 0.2 * z[:, i, None, None] for i in (0, 1))
        radius = 0.25 + 0.08 * z[:, 2, None, None]
        alpha = ((radius - torch.hypot(dx, dy)) * 10 + 0.5).clamp(0, 1)
        red = (0.8 + 0.2 * z[:, 3, None, None]) * alpha + 0.3 * (1 - alpha)
        other = 0.3 * (1 - alpha)
        return torch.stack([red, other, other, alpha], 1) * 2 - 1
