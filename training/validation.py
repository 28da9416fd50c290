"""Scores on validation sets during a run, by the published protocol.

Alpha is scored at the photo's own size, with SAD, MSE and MAD from `training.metrics`. The scores are
comparable with published ones at the same resolution, which is part of their name.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.released_checkpoints import matte_published
from models.stylematte import StyleMatte
from training.config import Recipe, Resolution
from training.data.readers import DataError, check_size, read_label, read_plane, read_rgb, read_set
from training.held_out import SHOWN_PER_SET, Shown, as_tensor, finite, predict
from training.metrics import mad, mse, sad, trimap_scores

IN_THE_BAND = ("SAD-tri", "MSE-tri", "MAD-tri")
MAX_HALF_PX = 1600  # maximum side of a halved photo, as in P3M-Net


@dataclass(frozen=True)
class Photo:
    """One photo of a validation set.

    Attributes:
        set_name: Set and resolution, as in the names of scores: `P3M-500-P@full`.
        image: File of the image.
        alpha: File of the true alpha.
        trimap: File of the trimap, if there is one.
        resolution: Resolution of the network's input.
    """

    set_name: str
    image: Path
    alpha: Path
    trimap: Path | None
    resolution: Resolution


class ValidationSets:
    """Scores a network on a recipe's validation sets; the best weights have the smallest mean SAD.

    Raises:
        DataError: A set is missing, or a photo of it has no alpha.
    """

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.photos = validation_photos(root, recipe)

    def score(self, model: StyleMatte, side: float) -> dict[str, float]:
        """See `score`; the training size is not used here."""
        return score(model, self.photos)

    def error(self, scores: dict[str, float]) -> float:
        """Return the error that the best weights minimise."""
        return scores["sad"]

    def headline(self, scores: dict[str, float]) -> dict[str, float]:
        """Return the SAD of every set, and the means."""
        return {name: value for name, value in scores.items() if "/" not in name or name.startswith("sad/")}

    def shown(self) -> Iterable[Shown]:
        """Yield a few images of every set, for a preview."""
        seen: dict[str, int] = defaultdict(int)
        for photo in self.photos:
            seen[photo.set_name] += 1
            if seen[photo.set_name] <= SHOWN_PER_SET:
                yield Shown(read_rgb(photo.image), read_label(photo.alpha))


def validation_photos(root: Path, recipe: Recipe) -> list[Photo]:
    """Return the photos of every validation set, up to its number, spread evenly.

    Raises:
        DataError: A set is missing, or a photo of it has no alpha.
    """
    photos = []
    for table in recipe.validation:
        samples = read_set(root, table.folder, table.layout)
        step = max(1, len(samples) // table.photos)
        for sample in samples[::step][: table.photos]:
            if "alpha" not in sample.labels:
                raise DataError(f"{sample.image}: it has no alpha, which a validation set needs")
            name = f"{table.folder if table.layout == 'plain' else table.layout.upper()}@{table.resolution}"
            files = (sample.image, sample.labels["alpha"], sample.labels.get("trimap"))
            photos.append(Photo(name, *files, table.resolution))
    return photos


def score(model: StyleMatte, photos: list[Photo]) -> dict[str, float]:
    """Return mean scores per set and over sets; the network is left in evaluation mode.

    Returns:
        `sad/<set>@<resolution>`, likewise for mse and mad, and for sad-tri, mse-tri and mad-tri if there are
        trimaps; `sad`, `mse`, `mad` are the means over sets. Conventions: `training.metrics.CONVENTIONS`.

    Raises:
        DataError: A file cannot be read, sizes differ, or no alpha contains a subject.
        TrainingError: The network's output is not finite.
    """
    model.eval()
    rows: dict[str, list[float]] = defaultdict(list)
    shows_subject = False
    for photo in photos:
        image = read_rgb(photo.image)
        truth = np.asarray(read_label(photo.alpha) / np.float32(255), np.float32)
        check_size(photo.alpha, truth, image)
        trimap = None
        if photo.trimap is not None:
            trimap = read_plane(photo.trimap)
            check_size(photo.trimap, trimap, image)
        shows_subject |= bool(truth.max() >= 0.5)
        predicted = finite(matte(model, image, photo.resolution), photo.image)
        values = {"sad": sad(predicted, truth), "mse": mse(predicted, truth), "mad": mad(predicted, truth)}
        if trimap is not None:
            banded = trimap_scores(predicted, truth, trimap)
            values |= {name.lower(): banded[name] for name in IN_THE_BAND}
        for name, value in values.items():
            rows[f"{name}/{photo.set_name}"].append(value)
    if not shows_subject:
        raise DataError(
            f"none of the {len(photos)} validation photos contains a subject, so there is nothing to score"
        )
    # A trimap without unknown pixels has no band score.
    scores = {n: float(np.nanmean(values)) for n, values in rows.items() if not np.isnan(values).all()}
    for kind in ("sad", "mse", "mad"):
        scores[kind] = float(np.mean([v for k, v in scores.items() if k.startswith(kind + "/")]))
    return scores


def matte(model: StyleMatte, image: NDArray[np.uint8], resolution: Resolution) -> NDArray[np.float32]:
    """Predict the alpha of a photo at its own size.

    Args:
        model: Network in evaluation mode.
        image: (H, W, 3) uint8 RGB.
        resolution: Input of the network: the "full" photo, "half" of each side, or its "working" size.

    Returns:
        (H, W) float32 in [0, 1].
    """
    if resolution == "working":
        return predict(model, image, model.preset.working_size)
    if resolution == "half":
        stride = model.preset.stride
        height, width = (max(stride, min(n // 2, MAX_HALF_PX) // stride * stride) for n in image.shape[:2])
        halved = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        return _run(model, halved, image)
    with torch.inference_mode():
        whole = as_tensor(image, next(model.parameters()).device)
        return matte_published(model, whole)[0, 0].cpu().numpy()


@torch.inference_mode()
def _run(model: StyleMatte, seen: NDArray[np.uint8], guide: NDArray[np.uint8]) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    return model(as_tensor(seen, device), as_tensor(guide, device)).alpha[0, 0].cpu().numpy()
