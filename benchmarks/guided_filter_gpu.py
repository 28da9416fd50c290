"""Measure the guided filter's CUDA kernels on this GPU: errors, and time compared with a copy and with torch.

    python benchmarks/guided_filter_gpu.py [--coarse 96x168] [--fine 2160x3840] [--rounds 50] [--json FILE]

Errors are differences from torch in float64. For timing, calls are captured into CUDA graphs over several
buffers that together exceed the GPU's L2 cache, so that neither Python nor the cache affects the result. A
round replays each graph once. GB/s counts the necessary traffic: the guide once and alpha once. The copy is
torch's, in the same rounds. Needs a GPU, and the extras `cuda` and `train`.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.stylematte import MEAN, STD
from models.upsamplers import FastGuidedFilter
from stylematte.engines.guided_filter.kernels import Grey
from stylematte.engines.guided_filter.launch import GuidedFilter
from stylematte.engines.guided_filter.nvrtc import version
from stylematte.errors import EngineError

EPS = 1e-4
CALLS = 20  # per graph
BUFFERS_BYTES = 512 << 20  # ten times the L2 cache of an H100
RESULTS = Path(__file__).parent / "results" / "guided_filter_gpu.json"
KINDS = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


class Case(NamedTuple):
    """Layout of the guide, and types of the guide and alpha, for `apply`."""

    layout: str
    guide: str
    alpha: str


CASES = [
    Case("grey", "float32", "float32"),
    Case("grey", "float16", "float16"),
    Case("planar", "float32", "float32"),
    Case("planar", "float16", "float16"),
    Case("interleaved", "uint8", "uint8"),
]


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def guide_of(case: Case, size: tuple[int, int], seed: int) -> Tensor:
    """Return one random image in the case's layout and type."""
    generator = torch.Generator("cuda").manual_seed(seed)
    channels = 1 if case.layout == "grey" else 3
    guide = torch.rand(1, channels, *size, device="cuda", generator=generator)
    if case.layout == "interleaved":
        guide = guide.permute(0, 2, 3, 1).contiguous()
    return (255 * guide).round().to(torch.uint8) if case.guide == "uint8" else guide.to(KINDS[case.guide])


