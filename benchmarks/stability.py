"""Measure what --stabilize does: a sequence with true alpha over moving backgrounds, with and without it.

    python benchmarks/stability.py SEQUENCE BACKGROUNDS [--weights nano] [--detail off] [--clips 12] \
        [--json stability.json]

SEQUENCE is a folder of RGBA frames with true, straight alpha; BACKGROUNDS is a folder of photos. Each clip
composites the frames over another photo, which moves at another speed (up to four pixels per frame along
each axis), and adds noise with a standard deviation of two 8-bit levels. The model only sees the composites.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte import load
from stylematte.folder import for_clips
from stylematte.imaging.stabilise import Stabiliser, look_at
from stylematte.matter import Matter
from stylematte.media.images import read_image
from stylematte.media.paths import SUFFIXES
from training.metrics import ClipScores, grad, sad

NOISE = 2.0
STEPS = (
    (3, 0),
    (-2, 1),
    (1, -2),
    (4, 0.5),
    (0, 3),
    (-3, -1),
    (2, 2),
    (-4, 1),
    (0.5, 0),
    (-1, -4),
    (1, 1),
    (0, 0),
)
SCORES = ("dtSSD", "MESSDdt", "flicker", "SAD", "Grad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequence", type=Path, help="folder of RGBA frames")
    parser.add_argument("backgrounds", type=Path, help="folder of photos")
    parser.add_argument("--weights", default="nano", help="name or file; default nano")
    parser.add_argument("--detail", default="auto", help="as of `stylematte matte` for clips; default auto")
    parser.add_argument("--clips", type=int, default=len(STEPS), help=f"default {len(STEPS)}")
    parser.add_argument("--json", type=Path, default=Path("stability.json"), help="default stability.json")
    options = parser.parse_args()
    matter = for_clips(load(options.weights, device="cpu", detail=options.detail), options.detail)
    frames = [read_image(path) for path in sorted(options.sequence.glob("*.png"))]
    photos = sorted(path for path in options.backgrounds.iterdir() if path.suffix.lower() in SUFFIXES)
    rows = []
    for number in range(options.clips):
        path = photos[(number * 2 + 1) * len(photos) // (2 * options.clips)]
        images, truths = compose(frames, read_image(path).pixels, STEPS[number % len(STEPS)], number)
        rows.append({"background": path.name, **measure(matter, images, truths)})
        print_row(rows[-1])
    report = {
        "preset": matter.engine.contract.preset,
        "detail": options.detail,
        "frames": len(frames),
        "clips": rows,
        "mean": mean(rows),
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print_row({"background": "mean", **report["mean"]})


def compose(
    frames: list[Any], photo: NDArray[np.uint8], step: tuple[float, float], seed: int
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    """Composite the frames over a photo that moves by `step` (right, down) pixels per frame."""
    rng = np.random.default_rng(seed)
    height, width = frames[0].pixels.shape[:2]
    scale = 1.6 * max(height / photo.shape[0], width / photo.shape[1])
    large = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    room = np.array([large.shape[1] - width, large.shape[0] - height])
    images, truths = [], []
    for number, frame in enumerate(frames):
        at = np.clip(room / 2 + np.array(step) * (number - len(frames) / 2), 0, room)
        shift = np.array([[1, 0, -at[0]], [0, 1, -at[1]]])
        behind = cv2.warpAffine(large, shift, (width, height), flags=cv2.INTER_LINEAR)
        alpha = (frame.alpha / np.float32(255)).astype(np.float32)
        mixed = alpha[:, :, None] * frame.pixels + (1 - alpha[:, :, None]) * behind
        mixed += rng.normal(0, NOISE, mixed.shape)
        images.append(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))
        truths.append(alpha)
    return images, truths


def measure(
    matter: Matter, images: list[NDArray[np.uint8]], truths: list[NDArray[np.float32]]
) -> dict[str, dict[str, float]]:
    alphas = [matter(image).alpha for image in images]
    started = time.perf_counter()
    stabiliser = Stabiliser()
    steadied = [stabiliser.push(look_at(image, alpha)) for image, alpha in zip(images, alphas, strict=True)]
    steadied = [*steadied[1:], stabiliser.flush()]
    seconds = time.perf_counter() - started
    steady = [np.asarray(alpha, np.float32) / np.float32(65535) for alpha in steadied]
    before, after = score(alphas, truths), score(steady, truths)
    return {
        "before": before,
        "after": after,
        "ratio": {key: after[key] / before[key] for key in SCORES},
        "cost": {"ms_per_frame": 1000 * seconds / len(images), "cuts": stabiliser.cuts},
    }


def score(alphas: list[NDArray[np.float32]], truths: list[NDArray[np.float32]]) -> dict[str, float]:
    clip = ClipScores()
    for alpha, truth in zip(alphas, truths, strict=True):
        clip.add(alpha, truth)
    pairs = list(zip(alphas, truths, strict=True))
    return {
        **clip.scores(),
        "SAD": statistics.mean(sad(*pair) for pair in pairs),
        "Grad": statistics.mean(grad(*pair) for pair in pairs),
    }


def mean(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        part: {key: statistics.mean(row[part][key] for row in rows) for key in rows[0][part]}
        for part in ("before", "after", "ratio", "cost")
    }


def print_row(row: dict[str, Any]) -> None:
    values = "".join(
        f"  {key} {row['before'][key]:.3f} -> {row['after'][key]:.3f} ({row['ratio'][key]:.2f})"
        for key in SCORES
    )
    print(f"{row['background']:<20}{values}")


if __name__ == "__main__":
    main()
