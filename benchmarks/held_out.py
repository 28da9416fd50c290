"""Score a model on the held-out tenth of the training data, with the pipeline that processes users' photos.

    python benchmarks/held_out.py --data DIR [--weights nano] [--size PX] [--mattes DIR] [--json FILE] \
        [--gallery DIR]

IoU is measured at alpha 0.5 against the data set's own mask, at full size. iou_mended is measured against the
matte solved from that mask, with known label errors corrected (data/label_cleanup.py: bare shoulders and
hands that portraits leave out), and without the photos that the recipe lists as incomplete or wrong.
SAD, MAD and MSE, and the mean absolute error in the unknown band, compare with pseudo-mattes solved from
those masks; where the mask is coarse (cats), so is the matte. Backgrounds have no subject (the recipe lists
those with one as wrong): they are scored by the mean alpha and the share of photos below 1 %. Rows "no twin"
exclude photos with a near-duplicate in the training part under another name.
"band_mad_of_stride_4" is the error of the pseudo-mattes themselves after averaging on a grid of that stride
at working size and bilinear upsampling: a network with that stride and no guide can hardly do better.
"low" and "high" bound the 95 % confidence interval of a mean: a percentile bootstrap with 2,000 resamples.
--gallery saves the worst results of every set: photo, label, alpha, and the photo over green.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte import load
from stylematte.matter import Matter
from stylematte_cli.commands.progress import with_progress
from training.config import load_recipe
from training.data.label_cleanup import clean_mask
from training.data.near_duplicates import find_near_duplicates
from training.data.pseudo_alpha import cached_paths, prepare
from training.data.readers import Sample, read_grey, read_rgb, read_set, split
from training.held_out import Shown, draw_sheet
from training.metrics import iou, mad, mse, sad

WORST = 6  # per sheet
RESAMPLES = 2000
STRIDES = (4, 2)  # of networks' coarse outputs
WITH_INTERVAL = ("iou", "iou_mended", "band_mad")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--recipe", default="nano", help="says which sets, and which tenth is held out")
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--mattes", type=Path, default=None, help="prepared mattes; made anew if not given")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument(
        "--gallery", type=Path, default=None, help="folder for a sheet of the worst of each set"
    )
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    matter = load(arguments.weights, size=arguments.size)
    table = {}
    with tempfile.TemporaryDirectory() as temporary:
        mattes = arguments.mattes or Path(temporary)
        for data_set in recipe.sets:
            trained, samples = split(read_set(arguments.data, data_set.folder), recipe.held_out_every)
            if data_set.kind == "backgrounds":
                samples = [s for s in samples if s.image.stem not in data_set.wrong]  # wrong: has a subject
                progress = with_progress(samples, len(samples), "photo", quiet=False)
                means = [matter(read_rgb(s.image)).alpha.mean() for s in progress]
                table[data_set.folder] = {
                    "photos": len(samples),
                    "mean_alpha": float(np.mean(means)),
                    "share_below_1_percent": float(np.mean(np.array(means) < 0.01)),
                }
            elif data_set.kind == "photos":
                prepare(samples, data_set.band, mattes)
                progress = with_progress(samples, len(samples), "photo", quiet=False)
                slips = {*data_set.incomplete, *data_set.wrong}
                rows = [one(matter, s, mattes, s.image.stem in slips) for s in progress]
                table[data_set.folder] = means_of(rows)
                if arguments.gallery:
                    worst = np.argsort([row["iou"] for row in rows])[:WORST]
                    sheet = arguments.gallery / f"{data_set.folder}.png"
                    draw_sheet(answers(matter, [samples[i] for i in worst]), sheet)
                twins = find_near_duplicates(samples, trained)
                if any(twins):
                    alone = [row for row, has_twin in zip(rows, twins, strict=True) if not has_twin]
                    table[f"{data_set.folder}, no twin"] = means_of(alone)
    for folder, scores in table.items():
        print(f"{folder:25}", "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n")


def means_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return each column's mean, the number of photos, and bootstrap intervals of some means."""
    columns = {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    scores = {"photos": len(rows)} | {name: float(np.nanmean(values)) for name, values in columns.items()}
    draws = np.random.default_rng(0).integers(0, len(rows), (RESAMPLES, len(rows)))
    for name in WITH_INTERVAL:
        means = np.nanmean(columns[name][draws], axis=1)
        scores |= {
            f"{name}_{end}": float(np.nanpercentile(means, at)) for end, at in (("low", 2.5), ("high", 97.5))
        }
    return scores


def answers(matter: Matter, samples: list[Sample]) -> Iterator[tuple[Shown, np.ndarray]]:
    """Yield photos with their masks, and a model's alphas."""
    for sample in samples:
        image = read_rgb(sample.image)
        yield Shown(image, read_grey(sample.labels["mask"])), matter(image).alpha


def one(matter: Matter, sample: Sample, mattes: Path, slipped: bool) -> dict[str, float]:
    """Score one photo."""
    alpha = matter(read_rgb(sample.image)).alpha
    mask = clean_mask(read_grey(sample.labels["mask"]) > 127)
    truth = read_grey(cached_paths(sample, mattes)["alpha"]) / np.float32(255)
    band = read_grey(cached_paths(sample, mattes)["trimap"]) == 128
    believed = read_grey(cached_paths(sample, mattes)["weight"]) > 0

    def band_mad(found: NDArray[np.float32]) -> float:
        return float(np.abs(found - truth)[band].mean()) if band.any() else np.nan

    return {
        "iou": iou(alpha, mask.astype(np.float32)),
        "iou_mended": np.nan if slipped else iou(alpha[believed], truth[believed]),
        "sad": sad(alpha, truth),
        "mad": mad(alpha, truth),
        "mse": mse(alpha, truth),
        "band_mad": band_mad(alpha),
    } | {f"band_mad_of_stride_{s}": band_mad(through_grid(truth, matter, s)) for s in STRIDES}


def through_grid(alpha: NDArray[np.float32], matter: Matter, stride: int) -> NDArray[np.float32]:
    """Downsample an alpha (H, W) to a grid of `stride` at its image's working size, and upsample it."""
    height, width = matter.engine.contract.working_size_for(*alpha.shape, matter.size)
    small = cv2.resize(alpha, (width // stride, height // stride), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)


if __name__ == "__main__":
    main()