@cache  # a graph cannot capture the copy to the GPU
def normalisation(kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (1, 3, 1, 1)."""
    mean, std = (torch.tensor(x, device="cuda", dtype=kind).view(1, 3, 1, 1) for x in (MEAN, STD))
    return mean, std


def grey_of(case: Case, guide: Tensor, kind: torch.dtype) -> Tensor:
    """Return the grey guide, (1, 1, H, W), that torch computes from the stored guide."""
    if case.layout == "grey":
        return guide.to(kind)
    colours = guide.to(kind) / (255 if case.guide == "uint8" else 1)
    if case.layout == "interleaved":
        colours = colours.permute(0, 3, 1, 2)
    mean, std = normalisation(kind)
    return ((colours - mean) / std).mean(1, keepdim=True)


def coarse_maps(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a guide and logits, (1, 1, h, w) float32, as smooth as a network's."""
    generator = torch.Generator("cuda").manual_seed(0)
    small = torch.randn(2, 1, 12, 16, device="cuda", generator=generator)
    guide, logits = torch.nn.functional.interpolate(small, size, mode="bicubic").split(1)
    return guide.contiguous(), (8 * logits).contiguous()


def errors(coarse: tuple[int, int], fine: tuple[int, int]) -> list[dict[str, object]]:
    """Return the largest error of alpha through both kernels, for every radius and case."""
    found = []
    for radius_px, case, trim in product((1, 2, 4, 8, 16), CASES, (0, 1)):
        size = fine[0] - trim, fine[1] - trim  # odd sizes too
        maps, guide = coarse_maps(coarse), guide_of(case, size, 1)
        kernels, reference = (
            GuidedFilter(radius_px, EPS, Grey.of(MEAN, STD)),
            FastGuidedFilter(radius_px, EPS),
        )
        coefficients = torch.empty(1, 2, *coarse, device="cuda")
        alpha = torch.empty(1, 1, *size, device="cuda", dtype=KINDS[case.alpha])
        kernels.coefficients(*maps, coefficients, stream())
        kernels.apply(coefficients, guide, alpha, stream())
        exact = reference(*(x.double() for x in maps))
        wanted = reference.upsample(exact, grey_of(case, guide, torch.float64)).sigmoid()
        difference = (alpha.double() / (255 if case.alpha == "uint8" else 1) - wanted).abs()
        found.append(
            {"radius_px": radius_px, **case._asdict(), "size": size, "greatest": difference.max().item()}
        )
    return found


def graph_of(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """Capture `CALLS` calls in a CUDA graph; the given calls take turns."""
    # Run each once first: a capture may not load a kernel.
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(CALLS):
            calls[number % len(calls)]()
    return graph


def measure(graphs: dict[str, torch.cuda.CUDAGraph], rounds: int) -> dict[str, list[float]]:
    """Measure microseconds per call, by name; rounds alternate, so a drift of the clock affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(3):
        for graph in graphs.values():
            graph.replay()
    for _ in range(rounds):
        for name, graph in graphs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(1000 * begin.elapsed_time(end) / CALLS)
    return times


def summary(times: list[float], moved_bytes: int = 0) -> dict[str, float]:
    median = statistics.median(times)
    result = {"median_us": median, "p95_us": statistics.quantiles(times, n=20)[-1]}
    return result | ({"gb_per_s": moved_bytes / median / 1000} if moved_bytes else {})


def time_apply(case: Case, coarse: tuple[int, int], fine: tuple[int, int], rounds: int) -> dict[str, object]:
    """Time `apply`, torch's own filter, and a copy of as many bytes, in the same rounds."""
    kernels, reference = GuidedFilter(1, EPS, Grey.of(MEAN, STD)), FastGuidedFilter(1, EPS)
    coefficients = reference(*coarse_maps(coarse))
    guides = [guide_of(case, fine, 0)]
    alphas = [torch.empty(1, 1, *fine, device="cuda", dtype=KINDS[case.alpha])]
    moved = guides[0].nbytes + alphas[0].nbytes
    while len(guides) < max(2, BUFFERS_BYTES // moved):
        guides.append(guides[0].clone())
        alphas.append(alphas[0].clone())
    copies = [torch.empty(2, moved // 2, device="cuda", dtype=torch.uint8) for _ in guides]
    half = torch.float16 if case.guide == "float16" else torch.float32
    own = coefficients.to(half)

    def torch_filter(guide: Tensor, alpha: Tensor) -> None:
        result = reference.upsample(own, grey_of(case, guide, half)).sigmoid()
        alpha.copy_((255 * result).round() if case.alpha == "uint8" else result)

    pairs = list(zip(guides, alphas, strict=True))
    graphs = {
        "ours": graph_of([lambda g=g, a=a: kernels.apply(coefficients, g, a, stream()) for g, a in pairs]),
        "torch": graph_of([lambda g=g, a=a: torch_filter(g, a) for g, a in pairs]),
        "copy": graph_of([lambda c=c: c[1].copy_(c[0]) for c in copies]),
    }
    times = measure(graphs, rounds)
    of_torch = [t / ours for t, ours in zip(times["torch"], times["ours"], strict=True)]
    of_copy = [copy / ours for copy, ours in zip(times["copy"], times["ours"], strict=True)]
    return {
        **case._asdict(),
        "moved_bytes": moved,
        **{name: summary(values, 0 if name == "torch" else moved) for name, values in times.items()},
        "times_faster_than_torch": statistics.median(of_torch),
        "share_of_copy_bandwidth": statistics.median(of_copy),
    }


def time_coefficients(coarse: tuple[int, int], rounds: int) -> list[dict[str, object]]:
    """Time our coefficients and torch's, for small radii and the largest."""
    found = []
    maps, out = coarse_maps(coarse), torch.empty(1, 2, *coarse, device="cuda")
    for radius_px in (1, 4, 16):
        kernels, reference = GuidedFilter(radius_px, EPS), FastGuidedFilter(radius_px, EPS)
        graphs = {
            "ours": graph_of([lambda k=kernels: k.coefficients(*maps, out, stream())]),
            "torch": graph_of([lambda r=reference: out.copy_(r(*maps))]),
        }
        times = measure(graphs, rounds)
        found.append({"radius_px": radius_px, **{name: summary(values) for name, values in times.items()}})
    return found


def size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coarse", type=size, default=(96, 168), help="height x width of the coefficients")
    parser.add_argument("--fine", type=size, default=(2160, 3840), help="height x width of the photo")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    try:
        GuidedFilter(1, EPS)
    except EngineError as error:
        raise SystemExit(f"guided_filter_gpu: {error}") from None
    if not torch.cuda.is_available():
        raise SystemExit(f"guided_filter_gpu: torch {torch.__version__} sees no CUDA device")
    gpu = torch.cuda.get_device_properties(0)
    result = {
        "card": gpu.name,
        "multiprocessors": gpu.multi_processor_count,
        "torch": torch.__version__,
        "nvrtc": version(),
        "coarse": arguments.coarse,
        "fine": arguments.fine,
        "rounds": arguments.rounds,
        "errors": errors(arguments.coarse, arguments.fine),
        "apply": [time_apply(case, arguments.coarse, arguments.fine, arguments.rounds) for case in CASES],
        "coefficients": time_coefficients(arguments.coarse, arguments.rounds),
    }
    print(json.dumps(result, indent=2))
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
