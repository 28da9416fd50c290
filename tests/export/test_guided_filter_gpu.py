"""The kernels on a GPU, against torch in float64 on the same GPU."""

from itertools import product

import pytest
import torch

from models.stylematte import MEAN, STD
from models.upsamplers import FastGuidedFilter
from stylematte.engines.guided_filter.kernels import Grey
from stylematte.engines.guided_filter.launch import GuidedFilter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

EPS = 1e-2
SIZES = [
    ((1, 1), (1, 1)),
    ((37, 53), (131, 200)),
    ((37, 53), (35, 50)),
    ((96, 160), (1079, 1921)),
    ((96, 168), (2160, 3840)),
]
GUIDES = [("grey", torch.float32), ("grey", torch.float16)]
GUIDES += list(product(("planar", "interleaved"), (torch.float32, torch.float16, torch.uint8)))
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.uint8: 0.5 / 255 + 1e-5}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers on the GPU, (…) float64."""
    return torch.randn(
        shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda", dtype=torch.float64
    )


def stored(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return (255 * x).round().to(kind) if kind == torch.uint8 else x.to(kind)


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


@pytest.mark.parametrize("kind", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("radius_px", [1, 2, 4, 8, 13, 14, 16])
def test_coefficients(radius_px, kind):
    for size in [(1, 1), (1, 37), (37, 53), (128, 128), (96, 168)]:
        guide, logits = drawn(2, 1, *size).to(kind), (5 * drawn(2, 1, *size, seed=1)).to(kind)
        out = torch.full((2, 2, *size), float("nan"), device="cuda", dtype=kind)
        GuidedFilter(radius_px, EPS).coefficients(guide, logits, out, stream())
        wanted = FastGuidedFilter(radius_px, EPS)(guide.double(), logits.double())
        torch.testing.assert_close(out.double(), wanted, atol=BOUNDS[kind], rtol=BOUNDS[kind])


def guide_and_grey(
    layout: str, kind: torch.dtype, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images in a layout, as stored, and their grey (2, 1, H, W) float64."""
    if layout == "grey":
        guide = drawn(2, 1, *size, seed=1).to(kind)
        return guide, guide.double()
    guide = stored(drawn(2, 3, *size, seed=1).sigmoid(), kind)
    colours = guide.double() / (255 if kind == torch.uint8 else 1)
    mean, std = (torch.tensor(x, device="cuda", dtype=torch.float64).view(1, 3, 1, 1) for x in (MEAN, STD))
    if layout == "interleaved":
        guide = guide.permute(0, 2, 3, 1).contiguous()
    return guide, ((colours - mean) / std).mean(1, keepdim=True)


@pytest.mark.parametrize(("layout", "kind"), GUIDES)
def test_apply(layout, kind):
    for (coarse, fine), alpha_kind in product(SIZES, BOUNDS):
        coefficients = (3 * drawn(2, 2, *coarse)).float()
        guide, grey = guide_and_grey(layout, kind, fine)
        out = torch.full((2, 1, *fine), 7, device="cuda", dtype=alpha_kind)
        GuidedFilter(1, EPS, Grey.of(MEAN, STD)).apply(coefficients, guide, out, stream())
        wanted = FastGuidedFilter(1, EPS).upsample(coefficients.double(), grey).sigmoid()
        got = out.double() / (255 if alpha_kind == torch.uint8 else 1)
        torch.testing.assert_close(got, wanted, atol=BOUNDS[alpha_kind], rtol=0)


def test_arrays_may_begin_at_any_address():
    coefficients = (3 * drawn(1, 2, 9, 11)).float()
    guide, alpha = drawn(5, 1, 33, 45, seed=1).float(), torch.zeros(5, 1, 33, 45, device="cuda")
    for image in range(5):  # 33 · 45 is no multiple of four
        GuidedFilter(1, EPS).apply(coefficients, guide[image : image + 1], alpha[image : image + 1], stream())
    wanted = (
        FastGuidedFilter(1, EPS)
        .upsample(coefficients.expand(5, -1, -1, -1).double(), guide.double())
        .sigmoid()
    )
    torch.testing.assert_close(alpha.double(), wanted, atol=1e-5, rtol=0)


def test_a_graph_replays_what_was_captured():
    coefficients, guide = (3 * drawn(1, 2, 37, 53)).float(), drawn(1, 1, 131, 200).float()
    alpha = torch.zeros(1, 1, 131, 200, device="cuda")
    kernels = GuidedFilter(1, EPS)
    kernels.apply(coefficients, guide, alpha, stream())  # loads the module, which a capture may not do
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.apply(coefficients, guide, alpha, stream())
    guide.copy_(drawn(1, 1, 131, 200, seed=3))
    graph.replay()
    wanted = FastGuidedFilter(1, EPS).upsample(coefficients.double(), guide.double()).sigmoid()
    torch.testing.assert_close(alpha.double(), wanted, atol=1e-5, rtol=0)
