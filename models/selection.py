"""Selection: a prior says which subject is wanted."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.encoders import ConvNorm
from models.fpn import Context

WIDTHS = (128, 56, 24)  # at strides 16, 8 and 4
BLOCKS = 6
STEPS = 24  # of 16 px
CLEAR_LOGIT = 8.0  # of a pixel that is surely foreground


class Selection(nn.Module):
    """Raise the logits of the subject that a prior marks, and lower the others'.

    A prior marks a subject by a point in it, a box, or a part of its alpha. At stride 16, every pixel is
    compared with the mean of the pixels under the prior (masked average pooling), and is told whether it is
    connected with them (morphological reconstruction); large windows pass on what belongs together. Two
    finer levels draw the edge, and what is not connected is removed. A prior of zeros changes nothing;
    exported files then skip the module (`export.branches`).

    Args:
        encoder_channels: Channels of the encoder's maps; the last four have strides 4 to 32.
        channels: Channels of the features at stride 4.

    Reference:
        Zhang et al., "SG-One: Similarity Guidance Network for One-Shot Semantic Segmentation", 2020, eq. 1;
        Vincent, "Morphological Grayscale Reconstruction in Image Analysis", 1993, definition 4.
    """

    def __init__(self, encoder_channels: list[int], channels: int) -> None:
        super().__init__()
        finest, fine, middle, coarse = encoder_channels[-4:]
        wide, narrow, narrowest = WIDTHS
        self.lateral32 = ConvNorm(coarse, wide, active=False)
        self.lateral16 = ConvNorm(middle, wide, active=False)
        self.hints16 = ConvNorm(6, wide, active=False)
        self.compare = nn.ModuleList(Compare(wide) for _ in range(2))
        self.context16 = nn.ModuleList(Context(wide) for _ in range(BLOCKS))
        self.leave16 = ConvNorm(wide, narrow, active=False)
        self.lateral8 = ConvNorm(fine, narrow, active=False)
        self.hints8 = ConvNorm(2, narrow, active=False)
        self.smooth8 = ConvNorm(narrow, narrow, 3)
        self.context8 = Context(narrow)
        self.leave8 = ConvNorm(narrow, narrowest, active=False)
        self.lateral4 = ConvNorm(channels + finest + 2, narrowest, active=False)
        self.smooth4 = ConvNorm(narrowest, narrowest, 3)
        self.last = nn.Conv2d(narrowest, 1, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, logits: Tensor, features: Tensor, maps: list[Tensor], prior: Tensor) -> Tensor:
        """Change the logits.

        Args:
            logits: (B, 1, h/4, w/4) of all subjects.
            features: (B, C, h/4, w/4) that they were computed from.
            maps: The encoder's; the last four are (B, c, h/4, w/4) to (B, c, h/32, w/32).
            prior: (B, 1, h, w) in [0, 1].

        Returns:
            (B, 1, h/4, w/4) float32.
        """
        at4, at8, at16, at32 = maps[-4:]
        alpha = logits.sigmoid()
        near8, found8 = F.avg_pool2d(prior, 8), F.avg_pool2d(alpha, 2)  # (B, 1, h/8, w/8)
        near, found = F.avg_pool2d(near8, 2), F.avg_pool2d(found8, 2)  # (B, 1, h/16, w/16)
        peak = F.max_pool2d(prior, 16)
        around = [F.avg_pool2d(near, window, 1, window // 2) for window in (9, 17)]  # 144 and 272 px
        reached = connected(peak, found)
        hints = torch.cat([near, peak, *around, found, reached], 1)
        x = self.lateral16(at16) + _enlarged(self.lateral32(at32)) + self.hints16(hints)
        x = torch.relu(x)  # (B, 128, h/16, w/16)
        halves = self.context16[: BLOCKS // 2], self.context16[BLOCKS // 2 :]
        for compare, blocks in zip(self.compare, halves, strict=True):
            x = compare(x, near)
            for block in blocks:
                x = block(x)
        hints = torch.cat([near8, found8], 1)
        x = _enlarged(self.leave16(x)) + self.lateral8(at8) + self.hints8(hints)
        x = self.context8(self.smooth8(torch.relu(x)))  # (B, 56, h/8, w/8)
        scaled = (logits / CLEAR_LOGIT).clamp(-1, 1)
        fine = torch.cat([features, at4, alpha, scaled], 1)  # (B, C + c + 2, h/4, w/4)
        x = self.smooth4(torch.relu(_enlarged(self.leave8(x)) + self.lateral4(fine)))
        # If the prior is on a subject, remove those not connected to it; the network separates the others.
        apart = _enlarged((found - reached) * reached.amax((2, 3), keepdim=True), 4)
        change = self.last(x).float() - CLEAR_LOGIT * apart
        is_given = (2 * peak.amax((2, 3), keepdim=True)).clamp(max=1)  # (B, 1, 1, 1), others in the batch
        return logits + change * is_given


class Compare(nn.Module):
    """Tell every pixel how similar it is to the mean of the pixels under the prior."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.keys = nn.Conv2d(channels, channels, 1)
        self.mix = ConvNorm(2 * channels + 1, channels, active=False)

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        """(B, C, h, w) and the prior, (B, 1, h, w) → (B, C, h, w)."""
        weights = near.flatten(2).transpose(1, 2)  # (B, h * w, 1)
        keys = self.keys(x)
        mean = keys.flatten(2) @ (weights / (weights.sum(1, keepdim=True) + 1e-3))  # (B, C, 1)
        products = keys * mean.unsqueeze(3)
        return x + self.mix(torch.cat([x, products, products.mean(1, keepdim=True)], 1))


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


def _enlarged(x: Tensor, factor: int = 2) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
