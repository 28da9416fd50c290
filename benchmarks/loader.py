"""Measure how fast training images are loaded, compared with a training step on the same machine, in one run.

    python benchmarks/loader.py [--preset nano] [--step-rate R] [--rounds 3] [--json FILE]

Writes a set like P3M-10k to a temporary folder (JPEG photos of 1.7 megapixels, PNG mattes) with backgrounds
of 1.2 megapixels, and times `training.data.dataset` with this project's own and the published augmentation,
at 512² and 800², with 0, 1 and 2 worker processes. "composed" is the published one with every background
replaced, as for AM-2k. The start of the processes is not timed. A step is forward, backward and update of the
preset in float32 on a batch of random images. Rounds alternate, so that a drift in speed affects all alike;
the result is the median.

CPU time per image depends less on other load, and with workers it includes the transfer of tensors through
shared memory. It gives the number of workers, each with its own core, that keep a training step busy: this
machine's, or with --step-rate R one of R images/s.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from models.stylematte import build_model
from training.config import DataSet, Recipe, Stage
from training.data.dataset import MattingDataset, ResumableBatchSampler

SIDES = (512, 800)
WORKERS = (0, 1, 2)
BATCH = 4
SIZE, GROUND_SIZE = (1080, 1620), (900, 1350)  # (height, width)
WAYS = {"own": ("own", 0.0), "published": ("published", 0.0), "composed": ("published", 1.0)}


def draw(root: Path, count: int) -> None:
    """Write `count` photos with mattes, and as many backgrounds."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(count):
        photo, ground = (textured(rng, size) for size in (SIZE, GROUND_SIZE))
        angle = np.arctan2(y - 540, x - 810)
        radius = 330 + 60 * np.sin(5 * angle) + 8 * np.sin(90 * angle + number)  # an outline with strands
        alpha = np.clip((radius - np.hypot(y - 540, x - 810)) / 12 + 0.5, 0, 1)
        files = {
            f"P3M-10k/train/blurred_image/p_{number:08x}.jpg": photo,
            f"P3M-10k/train/mask/p_{number:08x}.png": np.round(alpha * 255).astype(np.uint8),
            f"BG-20k/train/h_{number:08x}.jpg": ground,
        }
        for name, pixels in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if name.endswith("jpg") else []
            cv2.imwrite(str(root / name), pixels, quality)


