"""Encoders: a normalised picture in, features at strides 4 to 32 out, small encoders' from 2."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models import swin
from models.encoder import ENCODER_LEVELS, Encoder

PRIOR = "stem.conv.prior"  # what reads the prior, in an encoder that takes one


@dataclass(frozen=True)
class MobileNetShape:
    """Rows of (expansion, channels, repeats, stride, kernel), as the papers' tables have them."""

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
    # EfficientNet-B0's rows, without squeeze and excitation and with ReLU6. The last row, of 320 channels, is
    # left out: it feeds the classifier, and costs a tenth of the encoder's time.
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
        kind: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        # Stride 2 pads one more right and below, as the ImageNet weights were trained (TensorFlow's SAME).
        reach = kernel // 2
        self.pad = nn.ZeroPad2d((reach - 1, reach, reach - 1, reach)) if stride == 2 else nn.Identity()
        padding = 0 if stride == 2 else reach
        self.conv = kind(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU6() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h / stride, w / stride)."""
        return self.activation(self.norm(self.conv(self.pad(x))))


class PriorConv(nn.Conv2d):
    """Convolution of a picture and, as a fourth channel, of an alpha believed so far.

    The fourth channel's kernel is a parameter of its own, zero at first: it learns where the picture's is
    frozen, and files without it are those of a network that knows no prior.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prior = nn.Parameter(torch.zeros_like(self.weight[:, :1]))

    @torch.no_grad()
    def joined(self) -> nn.Conv2d:
        """The same with one kernel of four channels, to be exported."""
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        joined = nn.Conv2d(4, self.out_channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
        joined.weight.copy_(torch.cat([self.weight, self.prior], 1))
        return joined

    def forward(self, input: Tensor) -> Tensor:
        """(B, 3, h, w) normalised RGB, or (B, 4, h, w) with the prior → (B, outputs, h', w')."""
        prior: Tensor = self.prior
        if input.shape[1] == self.in_channels:
            # Zeros, whose gradient is zero: cut off, so that nothing goes back through frozen levels for it.
            input, prior = F.pad(input, (0, 0, 0, 0, 0, 1)), prior.detach()
        return F.conv2d(input, torch.cat([self.weight, prior], 1), None, self.stride, self.padding)


class InvertedResidual(nn.Module):
    """Expand, filter every channel by itself, project; add the input where shapes allow.

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
    """MobileNetV2, or a later network of the same blocks, without its classifier.

    Reference:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2; Tan, Le,
        "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, table 1, in the Lite
        version that TensorFlow published in 2020.
    """

    def __init__(self, shape: MobileNetShape, prior: bool = False) -> None:
        super().__init__()
        self.stem = ConvNorm(3, shape.stem, 3, 2, kind=PriorConv if prior else nn.Conv2d)
        blocks: list[nn.Module] = []
        inputs, stride, ends = shape.stem, 2, {}
        for expansion, outputs, repeats, row_stride, kernel in shape.rows:
            for index in range(repeats):
                step = row_stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, step, expansion, kernel))
                inputs, stride = outputs, stride * step
                ends[stride] = (len(blocks), outputs)  # the last block at each stride is the one kept
        self.blocks = nn.ModuleList(blocks)
        self.ends = [ends[s][0] for s in (2, 4, 8, 16, 32)]
        self.channels = [ends[s][1] for s in (2, 4, 8, 16, 32)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Extract features.

        Args:
            x: (B, 3, h, w) normalised RGB, h and w multiples of 32; or, where the stem takes a prior,
                (B, 4, h, w) with an alpha in [0, 1] behind it. Three channels stand for a prior of zeros.

        Returns:
            Five maps, (B, c, h/2, w/2) to (B, c, h/32, w/32), c as in `channels`.
        """
        features = []
        x = self.stem(x)
        for index, block in enumerate(self.blocks, 1):
            x = block(x)
            if index in self.ends:
                features.append(x)
        return features

    def level_of(self, parameter_name: str) -> int:
        """See `Encoder.level_of`.

        What reads the prior counts to the deepest: ImageNet knows nothing of it.
        """
        part, _, rest = parameter_name.partition(".")
        if parameter_name == PRIOR:
            return ENCODER_LEVELS - 1
        if part == "stem":
            return 0
        block = int(rest.partition(".")[0])
        # `ends` counts blocks, the last of each stride included; what leads to stride 2 shares level 1.
        return max(1, bisect_right(self.ends, block))


def build_encoder(name: str, prior: bool = False) -> Encoder:
    """Make an encoder by its preset name, with random weights.

    Args:
        name: See `models.presets`.
        prior: The stem takes a prior as well; not for Swin Transformers.
    """
    if name in _SHAPES:
        return MobileNet(_SHAPES[name], prior)
    assert not prior, "see `Preset.__post_init__`"
    return swin.Swin(swin.SHAPES[name])


@torch.no_grad()
def load_folded(encoder: MobileNet, folded: dict[str, Tensor], photos: Tensor) -> None:
    """Fill an encoder from ImageNet weights whose batch norms were folded into the convolutions.

    Every norm takes the statistics that `photos` show it and undoes them with its scale and shift, so the
    function stays what it was while training can go on as usual. A prior has no say in it.

    Args:
        encoder: Network to fill.
        folded: `stem.weight`, `stem.bias`, `blocks.<i>.<expand|depthwise|project>.<weight|bias>`, for
            normalised RGB (see `from_signed_range` for weights that want [-1, 1]).
        photos: (B, 3, h, w) float32 normalised RGB, a few dozen pictures at least.

    Raises:
        KeyError: `folded` lacks a layer of the encoder.
    """
    hooks = []
    for name, layer in encoder.named_modules():
        if not isinstance(layer, ConvNorm):
            continue
        layer.conv.weight.copy_(folded[f"{name}.weight"])
        if isinstance(layer.conv, PriorConv):
            layer.conv.prior.zero_()
        hooks.append(layer.norm.register_forward_pre_hook(_measured_norm(folded[f"{name}.bias"])))
    training = encoder.training
    encoder.eval()
    encoder(photos)  # front to back: a layer is measured through the layers already set
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
    """Rewrite folded weights made for RGB in [-1, 1] for normalised RGB.

    The stem sees 2·(std·x + mean) − 1 where it expects y, so scale and shift move into its weight and bias.
    """
    weight = folded["stem.weight"].float()
    scale = torch.tensor(std).view(1, 3, 1, 1) * 2
    shift = torch.tensor(mean).view(1, 3, 1, 1) * 2 - 1
    rewritten = {name: tensor.float() for name, tensor in folded.items()}
    rewritten["stem.weight"] = weight * scale
    rewritten["stem.bias"] = folded["stem.bias"].float() + (weight * shift).sum((1, 2, 3))
    return rewritten
