"""Measure what `stylematte synth` costs compared with the bare generator, in pairs in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/synth.py [--size 64] [--channels 8192] [--weights FILE] \
        [--n 64] [--rounds 5] [--precision fp32]

A round times the generator alone on the same batches, without storing anything, and then the whole command
from noise to files and manifest in a temporary folder, with the search for near duplicates but without the
filter. Every other round uses the opposite order. Without --weights, the generator has random weights, its
last layer scaled so that images are as varied as trained ones. The ratio is computed per pair, so a drift in
speed affects both. CPU time, over all threads, depends less on other load: on a CPU it bounds the ratio,
because writing takes time from generating.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models.gan.checkpoints import load_generator
from models.gan.generator import Generator, GeneratorConfig
from training.synthesis.drawing import CopyMonitor, SamplingPlan, generate
from training.synthesis.filling import Run, fill
from training.synthesis.folder import SampleFolder, Settings


def random_generator(size_px: int, channel_base: int) -> Generator:
    """Build a random generator whose images fill the range of colours."""
    torch.manual_seed(0)
    config = GeneratorConfig(size_px=size_px, channel_base=channel_base, channel_max=channel_base // 64)
    generator = Generator(config).eval()
    with torch.inference_mode():
        spread = float(generator(torch.randn(4, config.z_dim)).std())
    with torch.no_grad():
        last = list(generator.synthesis.children())[-1]
        last.weight.mul_(0.5 / spread)
    return generator


def bare(
    generator: Generator, plan: SamplingPlan, count: int, batch: int, device: str
) -> tuple[float, float]:
    """Measure the network alone: images per second, and CPU time per image in ms."""
    drafts = [plan.draft(i, generator.config.z_dim) for i in range(count)]
    noise = torch.from_numpy(np.stack([d.noise for d in drafts])).to(device)
    lookups = torch.from_numpy(np.stack([d.lookup() for d in drafts])).to(device)
    truncation = torch.tensor([d.truncation for d in drafts], device=device)
    begin, used = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for i in range(0, count, batch):
            generator(noise[i : i + batch], truncation[i : i + batch], lookups[i : i + batch])
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return count / (time.perf_counter() - begin), 1000 * (time.process_time() - used) / count


def whole(
    generator: Generator, plan: SamplingPlan, count: int, batch: int, device: str
) -> tuple[float, float]:
    """Measure the same for synth."""
    config = generator.config
    settings = Settings("", plan.seed, plan.truncation, 0, 0, config.size_px, "rgba")
    with tempfile.TemporaryDirectory() as out:
        folder = SampleFolder(Path(out), settings)
        run = Run(
            count,
            batch,
            lambda index: plan.draft(index, config.z_dim),
            lambda drafts: generate(generator, drafts, device),
            CopyMonitor(plan).record,
        )
        folder.open()
        begin, used = time.perf_counter(), time.process_time()
        for _ in fill(folder, run):
            pass
        seconds, cost = time.perf_counter() - begin, time.process_time() - used
        folder.close()
        drawn = len(folder.lines)
        if drawn != count:
            raise SystemExit(
                f"{drawn - count} near copies among {count}: these weights do not measure writing"
            )
    return count / seconds, 1000 * cost / count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64, help="side of random weights; default 64")
    parser.add_argument("--channels", type=int, default=8192, help="their channel_base; default 8192")
    parser.add_argument("--weights", type=Path, default=None, help="a trained generator instead")
    parser.add_argument("--n", type=int, default=64, help="pictures a figure; default 64")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of convolutions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.weights:
        generator = load_generator(arguments.weights)[0]
    else:
        generator = random_generator(arguments.size, arguments.channels)
    generator = generator.to(arguments.device)
    if arguments.precision == "bf16":
        generator.convolve_in(torch.bfloat16)
    ways: dict[str, Callable[..., tuple[float, float]]] = {"bare": bare, "synth": whole}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    load = os.getloadavg()[0]
    settings = (generator, SamplingPlan(0, (0.7, 0.7)), arguments.n, arguments.batch_size, arguments.device)
    bare(generator, settings[1], arguments.batch_size, arguments.batch_size, arguments.device)  # warm-up
    for number in range(arguments.rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            rate, cost = ways[name](*settings)
            rates[name].append(rate)
            costs[name].append(cost)
    ratios = [a / b for a, b in zip(rates["synth"], rates["bare"], strict=True)]
    report = {
        "size_px": generator.config.size_px,
        "channel_base": generator.config.channel_base,
        "weights": arguments.weights.name if arguments.weights else "random",
        "pictures": arguments.n,
        "batch_size": arguments.batch_size,
        "precision": arguments.precision,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "load_at_start": round(load, 1),
        "pictures_per_s": {name: summary(values) for name, values in rates.items()},
        "synth_over_bare": summary(ratios),
        "processor_ms_a_picture": {name: summary(values) for name, values in costs.items()},
        "processor_bare_over_synth": summary(
            [a / b for a, b in zip(costs["bare"], costs["synth"], strict=True)]
        ),
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def summary(values: list[float]) -> dict[str, float]:
    """Return the median, minimum and maximum."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    main()
