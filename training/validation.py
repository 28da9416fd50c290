"""Scores of validation sets while a run goes on, by the published protocol.

The alpha at the photo's own size, SAD, MSE and MAD as `training.metrics` has them: numbers to be set beside
published ones, as long as the resolution that stands in their name is the same.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.published import matte_published
from models.stylematte import StyleMatte
from training.config import Recipe, Resolution
from training.data.readers import DataError, read_label, read_plane, read_rgb, read_set
from training.held_out import SHOWN_A_SET, Shown, as_tensor, finite, predict
from training.metrics import mad, mse, sad, trimap_scores

IN_THE_BAND = ("SAD-tri", "MSE-tri", "MAD-tri")
MOST_OF_HALF_PX = 1600  # no side of a halved photo is longer, P3M-Net's rule


@dataclass(frozen=True)
class Photo:
    """One photo of a validation set.

    Attributes:
        set_name: Name of the set and the resolution, `P3M-500-P@full`, as scores are named.
        image: Its file.
        alpha: File of the true alpha.
        trimap: File of the trimap, where there is one.
        resolution: What the network sees of it.
    """

    set_name: str
    image: Path
    alpha: Path
    trimap: Path | None
    resolution: Resolution


class ValidationSets:
    """Judges a network by a recipe's validation sets; best is the smallest mean SAD.

    Raises:
        DataError: A set is missing, or a photo of it has no alpha.
    """

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.photos = validation_photos(root, recipe)

    def score(self, model: StyleMatte, side: float) -> dict[str, float]:
        """See `score`; the size of training pictures does not matter here."""
        return score(model, self.photos)

    def error(self, scores: dict[str, float]) -> float:
        """What the best weights have least of."""
        return scores["sad"]

    def headline(self, scores: dict[str, float]) -> dict[str, float]:
        """The SAD of every set, and the means."""
        return {name: value for name, value in scores.items() if "/" not in name or name.startswith("sad/")}

    def shown(self) -> Iterable[Shown]:
        """A few pictures of every set, for a preview."""
        seen: dict[str, int] = defaultdict(int)
        for photo in self.photos:
            seen[photo.set_name] += 1
            if seen[photo.set_name] <= SHOWN_A_SET:
                yield Shown(read_rgb(photo.image), read_label(photo.alpha))


def validation_photos(root: Path, recipe: Recipe) -> list[Photo]:
    """The photos of every validation set, as many as it says, spread evenly over it.

    Raises:
        DataError: A set is missing, or a photo of it has no alpha.
    """
    photos = []
    for table in recipe.validation:
        samples = read_set(root, table.folder, table.layout)
        step = max(1, len(samples) // table.photos)
        for sample in samples[::step][: table.photos]:
            if "alpha" not in sample.labels:
                raise DataError(f"{sample.image}: no alpha belongs to it; a validation set needs them")
            name = f"{table.folder if table.layout == 'plain' else table.layout.upper()}@{table.resolution}"
            files = (sample.image, sample.labels["alpha"], sample.labels.get("trimap"))
            photos.append(Photo(name, *files, table.resolution))
    return photos


def score(model: StyleMatte, photos: list[Photo]) -> dict[str, float]:
    """Mean scores by set and over sets; the network is left in evaluation mode.

    Returns:
        `sad/<set>@<resolution>`, and so for mse and mad, and for sad-tri, mse-tri and mad-tri where there are
        trimaps; `sad`, `mse`, `mad` are the means over sets. Conventions: `training.metrics.CONVENTIONS`.

    Raises:
        DataError: A file cannot be read, sizes differ, or no alpha shows a subject.
        TrainingError: The network's answer is no number.
    """
    model.eval()
    rows: dict[str, list[float]] = defaultdict(list)
    shows_subject = False
    for photo in photos:
        image = read_rgb(photo.image)
        truth = np.asarray(read_label(photo.alpha) / np.float32(255), np.float32)
        trimap = None if photo.trimap is None else read_plane(photo.trimap)
        for path, label in ((photo.alpha, truth), (photo.trimap, trimap)):
            if label is not None and label.shape != image.shape[:2]:
                raise DataError(f"{path}: size {label.shape}, its picture has {image.shape[:2]}")
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
            f"no subject in any alpha of the {len(photos)} validation photos, so there is nothing to score"
        )
    # A trimap without unknown pixels gives no score of its band.
    scores = {n: float(np.nanmean(values)) for n, values in rows.items() if not np.isnan(values).all()}
    for kind in ("sad", "mse", "mad"):
        scores[kind] = float(np.mean([v for k, v in scores.items() if k.startswith(kind + "/")]))
    return scores


def matte(model: StyleMatte, image: NDArray[np.uint8], resolution: Resolution) -> NDArray[np.float32]:
    """Alpha of a photo at its own size.

    Args:
        model: In evaluation mode.
        image: (H, W, 3) uint8 RGB.
        resolution: The network sees the "full" photo, "half" of each side, or its "working" size.

    Returns:
        (H, W) float32 in [0, 1].
    """
    if resolution == "working":
        return predict(model, image, model.preset.working_size)
    if resolution == "half":
        stride = model.preset.stride
        height, width = (
            max(stride, min(n // 2, MOST_OF_HALF_PX) // stride * stride) for n in image.shape[:2]
        )
        halved = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        return _run(model, halved, image)
    with torch.inference_mode():
        whole = as_tensor(image, next(model.parameters()).device)
        return matte_published(model, whole)[0, 0].cpu().numpy()


@torch.inference_mode()
def _run(model: StyleMatte, seen: NDArray[np.uint8], guide: NDArray[np.uint8]) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    return model(as_tensor(seen, device), as_tensor(guide, device)).alpha[0, 0].cpu().numpy()
