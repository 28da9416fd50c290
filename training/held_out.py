"""Scores and pictures of the held-out part while a run goes on.

Quick and at training size, to see where a run is heading. The scores that count are taken at full resolution
by `stylematte matte` and `stylematte evaluate`.
"""

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.stylematte import StyleMatte
from training.config import DataSet, Recipe
from training.data.dataset import ASPECTS, read_subject, shape_near
from training.data.pseudo_alpha import cached_paths
from training.data.readers import Sample, read_grey, read_set, split
from training.metrics import iou

Item = tuple[Sample, DataSet]


def held_out_items(root: Path, recipe: Recipe, per_set: int) -> list[Item]:
    """Held-out photos with masks, at most `per_set` of each set, spread evenly over it."""
    items: list[Item] = []
    for data_set in recipe.sets:
        if data_set.kind != "photos":
            continue
        samples = split(read_set(root, data_set.folder), recipe.held_out_every)[1]
        step = max(1, len(samples) // per_set)
        items += [(sample, data_set) for sample in samples[::step][:per_set]]
    return items


@torch.inference_mode()
def predict(model: StyleMatte, image: NDArray[np.uint8], side: float) -> NDArray[np.float32]:
    """Alpha (H, W) float32 of a picture (H, W, 3) uint8 RGB; the network sees about `side`² pixels of it."""
    aspect = image.shape[1] / image.shape[0]
    size = shape_near(side, min(ASPECTS, key=lambda a: abs(np.log(a / aspect))))
    device = next(model.parameters()).device
    as_tensor = [
        torch.from_numpy(x).permute(2, 0, 1)[None].float().div(255).to(device)
        for x in (cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), image)
    ]
    return model(*as_tensor).alpha[0, 0].cpu().numpy()


def score(model: StyleMatte, items: list[Item], mattes: Path, side: float) -> dict[str, float]:
    """Mean IoU at 0.5 and mean absolute band error, by set and over sets.

    The network is left in evaluation mode.

    Returns:
        `iou/<set>`, `band/<set>` for every set, and `iou`, `band`, the means over sets.
    """
    model.eval()
    rows: dict[str, list[float]] = defaultdict(list)
    for sample, data_set in items:
        subject = read_subject(sample, data_set, mattes)
        alpha = np.asarray(subject.alpha / np.float32(255), np.float32)
        predicted = predict(model, subject.image, side)
        rows[f"iou/{sample.folder}"].append(iou(predicted, alpha))
        band = read_grey(cached_paths(sample, mattes)["trimap"]) == 128
        if band.any():
            rows[f"band/{sample.folder}"].append(np.abs(predicted - alpha)[band].mean())
    scores = {name: float(np.mean(values)) for name, values in rows.items()}
    for kind in ("iou", "band"):
        scores[kind] = float(np.mean([v for k, v in scores.items() if k.startswith(kind + "/")]))
    return scores


def preview_sheet(model: StyleMatte, items: list[Item], mattes: Path, side: float, path: Path) -> None:
    """Draw picture, label, alpha and composite on green, a row for each item, as one PNG."""
    model.eval()
    rows = []
    for sample, data_set in items:
        subject = read_subject(sample, data_set, mattes)
        alpha = predict(model, subject.image, side)[..., None]
        composite = alpha * subject.image + (1 - alpha) * np.array([60, 180, 75])
        grey = (subject.alpha[..., None].repeat(3, 2), (alpha * 255).repeat(3, 2))
        row = np.hstack([subject.image, *grey, composite]).astype(np.uint8)
        rows.append(
            cv2.resize(row, (1024, 1024 * row.shape[0] // row.shape[1]), interpolation=cv2.INTER_AREA)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
