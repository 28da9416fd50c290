"""The refiner: full-resolution tiles of an image, with their coarse alpha, to alpha with hair strands.

The coarse network sees the whole image at low resolution, so it finds the subject but not single strands.
The refiner sees tiles of a few hundred pixels and finds the strands; the coarse alpha tells it what the
subject is.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import CheckpointError, fill, read_tensors

CLEAR_LOGIT = (
    6.0  # coarse logits are clamped to ± this, so that the refiner can still change clear and opaque pixels
)


@dataclass(frozen=True)
class RefinerShape:
    """Shape of a refiner.

    Attributes:
        name: Name in the metadata of its files.
        widths: Channels at strides 2, 4, 8 and 16.
        tile_px: Side of the tiles that it is exported for; a multiple of 16.
    """

    name: str = "nano_refiner"
    widths: tuple[int, ...] = (24, 48, 64, 80)
    tile_px: int = 160


REFINERS = {shape.name: shape for shape in (RefinerShape(), RefinerShape("test_refiner", (8, 8, 8, 8), 64))}


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Refiner(nn.Module):
    """A small U-Net at strides 2 to 16 that predicts a correction of the coarse logits.

    No layer runs at stride 1: 2×2 pixels are folded into channels and unfolded at the end, which keeps all
    pixels at a quarter of the cost. Training starts with a correction of zero.

    Args:
        shape: Shape of the network.

    Reference:
        Lin et al., "Real-Time High-Resolution Background Matting", 2021, §3.2, for refining where a coarse
        pass is unsure; Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
        Sub-Pixel Convolutional Neural Network", 2016, for the unfolding.
    """

    def __init__(self, shape: RefinerShape) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.widths
        self.stem = nn.Sequential(conv_norm(16, widths[0]), conv_norm(widths[0], widths[0]))
        self.down = nn.ModuleList(
            nn.Sequential(conv_norm(fine, coarse, stride=2), conv_norm(coarse, coarse))
            for fine, coarse in pairwise(widths)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(conv_norm(fine, fine) for fine in widths[:-1])
        self.head = nn.Conv2d(widths[0], 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def logits(self, image: Tensor, coarse: Tensor) -> Tensor:
        """Return refined logits, float32; arguments and shape as in `forward`."""
        x = torch.cat([image * 4 - 2, coarse * 4 - 2], dim=1)  # (B, 4, t, t), about unit variance
        x = self.stem(F.pixel_unshuffle(x, 2))  # (B, w0, t/2, t/2)
        maps = [x]
        for step in self.down:
            maps.append(step(maps[-1]))
        x = maps.pop()  # (B, w3, t/16, t/16)
        for narrow, up in zip(reversed(self.narrow), reversed(self.up), strict=True):
            wider = F.interpolate(narrow(x), scale_factor=2.0, mode="nearest")
            x = up(maps.pop() + wider)
        change = F.pixel_shuffle(self.head(x), 2).float()  # (B, 1, t, t)
        least = 1 / (1 + torch.tensor(CLEAR_LOGIT).exp().item())
        held = coarse.float().clamp(least, 1 - least)
        return torch.log(held / (1 - held)) + change

    def forward(self, image: Tensor, coarse: Tensor) -> Tensor:
        """Refine tiles.

        Args:
            image: (B, 3, t, t) float32 RGB in [0, 1], t a multiple of 16.
            coarse: (B, 1, t, t) float32 coarse alpha of the same tiles in [0, 1].

        Returns:
            (B, 1, t, t) float32 alpha in [0, 1].
        """
        return torch.sigmoid(self.logits(image, coarse))


@torch.inference_mode()
def macs_per_pixel(shape: RefinerShape) -> float:
    """Return the convolutions' multiply-accumulates per pixel of a tile."""
    model, side = Refiner(shape).eval(), shape.tile_px
    found: list[float] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append(module.weight.numel() * output.shape[-2] * output.shape[-1] / side**2)

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    model(torch.zeros(1, 3, side, side), torch.zeros(1, 1, side, side))
    return sum(found)


def load_refiner(path: Path) -> tuple[Refiner, dict]:
    """Build a refiner and load its weights.

    Returns:
        The network in evaluation mode, and the provenance written with it.

    Raises:
        CheckpointError: Not the weights of a refiner, or an unknown refiner.
    """
    tensors, metadata, provenance = read_tensors(path)
    name = metadata.get("refiner", "")
    if name not in REFINERS:
        raise CheckpointError(f"{path}: unknown refiner {name!r}; choose from {', '.join(REFINERS)}")
    model = Refiner(REFINERS[name])
    fill(model, tensors, str(path))
    return model.eval(), provenance
