"""Measure time and memory of generators and discriminators, size by size, on a CPU or a GPU.

    python benchmarks/gan.py [--device cpu|cuda] [--sizes 64 256] [--kinds t r] [--batch 4] [--small]
                             [--threads 1] [--rounds 3] [--json FILE]

The tasks are: generating images; a generator's step (forward and backward through both networks); and a
discriminator's step, without and with R1. R1 is due every sixteenth step, so its cost per step is a sixteenth
of the difference. StyleGAN3's recipe has no path-length term, and our filtered leaky ReLU has no second
derivative, so this term is not measured. Memory is the GPU's peak or, on a CPU, the peak of a separate
process. CPU time is reported with wall time, because it is steadier on a busy machine. With --small, networks
are as narrow as in the recipes for CPUs.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from models.gan.discriminators import Discriminator
from models.gan.generator import Generator, GeneratorConfig

NARROW = {"t": {"channel_base": 4096, "channel_max": 64}, "r": {"channel_base": 8192, "channel_max": 128}}
TASKS = ("draw", "generator_step", "discriminator_step", "discriminator_step_r1")


def task_of(name: str, kind: str, side: int, arguments: argparse.Namespace) -> Callable[[], None]:
    """Build the networks, and return the task to measure."""
    torch.manual_seed(0)
    device = arguments.device
    narrow = NARROW[kind] if arguments.small else {}
    generator = Generator(GeneratorConfig(kind, side, **narrow)).to(device)
    discriminator = Discriminator(side, **(NARROW["t"] if arguments.small else {})).to(device)
    z = torch.randn(arguments.batch, generator.config.z_dim, device=device)
    photos = torch.rand(arguments.batch, 4, side, side, device=device) * 2 - 1

    def draw() -> None:
        with torch.no_grad():
            generator(z)

    def generator_step() -> None:
        discriminator.requires_grad_(False)
        F.softplus(-discriminator(generator(z))).mean().backward()

    def discriminator_step() -> None:
        with torch.no_grad():
            drawn = generator(z)
        (F.softplus(discriminator(drawn)).mean() + F.softplus(-discriminator(photos)).mean()).backward()

    def discriminator_step_r1() -> None:
        with torch.no_grad():
            drawn = generator(z)
        real = photos.clone().requires_grad_()
        logits = discriminator(real)
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = slope.square().sum((1, 2, 3)).mean()
        (F.softplus(discriminator(drawn)).mean() + F.softplus(-logits).mean() + penalty).backward()

    return {
        "draw": draw,
        "generator_step": generator_step,
        "discriminator_step": discriminator_step,
        "discriminator_step_r1": discriminator_step_r1,
    }[name]


def measure(name: str, kind: str, side: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one task in this process: milliseconds per image, and peak memory in MB."""
    torch.set_num_threads(arguments.threads)
    task = task_of(name, kind, side, arguments)
    on_gpu = arguments.device.startswith("cuda")
    task()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall, busy = [], []
    for _ in range(arguments.rounds):
        begin, begin_busy = time.perf_counter(), time.process_time()
        task()
        if on_gpu:
            torch.cuda.synchronize()
        wall.append(1000 * (time.perf_counter() - begin) / arguments.batch)
        busy.append(1000 * (time.process_time() - begin_busy) / arguments.batch)
    peak = (
        torch.cuda.max_memory_allocated()
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    row = {"median_ms_a_picture": statistics.median(wall), "min_max_ms": [min(wall), max(wall)]}
    if not on_gpu:
        row["median_processor_ms_a_picture"] = statistics.median(busy)
    return row | {"peak_mb": peak / 1e6}


def in_own_process(name: str, kind: str, side: int) -> dict[str, Any]:
    """Measure a task in a new process, whose peak memory is the task's alone."""
    own = [*sys.argv[1:], "--only", name, kind, str(side)]
    done = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--kinds", nargs="+", default=["t", "r"], choices=["t", "r"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--small", action="store_true", help="networks as narrow as recipes for processors")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--only", nargs=3, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        name, kind, side = arguments.only
        print(json.dumps(measure(name, kind, int(side), arguments)))
        return
    on_gpu = arguments.device.startswith("cuda")
    networks = []
    for kind in arguments.kinds:
        for side in arguments.sizes:
            row: dict[str, Any] = {"kind": kind, "size_px": side}
            for name in TASKS:
                row[name] = in_own_process(name, kind, side)
                figures = row[name]
                print(
                    f"{kind} {side:5} {name:22} {figures['median_ms_a_picture']:9.1f} ms an image "
                    f"{figures['peak_mb']:9.0f} MB",
                    flush=True,
                )
            plain, with_r1 = (row[f"discriminator_step{end}"]["median_ms_a_picture"] for end in ("", "_r1"))
            row["r1_ms_a_picture_every_16th"] = (with_r1 - plain) / 16
            networks.append(row)
    result = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "batch": arguments.batch,
        "widths": "small" if arguments.small else "published",
        "networks": networks,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