def textured(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return an image with detail at every scale, so that its JPEG is about as large as a photo's."""
    image = np.zeros((*size, 3), np.float32)
    for cell in (4, 16, 64, 256):
        coarse = rng.normal(0, 1, (size[0] // cell + 2, size[1] // cell + 2, 3)).astype(np.float32)
        image += cell**0.5 * cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 5 * image, 0, 255).astype(np.uint8)


def dataset_of(root: Path, way: str, side: int) -> MattingDataset:
    augmentation, composite = WAYS[way]
    stage = Stage("bench", 1, BATCH, (side, side), 1e-3, composite=composite, augmentation=augmentation)
    sets = (
        DataSet("P3M-10k", "mattes", 1.0, layout="p3m-10k", colours="raw"),
        DataSet("BG-20k", "backgrounds", 0.0, layout="bg-20k"),
    )
    return MattingDataset(root, root, Recipe("nano", sets, (stage,), held_out_every=10), 0)


def loader_rate(dataset: MattingDataset, workers: int, images: int) -> tuple[float, float]:
    """Return images per second once all processes deliver, and the CPU time of all processes in s."""
    lead = 3 * workers  # batches loaded while the processes started
    loader = DataLoader(
        dataset,
        batch_sampler=ResumableBatchSampler(0, lead + images // BATCH, BATCH),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    before = processor_s()
    batches = iter(loader)
    for _ in range(lead):
        next(batches)
    begin = time.perf_counter()
    count = sum(len(batch["image"]) for batch in batches)
    seconds = time.perf_counter() - begin
    del batches  # ends the processes, so that their time is counted
    return count / seconds, processor_s() - before


def processor_s() -> float:
    """Return the CPU time of this process and its ended child processes."""
    return sum(os.times()[:4])


def processor_ms(dataset: MattingDataset, workers: int, images: int) -> float:
    """Return CPU time per image: a long run minus a short one, which cancels the start."""
    used = [loader_rate(dataset, workers, n)[1] for n in (BATCH, BATCH + images)]
    return 1000 * (used[1] - used[0]) / images


class Step:
    """Training steps of a preset on random images."""

    def __init__(self, preset: str) -> None:
        torch.manual_seed(0)
        self.model = build_model(preset).train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def rate(self, side: int) -> float:
        """Measure images per second at `side`²."""
        image, alpha = torch.rand(BATCH, 3, side, side), torch.rand(BATCH, 1, side, side)
        self.once(image, alpha)
        begin = time.perf_counter()
        self.once(image, alpha)
        return BATCH / (time.perf_counter() - begin)

    def once(self, image: torch.Tensor, alpha: torch.Tensor) -> None:
        """Run one step."""
        loss = (self.model(image, image).fine_logits.sigmoid() - alpha).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano", help="network whose step is measured; default nano")
    parser.add_argument("--step-rate", type=float, default=None, help="images/s of a step to be fed")
    parser.add_argument("--photos", type=int, default=32, help="drawn to the temporary folder; default 32")
    parser.add_argument("--images", type=int, default=64, help="read for one figure; default 64")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    cases = [f"{way} {side}" for way, side in itertools.product(WAYS, SIDES)]
    rates: dict[str, dict[int, list[float]]] = {case: {n: [] for n in WORKERS} for case in cases}
    costs: dict[str, dict[int, list[float]]] = {case: {0: [], 1: []} for case in cases}
    steps: dict[str, list[float]] = {str(side): [] for side in SIDES}
    step, load = Step(arguments.preset), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), arguments.photos)
        for _ in range(arguments.rounds):
            for case in cases:
                way, side = case.split()
                dataset = dataset_of(Path(folder), way, int(side))
                for workers in WORKERS:
                    rates[case][workers].append(loader_rate(dataset, workers, arguments.images)[0])
                for workers in costs[case]:
                    costs[case][workers].append(processor_ms(dataset, workers, arguments.images))
            for side in steps:
                steps[side].append(step.rate(int(side)))
    report = {
        "photo_megapixels": SIZE[0] * SIZE[1] / 1e6,
        "batch_size": BATCH,
        "cores": os.cpu_count(),
        "load_at_start": round(load, 1),
        "preset": arguments.preset,
        "step_images_per_s": {side: summary(values) for side, values in steps.items()},
        "cases": {
            case: figures(rates[case], costs[case], steps[case.split()[1]], arguments.step_rate)
            for case in cases
        },
    }
    print_table(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def figures(
    rates: dict[int, list[float]],
    costs: dict[int, list[float]],
    steps: list[float],
    step_rate: float | None,
) -> dict:
    """Return all measurements of one augmentation and side."""
    step = statistics.median(steps)
    cost_ms = statistics.median(costs[1])
    fed = {"this_machine": step} | ({f"{step_rate:g}": step_rate} if step_rate else {})
    return {
        "images_per_s_with_workers": {str(n): summary(values) for n, values in rates.items()},
        "against_a_step": {str(n): round(statistics.median(v) / step, 2) for n, v in rates.items()},
        "processor_ms_per_image": {str(n): summary(values) for n, values in costs.items()},
        "workers_that_feed": {name: math.ceil(rate * cost_ms / 1000) for name, rate in fed.items()},
    }


def summary(values: list[float]) -> dict[str, float]:
    """Return the median, minimum and maximum."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in figures.items()}


def print_table(report: dict) -> None:
    """Print one line per augmentation and side."""
    for side, rate in report["step_images_per_s"].items():
        print(f"step of {report['preset']} at {side}: {rate['median']} images/s")
    heads = [
        "",
        "CPU ms, 0 workers",
        "CPU ms, 1 worker",
        *(f"{n} workers" for n in WORKERS),
        "against a step",
        "workers that feed",
    ]
    print("".join(f"{head:>18}" for head in heads))
    for case, row in report["cases"].items():
        rates = [f"{rate['median']:.1f}/s" for rate in row["images_per_s_with_workers"].values()]
        ratios = " ".join(f"{ratio:.1f}" for ratio in row["against_a_step"].values())
        feed = " ".join(str(count) for count in row["workers_that_feed"].values())
        costs = [f"{cost['median']:.1f}" for cost in row["processor_ms_per_image"].values()]
        cells = [case, *costs, *rates, ratios, feed]
        print("".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
