"""Scores and previews of the held-out split during a run.

They are quick and use the training size, to monitor a run. Final scores are computed at full resolution, by
`training.validation` on separate sets or by `stylematte matte` and `stylematte evaluate`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.stylematte import StyleMatte
from training.checkpoint import TrainingError
from training.config import DataSet, Recipe
from training.data.dataset import ASPECTS, shape_near
from training.data.pseudo_alpha import cached_paths
from training.data.readers import DataError, Sample, read_grey, split
from training.data.subjects import read_data_set, read_subject
from training.metrics import iou
from training.teacher import Teacher

Item = tuple[Sample, DataSet]
SHOWN_PER_SET = 2  # images of each set on a preview sheet


class Shown(NamedTuple):
    """An image (H, W, 3) uint8 RGB with its true alpha, (H, W) uint8."""

    image: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


class HeldOutSplit:
    """Scores a network on the held-out split of the recipe's own sets.

    Args:
        root: Folder of the data sets.
        recipe: Names the sets and the held-out fraction.
        mattes: Folder of prepared mattes.
        per_set: Maximum number of images per set.
        teacher: Labels unlabelled photos.

    Raises:
        DataError: No images are held out.
    """

    def __init__(
        self, root: Path, recipe: Recipe, mattes: Path, per_set: int, teacher: Teacher | None
    ) -> None:
        self.items = held_out_items(root, recipe, per_set)
        self.mattes, self.teacher = mattes, teacher
        if not self.items:
            raise DataError(
                f"{root}: there is no held-out photo to score; the recipe needs [[validation]] sets, more "
                "labelled photos, or a smaller held_out_every"
            )

    def score(self, model: StyleMatte, side: float) -> dict[str, float]:
        """See `score`."""
        return score(model, self.items, self.mattes, side, self.teacher)

    def error(self, scores: dict[str, float]) -> float:
        """Return the error that the best weights minimise: the band error plus 1 − IoU."""
        band = scores.get("band", 0.0)  # missing in every validation if no held-out image has a band
        return band + 1 - scores.get("iou", 1.0)

    def headline(self, scores: dict[str, float]) -> dict[str, float]:
        """Return all scores."""
        return scores

    def shown(self) -> Iterable[Shown]:
        """Yield a few images of every set, for a preview."""
        seen: dict[str, int] = defaultdict(int)
        for sample, data_set in self.items:
            seen[data_set.folder] += 1
            if seen[data_set.folder] <= SHOWN_PER_SET:
                image, alpha, _ = labelled(sample, data_set, self.mattes, self.teacher)
                yield Shown(image, np.round(alpha * 255).astype(np.uint8))


def held_out_items(root: Path, recipe: Recipe, per_set: int) -> list[Item]:
    """Return held-out photos with a label or a teacher's, at most `per_set` per set, spread evenly."""
    items: list[Item] = []
    for data_set in recipe.sets:
        if data_set.kind not in ("photos", "mattes", "unlabelled"):
            continue
        samples = split(read_data_set(root, data_set), recipe.held_out_every)[1]
        step = max(1, len(samples) // per_set)
        items += [(sample, data_set) for sample in samples[::step][:per_set]]
    return items


@torch.inference_mode()
def predict(model: StyleMatte, image: NDArray[np.uint8], side: float) -> NDArray[np.float32]:
    """Predict alpha (H, W) float32 of an image (H, W, 3) uint8 RGB, with about `side`² input pixels."""
    aspect = image.shape[1] / image.shape[0]
    size = shape_near(side, min(ASPECTS, key=lambda a: abs(np.log(a / aspect))))
    small = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    device = next(model.parameters()).device
    return model(*(as_tensor(x, device) for x in (small, image))).alpha[0, 0].cpu().numpy()


def as_tensor(image: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).to(device)


def labelled(
    sample: Sample, data_set: DataSet, mattes: Path, teacher: Teacher | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Load a held-out image with its target.

    Returns:
        Image (H, W, 3) uint8 RGB, alpha (H, W) float32 in [0, 1], and the band (H, W) in which the outline
        lies: the trimap's for photos with masks, otherwise wherever the alpha is soft.
    """
    subject = read_subject(sample, data_set, mattes)
    alpha = np.asarray(subject.alpha / np.float32(255), np.float32)
    if data_set.kind == "photos":
        return subject.image, alpha, read_grey(cached_paths(sample, mattes)["trimap"]) == 128
    if data_set.kind == "unlabelled":
        assert teacher is not None  # `training.loop.train` rejects such a run
        answer, _ = teacher.label(as_tensor(subject.image, teacher.device))
        alpha = answer[0, 0].cpu().numpy()
    return subject.image, alpha, (alpha > 0.05) & (alpha < 0.95)


def score(
    model: StyleMatte, items: list[Item], mattes: Path, side: float, teacher: Teacher | None = None
) -> dict[str, float]:
    """Return the mean IoU at 0.5 and the mean absolute band error, per set and over sets.

    The network is left in evaluation mode.

    Returns:
        `iou/<set>`, `band/<set>` for every set, and `iou`, `band`, the means over sets. A set without any
        subject has no IoU, and a set without soft outlines has no band error.

    Raises:
        DataError: No image of any set contains a subject, so there is nothing to score.
        TrainingError: The network's output is not finite.
    """
    model.eval()
    rows: dict[str, list[float]] = defaultdict(list)
    with_subject: set[str] = set()
    for sample, data_set in items:
        image, alpha, band = labelled(sample, data_set, mattes, teacher)
        predicted = finite(predict(model, image, side), sample.image)
        if alpha.max() >= 0.5:
            with_subject.add(sample.folder)
        value = iou(predicted, alpha)
        # An empty prediction for an empty image is correct, if other images of the set contain a subject.
        rows[f"iou/{sample.folder}"].append(1.0 if math.isnan(value) else value)
        if band.any():
            rows[f"band/{sample.folder}"].append(np.abs(predicted - alpha)[band].mean())
    if not with_subject and not any(name.startswith("band/") for name in rows):
        raise DataError(
            f"none of the {len(items)} held-out images contains a subject, so there is nothing to score; are "
            "their masks empty?"
        )
    for folder in {sample.folder for sample, _ in items} - with_subject:  # with a poor teacher, for example
        del rows[f"iou/{folder}"]
    scores = {name: float(np.mean(values)) for name, values in rows.items()}
    for kind in ("iou", "band"):
        if means := [v for k, v in scores.items() if k.startswith(kind + "/")]:
            scores[kind] = float(np.mean(means))
    return scores


def finite(predicted: NDArray[np.float32], photo: Path) -> NDArray[np.float32]:
    """Return a network's output unchanged.

    Raises:
        TrainingError: A value is not finite; comparisons with NaN would hide a bad score.
    """
    if not np.isfinite(predicted).all():
        raise TrainingError(f"{photo}: the network's alpha is not finite")
    return predicted


def preview_sheet(model: StyleMatte, images: Iterable[Shown], side: float, path: Path) -> None:
    """Write a preview sheet of a network's output, see `draw_sheet`."""
    model.eval()
    draw_sheet(((shown, predict(model, shown.image, side)) for shown in images), path)


def draw_sheet(answers: Iterable[tuple[Shown, NDArray[np.float32]]], path: Path) -> None:
    """Write a PNG with a row for each image: image, label, alpha, and composite on green.

    Args:
        answers: Images with their labels, and the predicted alphas (H, W) in [0, 1].
        path: Path of the file; its folder is created.
    """
    rows = []
    for (image, label), found in answers:
        alpha = found[..., None]
        composite = alpha * image + (1 - alpha) * np.array([60, 180, 75])
        grey = (label[..., None].repeat(3, 2), (alpha * 255).repeat(3, 2))
        row = np.hstack([image, *grey, composite]).astype(np.uint8)
        rows.append(
            cv2.resize(row, (1024, 1024 * row.shape[0] // row.shape[1]), interpolation=cv2.INTER_AREA)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
