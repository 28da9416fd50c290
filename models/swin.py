"""Swin Transformers as encoders, built on the backbones of the package `transformers`.

Reference:
    Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021 (version 1);
    Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2022 (version 2).
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from models.encoder import Encoder


@dataclass(frozen=True)
class SwinShape:
    """Hyperparameters of a Swin Transformer with 4×4 patches.

    Attributes:
        version: 1, or 2 with cosine attention and norms after the residual branches.
        embed: Channels at stride 4; they double with every stage.
        depths: Blocks per stage.
        heads: Attention heads per stage.
        window: Side of the attention windows, in tokens.
        side_px: Image side that decides in which stages version 2 shifts its windows (it does not shift
            them where one window covers the map), whatever the actual input. Weights do not depend on it.
        drop_path: Rate of stochastic depth in the last block during training; rises linearly from 0.
    """

    version: Literal[1, 2]
    embed: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    side_px: int = 768
    drop_path: float = 0.2


SHAPES = {
    "swinv2_tiny": SwinShape(2, 96, (2, 2, 6, 2), (3, 6, 12, 24), window=8),
    "swinv2_base": SwinShape(2, 128, (2, 2, 18, 2), (4, 8, 16, 32), window=8),
    "swin_tiny": SwinShape(1, 96, (2, 2, 6, 2), (3, 6, 12, 24), window=7),
    "swinv2_test": SwinShape(2, 8, (2, 2, 2, 2), (1, 2, 4, 8), window=4, side_px=256),
    "swin_test": SwinShape(1, 8, (2, 2, 2, 2), (1, 2, 4, 8), window=3, side_px=256),
}

# Tensor names of version 1 in transformers 5.9 and later, and their names before; files keep the old names.
_RENAMED = (
    (r"^swin\.", ""),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.relative_position_bias\.", ".attention.self."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


class Swin(Encoder):
    """Swin Transformer whose four stages give the features; maps are padded to whole windows internally."""

    multiple = 4

    def __init__(self, shape: SwinShape) -> None:
        super().__init__()
        self.version = shape.version
        self.channels = [shape.embed * 2**stage for stage in range(4)]
        self.backbone = _backbone(shape)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Extract features.

        Args:
            x: (B, 3, h, w) normalised RGB, h and w multiples of 4.

        Returns:
            Four maps at strides 4, 8, 16, 32, sides rounded up, with the channels in `channels`.
        """
        return list(self.backbone(x).feature_maps)

    def level_of(self, parameter_name: str) -> int:
        """Return a parameter's depth, for layer-wise learning rates.

        Args:
            parameter_name: As in this module's `named_parameters()`.

        Returns:
            0 for the patch embedding, 1 to 4 for the stages; patch merging counts to the following stage.
        """
        if stage := re.search(r"\blayers\.(\d)\.(downsample)?", parameter_name):
            return int(stage[1]) + (2 if stage[2] else 1)
        if stage := re.search(r"\bhidden_states_norms\.stage(\d)\.", parameter_name):
            return int(stage[1])
        return 0


def _backbone(shape: SwinShape) -> nn.Module:
    from transformers import SwinBackbone, SwinConfig, Swinv2Backbone, Swinv2Config  # takes seconds

    options: dict[str, Any] = {
        "image_size": shape.side_px,
        "embed_dim": shape.embed,
        "depths": list(shape.depths),
        "num_heads": list(shape.heads),
        "window_size": shape.window,
        "drop_path_rate": shape.drop_path,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    if shape.version == 2:
        return Swinv2Backbone(Swinv2Config(**options))
    backbone = SwinBackbone(SwinConfig(**options))
    backbone.swin.layernorm = nn.Identity()  # it normalises an output that a backbone does not return
    return backbone


def checkpoint_key(name: str) -> str:
    """Return a backbone tensor's name in files: the released checkpoints and those on the Hugging Face hub.

    Args:
        name: As in the state dict of `Swin.backbone`.
    """
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
