"""Networks in a form that can be traced for any size: Swin and Mask2Former with plain gathers.

The package `transformers` decides in Python, by the sizes it is shown, what a trace for every size has to
decide in the graph; and its deformable attention uses GridSample, which several releases of TensorRT compute
wrongly without a word. Inside `traceable` a network computes the same in other operators.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from models.encoders import PriorConv
from models.stylematte import StyleMatte
from models.swin import Swin

Size = tuple[int, int]


@contextmanager
def traceable(model: StyleMatte) -> Iterator[None]:
    """Let a network be traced for every size.

    The package's classes are changed meanwhile, so no other thread should build or run its networks.
    """
    if not isinstance(model.encoder, Swin):
        with _one_stem(model):
            yield
        return
    from transformers.models.mask2former import modeling_mask2former as mask2former
    from transformers.models.swin.modeling_swin import SwinLayer
    from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer

    decoder = mask2former.Mask2FormerPixelDecoderEncoderOnly
    backbone: Any = model.encoder.backbone
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation("eager")  # the fused one is decomposed for one size alone
    try:
        with (
            patch.object(mask2former, "multi_scale_deformable_attention", deformable_attention),
            patch.object(decoder, "get_reference_points", staticmethod(reference_points)),
            patch.object(SwinLayer, "maybe_pad", _always_cropped(SwinLayer.maybe_pad)),
            patch.object(Swinv2Layer, "maybe_pad", _always_cropped(Swinv2Layer.maybe_pad)),
        ):
            yield
    finally:
        backbone.set_attn_implementation(before)


@contextmanager
def _one_stem(model: StyleMatte) -> Iterator[None]:
    """Picture and prior share one kernel, whose name in the file is the stem's."""
    stem: Any = model.encoder.stem
    before = stem.conv
    if isinstance(before, PriorConv):
        stem.conv = before.joined()
    try:
        yield
    finally:
        stem.conv = before


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, attention: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples, as gathers of rows and one product a level.

    Args:
        value: (B, Σ height · width, heads, dim), the levels' maps row by row, one after another.
        sizes: (height, width) of the levels.
        locations: (B, queries, heads, levels, points, 2): x, y in [0, 1] over the map; outside of it is 0.
        attention: (B, queries, heads, levels, points), summing to 1 over levels and points.

    Returns:
        (B, queries, heads · dim).

    Reference:
        Zhu et al., "Deformable DETR", 2021, eq. 3; samples as `grid_sample` takes them with zeros around and
        corners not aligned.
    """
    batch, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    maps = value.split([height * width for height, width in sizes], dim=1)
    total: Any = 0
    for level, (height, width) in enumerate(sizes):
        table = maps[level].transpose(1, 2).reshape(batch * heads * height * width, dim)
        where = locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        share = attention[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points)
        rows, weights = _corners(where, height, width)
        first = (torch.arange(batch * heads, device=value.device) * (height * width)).view(-1, 1, 1)
        picked = table.index_select(0, (rows + first).reshape(-1))
        picked = picked.view(batch * heads, queries, 4 * points, dim)
        weights = weights * torch.cat([share] * 4, -1)  # (B · heads, queries, 4 · points)
        total = total + weights.unsqueeze(2) @ picked  # (B · heads, queries, 1, dim)
    return total.view(batch, heads, queries, dim).transpose(1, 2).reshape(batch, queries, heads * dim)


def _corners(where: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Four pixels around every point: their rows in the map's table, and bilinear weights, 0 outside.

    Args:
        where: (M, queries, points, 2).
        height: Of the map.
        width: Of the map.

    Returns:
        Both (M, queries, 4 · points), int64 and float.
    """
    x, y = where[..., 0] * width - 0.5, where[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    rows, weights = [], []
    for row, vertical in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, horizontal in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weights.append(vertical * horizontal * inside.to(where.dtype))
            rows.append((row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long())
    return torch.cat(rows, -1), torch.cat(weights, -1)


def reference_points(sizes: Sequence[Size], valid_ratios: Tensor, device: torch.device) -> Tensor:
    """Centres of all pixels of all levels, (B, Σ height · width, levels, 2): x, y in [0, 1].

    Args:
        sizes: (height, width) of the levels.
        valid_ratios: (B, levels, 2), all 1: nothing is padded here.
        device: Of the result.
    """
    levels = []
    for height, width in sizes:
        y = ((torch.arange(height, device=device) + 0.5) / height).view(-1, 1).expand(height, width)
        x = ((torch.arange(width, device=device) + 0.5) / width).view(1, -1).expand(height, width)
        levels.append(torch.stack((x, y), -1).reshape(1, -1, 2))
    centres = torch.cat(levels, 1).to(valid_ratios.dtype)
    return centres[:, :, None].expand(valid_ratios.shape[0], -1, len(sizes), 2)


def _always_cropped(maybe_pad: Any) -> Any:
    """Pad to whole windows as ever, and say that it was padded: then it is cut off at every size."""

    @functools.wraps(maybe_pad)
    def pad(layer: Any, states: Tensor, height: int, width: int) -> tuple[Tensor, tuple[int, ...]]:
        padded, _ = maybe_pad(layer, states, height, width)
        return padded, (0, 0, 0, 1, 0, 1)

    return pad
