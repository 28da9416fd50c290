"""Frozen networks that give a discriminator its features: CLIP, or an encoder of this project."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import load_encoder
from models.encoder import Encoder
from models.stylematte import MEAN, STD
from stylematte.errors import MissingError

CLIP = "openai/clip-vit-base-patch32"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Frozen(nn.Module):
    """A network that is never trained: RGB in [-1, 1] to features from several depths.

    Attributes:
        channels: Channels of every level: feature maps first, the vector of the whole image last.
    """

    channels: list[int]
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        # For RGB in [-1, 1] instead of [0, 1].
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 2 - 1, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 2, persistent=False)

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode."""
        return super().train(False)

    def normalise(self, rgb: Tensor, side: int) -> Tensor:
        """(N, 3, h, w) in [-1, 1] → (N, 3, side, side), normalised for the network."""
        if rgb.shape[-1] >= side:
            rgb = F.interpolate(rgb, (side, side), mode="area")
        else:  # area averaging would give blocks when enlarging
            rgb = F.interpolate(rgb, (side, side), mode="bilinear", align_corners=False)
        return (rgb - self.mean) / self.std


class ClipFeatures(Frozen):
    """CLIP's vision transformer: feature maps after two blocks, and the image embedding."""

    def __init__(self, network: Any, blocks: tuple[int, ...] = (4, 8)) -> None:
        """Take features of a CLIPVisionModelWithProjection after the given blocks, counted from 1."""
        super().__init__(network, CLIP_MEAN, CLIP_STD)
        config = network.config
        self.blocks, self.side, self.grid = blocks, config.image_size, config.image_size // config.patch_size
        self.channels = [config.hidden_size] * len(blocks) + [config.projection_dim]

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """(N, 3, h, w) float32 in [-1, 1] → maps (N, C, g, g) and the embedding (N, D)."""
        out = self.network(self.normalise(rgb, self.side), output_hidden_states=True)
        maps = [out.hidden_states[block][:, 1:].transpose(1, 2) for block in self.blocks]  # no class token
        return [m.unflatten(2, (self.grid, self.grid)) for m in maps] + [out.image_embeds]


class EncoderFeatures(Frozen):
    """An encoder of this project: maps at strides 8 and 16, and the mean of the last map."""

    def __init__(self, encoder: Encoder, side: int = 128) -> None:
        """Take the encoder; images are resized to `side` pixels, a multiple of 32."""
        super().__init__(encoder, MEAN, STD)
        self.side = side
        self.channels = encoder.channels[-3:]

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """(N, 3, h, w) float32 in [-1, 1] → two maps (N, C, g, g) and a vector (N, D)."""
        *_, eighth, sixteenth, last = self.network(self.normalise(rgb, self.side))
        return [eighth, sixteenth, last.mean((2, 3))]


def load_frozen(name: str, source: Path | None = None) -> Frozen:
    """Load a frozen backbone by name.

    Args:
        name: "clip", or "encoder" for an encoder of this project.
        source: For CLIP the folder of its files, or None for the hub. For an encoder its file, see
            `models.checkpoints.load_encoder`.

    Raises:
        MissingError: The backbone is not available; the message says what to provide.
        CheckpointError: The encoder's file cannot be read.
    """
    if name == "clip":
        return load_clip(source or CLIP)
    if name != "encoder":
        raise MissingError(f"backbone {name!r} is neither clip nor encoder")
    if source is None:
        raise MissingError("backbone 'encoder' needs a file of trained weights")
    return EncoderFeatures(load_encoder(source)[0])


def load_clip(source: str | Path = CLIP) -> ClipFeatures:
    """Load CLIP's vision model from a folder, or from the Hugging Face hub or its cache.

    Raises:
        MissingError: It is in neither; the message says what to download.
    """
    from transformers import CLIPVisionModelWithProjection

    try:
        return ClipFeatures(CLIPVisionModelWithProjection.from_pretrained(str(source)))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MissingError(
            f"CLIP's vision model cannot be loaded from {source} ({reason}). Download config.json and "
            f"model.safetensors of https://huggingface.co/{CLIP}, and give their folder"
        ) from None
