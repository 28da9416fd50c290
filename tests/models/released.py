"""A released checkpoint as facts about it are published: names, shapes, and a forward pass of other hands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.stylematte import MEAN, STD
from tests.models.references import guided_logits, sigmoid

Shape = tuple[int, ...]

STAGES = ["stage1", "stage2", "stage3", "stage4"]


@dataclass(frozen=True)
class Size:
    """Numbers that the shapes follow from."""

    embed: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    width: int = 256
    layers: int = 6
    attention_heads: int = 8
    feedforward: int = 1024


RELEASED = Size()
SMALL = Size(8, (2, 2, 2, 2), (1, 2, 4, 8), 3, 32, 1, 4, 64)  # of the preset test_official


def shapes(size: Size) -> dict[str, Shape]:
    """Every tensor of the state dict, in the names of transformers 4.26."""
    return dict([*_fpn(size), *_encoder(size), *_decoder(size), *_both("conv", 1, size.width, 3, 3)])


def _both(name: str, *shape: int) -> Iterator[tuple[str, Shape]]:
    """A layer with weight and bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _fpn(size: Size) -> Iterator[tuple[str, Shape]]:
    c = size.width
    for i in range(3):
        yield from _both(f"fpn.conv1x1.{i}", c, c, 1, 1)
        yield from _both(f"fpn.smooth_conv.{i}", c, c, 3, 3)
    yield "fpn.conv_fusion.0.weight", (c, 2 * c, 3, 3)
    yield from _both("fpn.conv_fusion.1", c)
    yield "fpn.conv_fusion.1.running_mean", (c,)
    yield "fpn.conv_fusion.1.running_var", (c,)
    yield "fpn.conv_fusion.1.num_batches_tracked", ()


def _encoder(size: Size) -> Iterator[tuple[str, Shape]]:
    root = "pixel_decoder.encoder"
    yield from _both(f"{root}.embeddings.patch_embeddings.projection", size.embed, 3, 4, 4)
    yield from _both(f"{root}.embeddings.norm", size.embed)
    for i, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
        c, stage = size.embed * 2**i, f"{root}.encoder.layers.{i}"
        for j in range(depth):
            block = f"{stage}.blocks.{j}"
            yield from _both(f"{block}.layernorm_before", c)
            yield from _both(f"{block}.layernorm_after", c)
            yield f"{block}.attention.self.relative_position_bias_table", ((2 * size.window - 1) ** 2, heads)
            yield f"{block}.attention.self.relative_position_index", (size.window**2, size.window**2)
            for layer in ("attention.self.query", "attention.self.key", "attention.self.value"):
                yield from _both(f"{block}.{layer}", c, c)
            yield from _both(f"{block}.attention.output.dense", c, c)
            yield from _both(f"{block}.intermediate.dense", 4 * c, c)
            yield from _both(f"{block}.output.dense", c, 4 * c)
        if i < 3:
            yield f"{stage}.downsample.reduction.weight", (2 * c, 4 * c)
            yield from _both(f"{stage}.downsample.norm", 4 * c)
        yield from _both(f"{root}.hidden_states_norms.stage{i + 1}", c)


def _decoder(size: Size) -> Iterator[tuple[str, Shape]]:
    root, c = "pixel_decoder.decoder", size.width
    points = size.attention_heads * 3 * 4
    yield f"{root}.level_embed", (3, c)
    for i in range(3):
        yield from _both(f"{root}.input_projections.{i}.0", c, size.embed * 2 ** (3 - i), 1, 1)
        yield from _both(f"{root}.input_projections.{i}.1", c)
    for i in range(size.layers):
        layer = f"{root}.encoder.layers.{i}"
        yield from _both(f"{layer}.self_attn.sampling_offsets", 2 * points, c)
        yield from _both(f"{layer}.self_attn.attention_weights", points, c)
        yield from _both(f"{layer}.self_attn.value_proj", c, c)
        yield from _both(f"{layer}.self_attn.output_proj", c, c)
        yield from _both(f"{layer}.self_attn_layer_norm", c)
        yield from _both(f"{layer}.final_layer_norm", c)
        yield from _both(f"{layer}.fc1", size.feedforward, c)
        yield from _both(f"{layer}.fc2", c, size.feedforward)
    yield from _both(f"{root}.mask_projection", c, c, 1, 1)
    yield f"{root}.adapter_1.0.weight", (c, size.embed, 1, 1)
    yield from _both(f"{root}.adapter_1.1", c)
    yield f"{root}.layer_1.0.weight", (c, c, 3, 3)
    yield from _both(f"{root}.layer_1.1", c)


