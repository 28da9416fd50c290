"""Make networks traceable for any input size: Swin and Mask2Former with plain gathers.

The package `transformers` makes size-dependent decisions in Python that a trace for every size has to make
in the graph. Its deformable attention uses GridSample, which several TensorRT releases silently compute
wrongly. Inside `traceable`, networks compute the same with other operators.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from models.stylematte import StyleMatte
from models.swin import Swin

Size = tuple[int, int]


@contextmanager
def traceable(model: StyleMatte) -> Iterator[None]:
    """Make a network traceable for every input size.

    The classes of `transformers` are patched meanwhile, so no other thread should build or run its networks.
    """
    if not isinstance(model.encoder, Swin):
        yield
        return
    from transformers.models.mask2former import modeling_mask2former as mask2former
    from transformers.models.swin.modeling_swin import SwinLayer
    from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer

    decoder = mask2former.Mask2FormerPixelDecoderEncoderOnly
    backbone: Any = model.encoder.backbone
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation("eager")  # the fused kernel would be traced for one size only
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


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, attention: Tensor
) -> Tensor:
    """Compute weighted sums of bilinear samples with gathers of rows and one product per level.

    Args:
        value: (B, Σ height · width, heads, dim), the flattened maps of all levels, concatenated.
        sizes: (height, width) of the levels.
        locations: (B, queries, heads, levels, points, 2): x, y in [0, 1] over the map; 0 is sampled outside.
        attention: (B, queries, heads, levels, points), summing to 1 over levels and points.

    Returns:
        (B, queries, heads · dim).

    Reference:
        Zhu et al., "Deformable DETR", 2021, eq. 3; sampling as in `grid_sample` with zero padding and
        `align_corners=False`.
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
    """Return the four pixels around every point, as rows of the flattened map, and their bilinear weights.

    Args:
        where: (M, queries, points, 2).
        height: Height of the map.
        width: Width of the map.

    Returns:
        Rows and weights, both (M, queries, 4 · points), int64 and float; weights are 0 outside the map.
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
    """Return the centres of all pixels of all levels, (B, Σ height · width, levels, 2): x, y in [0, 1].

    Args:
        sizes: (height, width) of the levels.
        valid_ratios: (B, levels, 2), all 1, because nothing is padded here.
        device: Device of the result.
    """
    levels = []
    for height, width in sizes:
        y = ((torch.arange(height, device=device) + 0.5) / height).view(-1, 1).expand(height, width)
        x = ((torch.arange(width, device=device) + 0.5) / width).view(1, -1).expand(height, width)
        levels.append(torch.stack((x, y), -1).reshape(1, -1, 2))
    centres = torch.cat(levels, 1).to(valid_ratios.dtype)
    return centres[:, :, None].expand(valid_ratios.shape[0], -1, len(sizes), 2)


def _always_cropped(maybe_pad: Any) -> Any:
    """Pad to whole windows and always report padding, so that the crop is traced for every size."""

    @functools.wraps(maybe_pad)
    def pad(layer: Any, states: Tensor, height: int, width: int) -> tuple[Tensor, tuple[int, ...]]:
        padded, _ = maybe_pad(layer, states, height, width)
        return padded, (0, 0, 0, 1, 0, 1)

    return pad
