"""Encoders: a normalised image in, features at strides 4 to 32 out (2 to 32 from small encoders)."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import swin
from models.encoder import Encoder


@dataclass(frozen=True)
class MobileNetShape:
    """Rows of (expansion, channels, repeats, stride, kernel), as in the papers' tables."""

    stem: int
    rows: tuple[tuple[int, int, int, int, int], ...]


_SHAPES = {
    "mobilenet_v2": MobileNetShape(
        32,
        (
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 32, 3, 2, 3),
            (6, 64, 4, 2, 3),
            (6, 96, 3, 1, 3),
            (6, 160, 3, 2, 3),
            (6, 320, 1, 1, 3),
        ),
    ),
    # EfficientNet-B0's rows, with ReLU6 and without squeeze-and-excitation. The last row, with 320 channels,
    # is left out: it feeds the classifier, and takes a tenth of the encoder's time.
    "efficientnet_lite0": MobileNetShape(
        32,
        (
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
        ),
    ),
    "mobilenet_v2_tiny": MobileNetShape(
        8, ((1, 8, 1, 1, 3), (2, 8, 1, 2, 3), (2, 12, 1, 2, 3), (2, 16, 1, 2, 3), (2, 24, 1, 2, 3))
    ),
}


class ConvNorm(nn.Module):
    """Convolution, batch norm and, unless `active` is false, ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        # Stride 2 pads one more at the right and bottom, like the ImageNet weights (TensorFlow's SAME).
        reach = kernel // 2
        self.pad = nn.ZeroPad2d((reach - 1, reach, reach - 1, reach)) if stride == 2 else nn.Identity()
        padding = 0 if stride == 2 else reach
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU6() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h / stride, w / stride)."""
        return self.activation(self.norm(self.conv(self.pad(x))))


class InvertedResidual(nn.Module):
    """Expand, filter each channel (depthwise), project; add the input where the shapes match.

    Reference:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, figure 4.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = ConvNorm(inputs, hidden) if expansion != 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h / stride, w / stride)."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNet(Encoder):
    """MobileNetV2, or a later network made of the same blocks, without its classifier.

    Reference:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2; Tan, Le,
        "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, table 1, in the Lite
        version that TensorFlow published in 2020.
    """

    def __init__(self, shape: MobileNetShape) -> None:
        super().__init__()
        self.stem = ConvNorm(3, shape.stem, 3, 2)
        blocks: list[nn.Module] = []
        inputs, stride, ends = shape.stem, 2, {}
        for expansion, outputs, repeats, row_stride, kernel in shape.rows:
            for index in range(repeats):
                step = row_stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, step, expansion, kernel))
                inputs, stride = outputs, stride * step
                ends[stride] = (len(blocks), outputs)  # keep the last block at each stride
        self.blocks = nn.ModuleList(blocks)
        self.ends = [ends[s][0] for s in (2, 4, 8, 16, 32)]
        self.channels = [ends[s][1] for s in (2, 4, 8, 16, 32)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Extract features.

        Args:
            x: (B, 3, h, w) normalised RGB, h and w multiples of 32.

        Returns:
            Five maps, (B, c, h/2, w/2) to (B, c, h/32, w/32), with c from `channels`.
        """
        features = []
        x = self.stem(x)
        for index, block in enumerate(self.blocks, 1):
            x = block(x)
            if index in self.ends:
                features.append(x)
        return features

    def level_of(self, parameter_name: str) -> int:
        """See `Encoder.level_of`."""
        part, _, rest = parameter_name.partition(".")
        if part == "stem":
            return 0
        block = int(rest.partition(".")[0])
        # `ends` counts blocks up to and including the last of each stride; stride 2 shares level 1.
        return max(1, bisect_right(self.ends, block))


def build_encoder(name: str) -> Encoder:
    """Build an encoder by name, with random weights.

    Args:
        name: See `models.presets`.
    """
    if name in _SHAPES:
        return MobileNet(_SHAPES[name])
    return swin.Swin(swin.SHAPES[name])


@torch.no_grad()
def load_folded(encoder: MobileNet, folded: dict[str, Tensor], photos: Tensor) -> None:
    """Load ImageNet weights whose batch norms were folded into the convolutions.

    Each norm takes the statistics of `photos` and undoes them with its scale and shift, so the function is
    unchanged and training can continue as usual.

    Args:
        encoder: Network to load the weights into.
        folded: `stem.weight`, `stem.bias`, `blocks.<i>.<expand|depthwise|project>.<weight|bias>`, for
            normalised RGB (see `from_signed_range` for weights that expect [-1, 1]).
        photos: (B, 3, h, w) float32 normalised RGB, at least a few dozen images.

    Raises:
        KeyError: `folded` lacks a layer of the encoder.
    """
    hooks = []
    for name, layer in encoder.named_modules():
        if not isinstance(layer, ConvNorm):
            continue
        layer.conv.weight.copy_(folded[f"{name}.weight"])
        hooks.append(layer.norm.register_forward_pre_hook(_measured_norm(folded[f"{name}.bias"])))
    training = encoder.training
    encoder.eval()
    encoder(photos)  # front to back: each layer is measured through the layers already set
    for hook in hooks:
        hook.remove()
    encoder.train(training)


def _measured_norm(bias: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean + bias)

    return measure


def from_signed_range(
    folded: dict[str, Tensor], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Tensor]:
    """Convert folded weights that expect RGB in [-1, 1] to ones that expect normalised RGB.

    The stem expects y = 2·(std·x + mean) − 1, so the scale and shift move into its weight and bias.
    """
    weight = folded["stem.weight"].float()
    scale = torch.tensor(std).view(1, 3, 1, 1) * 2
    shift = torch.tensor(mean).view(1, 3, 1, 1) * 2 - 1
    rewritten = {name: tensor.float() for name, tensor in folded.items()}
    rewritten["stem.weight"] = weight * scale
    rewritten["stem.bias"] = folded["stem.bias"].float() + (weight * shift).sum((1, 2, 3))
    return rewritten