def tensors(size: Size, seed: int = 0) -> dict[str, Tensor]:
    """A random checkpoint whose logits spread widely: kernels by fan-in, norms near 1, tables true."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, shape in shapes(size).items():
        noise = torch.randn(shape, generator=generator)
        fan_in = max(1, noise[0].numel()) if len(shape) > 1 else 1
        if name.endswith("relative_position_index"):
            result[name] = position_table(size.window)
        elif name.endswith("num_batches_tracked"):
            result[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            result[name] = 1 + 0.3 * torch.rand(shape, generator=generator)
        elif len(shape) == 1:
            result[name] = 0.3 * noise
        else:
            result[name] = noise if "table" in name or "embed" in name[-11:] else noise / fan_in**0.5
    for part in ("weight", "bias"):
        for i in (1, 2):
            result[f"fpn.smooth_conv.{i}.{part}"] = result[f"fpn.smooth_conv.0.{part}"]
    result["conv.weight"] *= 4
    return result


def position_table(window: int) -> Tensor:
    """Entry (i, j): where the step from j to i stands in the bias table; Liu et al., 2021, eq. 4."""
    rows, columns = np.divmod(np.arange(window**2), window)
    down, right = (axis[:, None] - axis[None, :] + window - 1 for axis in (rows, columns))
    return torch.from_numpy(down * (2 * window - 1) + right)


def mask2former_config(size: Size):
    """Mask2Former as transformers describes it, at a size."""
    from transformers import Mask2FormerConfig, SwinConfig

    swin = SwinConfig(
        embed_dim=size.embed,
        depths=list(size.depths),
        num_heads=list(size.heads),
        window_size=size.window,
        out_features=STAGES,
    )
    return Mask2FormerConfig(
        backbone_config=swin,
        feature_size=size.width,
        mask_feature_size=size.width,
        encoder_layers=size.layers,
        num_attention_heads=size.attention_heads,
        encoder_feedforward_dim=size.feedforward,
        hidden_dim=32,
        dim_feedforward=32,
        decoder_layers=2,
    )


def pixel_level_module(size: Size, checkpoint: dict[str, Tensor]) -> torch.nn.Module:
    """Mask2Former's own encoder and pixel decoder, filled with a checkpoint."""
    from transformers import Mask2FormerModel

    module = Mask2FormerModel(mask2former_config(size)).pixel_level_module.eval()
    renamed = {
        "encoder.embeddings.": "encoder.swin.embeddings.",
        "encoder.encoder.": "encoder.swin.encoder.",
        "attention.self.query": "attention.q_proj",
        "attention.self.key": "attention.k_proj",
        "attention.self.value": "attention.v_proj",
        "attention.self.relative_position_bias_table": (
            "attention.relative_position_bias.relative_position_bias_table"
        ),
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        ".output.dense": ".mlp.fc2",
    }
    state = {}
    for name, tensor in checkpoint.items():
        if name.startswith("pixel_decoder.") and not name.endswith("relative_position_index"):
            name = name.removeprefix("pixel_decoder.")
            if name.startswith("encoder."):
                for old, new in renamed.items():
                    name = re.sub("^" * old.startswith("encoder.") + re.escape(old), new, name, count=1)
            state[name] = tensor
    missing, unknown = module.load_state_dict(state, strict=False)
    assert not unknown
    assert set(missing) == {"encoder.swin.layernorm.weight", "encoder.swin.layernorm.bias"}  # not used
    return module


@torch.inference_mode()
def alpha(size: Size, checkpoint: dict[str, Tensor], image: Tensor) -> np.ndarray:
    """The published forward pass, (B, 3, H, W) RGB in [0, 1] → (B, H, W) float64, H and W multiples of 4."""
    normalised = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    out = pixel_level_module(size, checkpoint)(normalised)
    maps = [*out.decoder_hidden_states, out.decoder_last_hidden_state]

    def conv(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, checkpoint[f"{name}.weight"], checkpoint.get(f"{name}.bias"), padding=padding)

    maps[:3] = [conv(x, f"fpn.conv1x1.{i}") for i, x in enumerate(maps[:3])]
    running = maps[0]
    for i in range(3):
        running = conv(running, f"fpn.smooth_conv.{i}", padding=1)
        running = F.interpolate(running, maps[i + 1].shape[2:], mode="bilinear", align_corners=True)
        running = running + maps[i + 1]
    fused = conv(torch.cat([running, maps[3]], 1), "fpn.conv_fusion.0", padding=1)
    norm = (checkpoint[f"fpn.conv_fusion.1.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    logits = conv(F.batch_norm(fused, *norm).relu(), "conv", padding=1)
    grey = normalised.mean(1, keepdim=True)
    small = F.interpolate(grey, scale_factor=0.25, mode="bicubic", align_corners=True)
    planes = (x[:, 0].double().numpy() for x in (small, logits, grey))
    return np.stack([sigmoid(guided_logits(*p, 1, 1e-4, averaged=False)) for p in zip(*planes, strict=True)])
