"""Selection: a prior says which subject is wanted."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.encoders import ConvNorm
from models.fpn import Context

KEYS, WIDTH, FINE_WIDTH = 64, 64, 16
STEPS = 24  # of 16 px
GATE_BIAS = 5.0  # gates are open at first


class Selection(nn.Module):
    """Raise the logits of the subject that a prior marks, and lower the others'.

    A prior marks a subject by a point in it, a box, or a part of its alpha. At stride 16, every pixel is
    compared with the mean of the pixels under the prior (masked average pooling), and is told whether it is
    connected with them (morphological reconstruction); large windows pass on what belongs together; features
    at stride 4 draw the edge. A prior of zeros changes nothing.

    Args:
        encoder_channels: Channels of the encoder's maps; the last two have strides 16 and 32.
        channels: Channels of the features at stride 4.

    Reference:
        Zhang et al., "SG-One: Similarity Guidance Network for One-Shot Semantic Segmentation", 2020, eq. 1;
        Vincent, "Morphological Grayscale Reconstruction in Image Analysis", 1993, definition 4.
    """

    def __init__(self, encoder_channels: list[int], channels: int) -> None:
        super().__init__()
        self.keys = nn.ModuleList(nn.Conv2d(inputs, KEYS, 1) for inputs in encoder_channels[-2:])
        self.enter = ConvNorm(2 * KEYS + 7, WIDTH)
        self.context = nn.Sequential(*(Context(WIDTH) for _ in range(3)))
        self.leave = ConvNorm(WIDTH, FINE_WIDTH, active=False)
        self.lateral = ConvNorm(channels, FINE_WIDTH, active=False)
        self.last = nn.Conv2d(FINE_WIDTH, 1, 3, padding=1)
        self.gate = nn.Conv2d(WIDTH, 1, 1)
        self.apart = nn.Parameter(torch.tensor(0.0))
        for parameter in (*self.last.parameters(), self.gate.weight):
            nn.init.zeros_(parameter)
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, GATE_BIAS)

    def forward(self, logits: Tensor, features: Tensor, maps: list[Tensor], prior: Tensor) -> Tensor:
        """Change the logits.

        Args:
            logits: (B, 1, h/4, w/4) of all subjects.
            features: (B, C, h/4, w/4) that they were computed from.
            maps: The encoder's, up to (B, c, h/16, w/16) and (B, c, h/32, w/32).
            prior: (B, 1, h, w) in [0, 1].

        Returns:
            (B, 1, h/4, w/4) float32.
        """
        near, peak = F.avg_pool2d(prior, 16), F.max_pool2d(prior, 16)  # (B, 1, h/16, w/16)
        around = [F.avg_pool2d(near, window, 1, window // 2) for window in (9, 17)]  # 144 and 272 px
        found = F.avg_pool2d(logits.sigmoid(), 4)
        keys = self.keys[0](maps[-2]) + _enlarged(self.keys[1](maps[-1]), 2)  # (B, K, h/16, w/16)
        weights = near.flatten(2).transpose(1, 2)  # (B, h/16 * w/16, 1)
        mean = keys.flatten(2) @ weights / (weights.sum(1, keepdim=True) + 1e-3)  # (B, K, 1)
        products = keys * mean.unsqueeze(3)
        likeness = products.mean(1, keepdim=True)
        reached = connected(peak, found)
        x = self.enter(torch.cat([keys, products, likeness, near, peak, *around, found, reached], 1))
        x = self.context(x)
        # If the prior is on a subject, remove those not connected to it. Gates separate subjects that touch.
        kept = connected(peak, found * self.gate(x).sigmoid())
        apart = (found - kept) * kept.amax((2, 3), keepdim=True)
        x = _enlarged(self.leave(x), 4)  # (B, FINE_WIDTH, h/4, w/4)
        change = self.last(torch.relu(x + self.lateral(features))).float()
        is_given = (2 * peak.amax((2, 3), keepdim=True)).clamp(max=1)  # (B, 1, 1, 1)
        change = change - self.apart * _enlarged(apart, 4)
        return logits + change * is_given


def connected(seed: Tensor, mask: Tensor) -> Tensor:
    """Reconstruct a mask from seeds: each pixel gets the smallest value on its best path to a seed.

    Args:
        seed: (B, 1, h, w) in [0, 1].
        mask: (B, 1, h, w) in [0, 1].

    Returns:
        (B, 1, h, w), at most the mask; 0 beyond `STEPS` pixels from every seed.
    """
    reached = torch.minimum(seed, mask)
    for _ in range(STEPS):
        reached = torch.minimum(F.max_pool2d(reached, 3, 1, 1), mask)
    return reached


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
