"""Layers that generator and discriminators share."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class EqualisedLinear(nn.Module):
    """Linear layer whose weights are scaled when used, so that all layers learn at one speed.

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, section 4.1.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, start: float = 0.0) -> None:
        """Make the layer.

        Args:
            inputs: Features in.
            outputs: Features out.
            rate: Learning rate relative to that of other layers.
            start: First value of the bias, as it is stored.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start))
        self.rate, self.scale = rate, rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) → (N, outputs) float32."""
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)
