"""Time the shipped network and a network of MODNet's size, in one run on the same cores.

    python benchmarks/network_time.py [--weights nano] [--side 512] [--rounds 20] [--json FILE]

The other network has MODNet's architecture (MobileNetV2 to 1280 channels, a semantic, a detail and a fusion
branch, the last two up to full size) with random weights; its parameters and operations are printed. Needs
the extra `train`. Rounds alternate, so that a drift in speed affects all alike.

A file that takes a prior also runs against itself without that input: `prior_ratio` is the cost of an empty
prior.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.utils import Extractor
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from export.branches import branches
from export.contract import feed
from models.encoders import ConvNorm, build_encoder
from stylematte.weights import resolve


def up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class MODNetSized(nn.Module):
    """A network of MODNet's architecture and size; its output is meaningless.

    Reference:
        Ke et al., "MODNet: Real-Time Trimap-Free Portrait Matting", 2022, figure 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder("mobilenet_v2")
        self.last = ConvNorm(320, 1280)
        self.gate = nn.Sequential(nn.Linear(1280, 320), nn.ReLU(), nn.Linear(320, 1280), nn.Sigmoid())
        self.low16, self.low8 = ConvNorm(1280, 96, 5), ConvNorm(96, 32, 5)
        self.enc2, self.enc4 = ConvNorm(32, 32), ConvNorm(24, 32)
        self.down2, self.down4 = ConvNorm(35, 32, 3, 2), ConvNorm(64, 64, 3)
        self.high4 = nn.Sequential(ConvNorm(99, 64, 3), ConvNorm(64, 64, 3), ConvNorm(64, 32, 3))
        self.high2 = nn.Sequential(
            ConvNorm(64, 64, 3), ConvNorm(64, 32, 3), ConvNorm(32, 32, 3), ConvNorm(32, 32, 3)
        )
        self.low4, self.fuse2 = ConvNorm(32, 32, 5), ConvNorm(64, 32, 3)
        self.fuse1 = nn.Sequential(ConvNorm(35, 16, 3), nn.Conv2d(16, 1, 1), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        half = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
        quarter = F.interpolate(half, scale_factor=0.5, mode="bilinear", align_corners=False)
        enc2 = x = self.encoder.stem(image)
        for index, block in enumerate(self.encoder.blocks, 1):
            x = block(x)
            if index == self.encoder.ends[1]:  # stride 4
                enc4 = x
        top = self.last(x)
        top = top * self.gate(top.mean((2, 3)))[:, :, None, None]
        low8 = self.low8(up(self.low16(up(top))))
        high4 = self.down2(torch.cat([half, self.enc2(enc2)], 1))
        high4 = self.down4(torch.cat([high4, self.enc4(enc4)], 1))
        low4 = self.low4(up(low8))
        high4 = self.high4(torch.cat([high4, low4, quarter], 1))
        high2 = self.high2(torch.cat([up(high4), self.enc2(enc2)], 1))
        fused = self.fuse2(torch.cat([up(low4), high2], 1))
        return self.fuse1(torch.cat([up(fused), image], 1))


def gigaflop(model: nn.Module, image: Tensor) -> float:
    """Count two operations per multiply-add, of convolutions and linear layers only, like MODNet's figure."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() / 1e9


def session(source: bytes | str, threads: int) -> Any:
    import onnxruntime  # after `export`, which turns off its telemetry

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def without_prior(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return the same network without its selection; None if it takes no prior."""
    if not any(port.name == "prior" for port in model.graph.input):
        return None
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    choice = next(node for node in graph.node if node.op_type == "If")
    unchanged = next(b.node[0].input[0] for b in branches(choice) if b.name.endswith("not_given"))
    for node in graph.node:
        node.input[:] = [unchanged if name in choice.output else name for name in node.input]
    inputs = [port.name for port in graph.input if port.name != "prior"]
    return Extractor(result).extract_model(inputs, [port.name for port in graph.output])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    image = np.random.default_rng(0).random((1, 3, arguments.side, arguments.side), np.float32)
    other = MODNetSized().eval()
    buffer = io.BytesIO()
    torch.onnx.export(other, (torch.from_numpy(image),), buffer, input_names=["image"], dynamo=False)
    file = onnx.load(resolve(arguments.weights))
    ours, theirs = (
        session(source, arguments.threads) for source in (file.SerializeToString(), buffer.getvalue())
    )
    inputs = feed([port.name for port in ours.get_inputs()], image)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.run(["coefficients"], inputs),
        "modnet_sized": lambda: theirs.run(None, {"image": image}),
    }
    if (bare := without_prior(file)) is not None:
        plain = session(bare.SerializeToString(), arguments.threads)
        fewer = {name: array for name, array in inputs.items() if name != "prior"}
        for got, wanted in zip(
            plain.run(["coefficients"], fewer), ours.run(["coefficients"], inputs), strict=True
        ):
            np.testing.assert_allclose(got, wanted, atol=1e-2)  # check that it is the same network
        calls["without_prior"] = lambda: plain.run(["coefficients"], fewer)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - begin))
    ratios = [a / b for a, b in zip(times["ours"], times["modnet_sized"], strict=True)]
    result: dict[str, object] = {
        "side_px": arguments.side,
        "threads": arguments.threads,
        "modnet_sized_parameters": sum(p.numel() for p in other.parameters()),
        "modnet_sized_gflop": gigaflop(other, torch.from_numpy(image)),
        "median_ms": {name: statistics.median(values) for name, values in times.items()},
        "min_max_ms": {name: [min(values), max(values)] for name, values in times.items()},
        "median_ratio": statistics.median(ratios),
    }
    if "without_prior" in times:
        pairs = zip(times["ours"], times["without_prior"], strict=True)
        result["prior_ratio"] = statistics.median(a / b for a, b in pairs)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
