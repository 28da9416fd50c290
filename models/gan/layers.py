"""Layers that generator and discriminators share."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class EqualisedLinear(nn.Module):
    """Linear layer with equalised learning rate: weights are scaled at run time.

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, section 4.1.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, start: float = 0.0) -> None:
        """Build the layer.

        Args:
            inputs: Input features.
            outputs: Output features.
            rate: Learning rate relative to other layers.
            start: Initial value of the bias, as stored.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start))
        self.rate, self.scale = rate, rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) → (N, outputs) float32."""
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualisedConv2d(nn.Module):
    """Convolution with equalised learning rate; with `down`, it low-passes and halves the sides.

    Low-pass filter and convolution are both linear, so they are merged into one convolution with a larger
    kernel: on CPUs this is far faster than filtering channel by channel.

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, appendix B.
    """

    spread: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, down: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.down = down
        # Row i is the low-passed kernel of a small kernel that is 1 at position i and 0 elsewhere.
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        places = torch.eye(kernel**2).view(-1, 1, kernel, kernel)
        spread = F.conv2d(places, torch.outer(line, line)[None, None], padding=3)
        self.register_buffer("spread", spread.flatten(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) → (N, outputs, h, w), or half of h and w with `down`."""
        weight = self.weight * self.scale
        if not self.down:
            return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)
        side = weight.shape[-1] + 3
        weight = (weight.flatten(2) @ self.spread).unflatten(2, (side, side))
        return F.conv2d(x, weight, self.bias, stride=2, padding=(side - 2) // 2)


def leaky_relu(x: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """Leaky ReLU of slope 0.2; the gain roughly preserves the mean square of normal input."""
    return F.leaky_relu(x, 0.2) * gain


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for a GPU, so that it can work while the CPU goes on."""
    if device.type == "cpu" or x.device == device:
        return x
    return x.to(device) if x.is_cuda else x.pin_memory().to(device, non_blocking=True)
