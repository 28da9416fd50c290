"""Compare our foreground colours with PyMatting's multilevel solver, on cut-outs with known colours.

    python benchmarks/foreground.py CUTOUTS BACKGROUNDS [--limit 60] [--json foreground.json]

CUTOUTS is a folder of RGBA images with straight alpha, so their colours are known wherever alpha is above
0. Each is composited over a photo; both estimators get the composite and the true alpha. The error is that
of the visible colour: the mean of alpha · |F - true F| over the soft band (alpha 0.02 to 0.98), in 8-bit
levels. Both run on one thread, except PyMatting's compiled loops, which use all cores. Times are also
measured on the first composite, enlarged to 1080 x 1920.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pymatting import estimate_foreground_ml

from stylematte.imaging.compose import cover
from stylematte.imaging.foreground import estimate_foreground
from stylematte.media.images import read_image
from stylematte.media.paths import SUFFIXES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cutouts", type=Path, help="folder of RGBA photos")
    parser.add_argument("backgrounds", type=Path, help="folder of photos")
    parser.add_argument("--limit", type=int, default=60, help="photos; default 60")
    parser.add_argument("--json", type=Path, default=Path("foreground.json"), help="default foreground.json")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    cutouts = sorted(options.cutouts.rglob("*.png"))[: options.limit]
    photos = sorted(path for path in options.backgrounds.iterdir() if path.suffix.lower() in SUFFIXES)
    estimators = {"ours": ours, "PyMatting": theirs, "composite as it is": lambda image, alpha: image}
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in estimators}
    large: dict[str, float] = {}
    for number, path in enumerate(cutouts):
        photo = read_image(path)
        if photo.alpha is None:
            continue
        alpha = photo.alpha.astype(np.float64) / 255
        behind = cover(read_image(photos[number * 37 % len(photos)]).pixels, alpha.shape)
        image = alpha[:, :, None] * photo.pixels + (1 - alpha[:, :, None]) * behind
        image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
        band = (alpha > 0.02) & (alpha < 0.98)
        for name, estimate in estimators.items():
            if name not in large:
                estimate(image, alpha)  # PyMatting compiles in its first call
                large[name] = time_at_1080p(estimate, image, alpha)
            started = time.perf_counter()
            found = estimate(image, alpha)
            seconds = time.perf_counter() - started
            difference = np.abs(found.astype(float) - photo.pixels).mean(axis=2)
            rows[name].append((float((alpha * difference)[band].mean()), seconds, alpha.size / 1e6))
    report = {
        "cutouts": len(rows["ours"]),
        "estimators": {
            name: {**summary(values), "ms_at_1080p": large[name]} for name, values in rows.items()
        },
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def ours(image: NDArray[np.uint8], alpha: NDArray[np.float64]) -> NDArray[np.uint8]:
    return estimate_foreground(image, alpha.astype(np.float32))


def theirs(image: NDArray[np.uint8], alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    foreground: NDArray[np.float64] = estimate_foreground_ml(image / 255.0, alpha)
    return foreground * 255


def time_at_1080p(
    estimate: Callable[[Any, Any], Any], image: NDArray[np.uint8], alpha: NDArray[np.float64]
) -> float:
    image, alpha = (cv2.resize(part, (1920, 1080), interpolation=cv2.INTER_CUBIC) for part in (image, alpha))
    alpha = np.clip(alpha, 0, 1)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        estimate(image, alpha)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def summary(values: list[tuple[float, float, float]]) -> dict[str, Any]:
    return {
        "error_mean": statistics.mean(value[0] for value in values),
        "error_median": statistics.median(value[0] for value in values),
        "ms_per_megapixel": statistics.median(1000 * value[1] / value[2] for value in values),
    }


if __name__ == "__main__":
    main()
