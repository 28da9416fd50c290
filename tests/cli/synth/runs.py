"""Run `stylematte synth` in this process, and read what it wrote."""

import json
from pathlib import Path

import numpy as np

from stylematte_cli.app import main
from tests.training.generators import Discs


def run(out: Path, weights: Path, *arguments: object, code: int = 0) -> None:
    options = ["--out", out, "--weights", weights, "--device", "cpu", "--quiet", *arguments]
    assert main(["synth", *map(str, options)]) == code


def manifest(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.png"))}


def assert_manifest_tells_the_truth(out: Path) -> None:
    last = {line["index"]: line for line in manifest(out)}
    for line in last.values():
        assert (line["outcome"] == "duplicate") or (out / line["output"]).is_file()


class Holed(Discs):
    """Has a hole in the alpha of numbers 2, 5, 8 ...; `z` tells the number."""

    def forward(self, z, truncation, transform):
        from training.synthesis.drawing import SamplingPlan

        images = super().forward(z, truncation, transform)
        noises = [SamplingPlan().draft(i, 4).noise for i in range(60)]
        for image, noise in zip(images, z, strict=True):
            number = next(i for i, n in enumerate(noises) if np.array_equal(n, noise))
            if number % 3 == 2:
                side = self.config.size_px
                image[3, side // 4 : -side // 4, side // 4 : -side // 4] *= -1
        return images
