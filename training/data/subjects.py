"""Read one sample from disk: its image, its alpha, and the confidence in that alpha."""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.config import LABEL_OF_KIND, DataSet, Recipe, Stage
from training.data.pseudo_alpha import cached_paths, prepare, prepare_foregrounds
from training.data.readers import (
    DataError,
    Sample,
    check_size,
    read_cutout,
    read_label,
    read_plane,
    read_rgb,
    read_set,
)

Pixels = NDArray[np.uint8]


@dataclass
class Subject:
    """An image with its labels, all (H, W[, 3]) uint8.

    Attributes:
        image: RGB photo, or foreground colours of a cut-out.
        alpha: Opacity, 255 = 1.
        weight: Confidence in `alpha`, 255 = 1.
        foreground: Returns the foreground colours, (H, W, 3) uint8; None if the background cannot be
            replaced.
        own_background: Whether `image` is a complete photo and can be used with its own background.
    """

    image: Pixels
    alpha: Pixels
    weight: Pixels
    foreground: Callable[[], Pixels] | None
    own_background: bool

    def colours(self) -> Pixels:
        """Return the foreground colours, computed on demand: most photos keep their own background.

        Raises:
            DataError: The file with the colours is missing or cannot be read.
        """
        assert self.foreground is not None
        return self.foreground()


def fused_colours(image: Pixels, alpha: Pixels) -> Pixels:
    """Estimate the foreground by blur fusion, in a few milliseconds.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8 opacity.

    Returns:
        (H, W, 3) uint8 RGB; the image itself where alpha is 255.

    Reference:
        Forte, "Approximate Fast Foreground Colour Estimation", 2021, one pass of its algorithm.
    """
    opacity = np.divide(alpha[..., None], 255, dtype=np.float32)
    reach = 2 * (max(alpha.shape) // 20) + 1

    def local_mean(share: NDArray[np.float32]) -> NDArray[np.float32]:
        blurred = cv2.blur(np.dstack([image * share, share]), (reach, reach))
        return np.asarray(blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-4), np.float32)

    foreground, background = local_mean(opacity), local_mean(1 - opacity)
    foreground += opacity * (image - opacity * foreground - (1 - opacity) * background)
    return np.where(opacity == 1, image, np.clip(foreground + 0.5, 0, 255)).astype(np.uint8)


def _prepared_colours(path: Path, image: Pixels) -> Pixels:
    if not path.exists():
        raise DataError(f"{path}: missing; foreground colours are prepared at the start of a run")
    colours = read_rgb(path)
    check_size(path, colours[..., 0], image)
    return colours


def read_data_set(root: Path, data_set: DataSet) -> list[Sample]:
    """List the samples of a recipe's set, without those that the recipe marks as wrong.

    Raises:
        DataError: See `read_set`; or the set lacks the labels that its kind needs, or all photos are wrong.
    """
    samples = read_set(root, data_set.folder, data_set.rules)
    if lack := missing_label(data_set, samples[0].labels):
        raise DataError(f"{root / data_set.folder}: {lack}")
    correct = [sample for sample in samples if sample.image.stem not in data_set.wrong]
    if not correct:
        raise DataError(f"{root / data_set.folder}: the recipe marks all of its photos as wrong")
    return correct


def missing_label(data_set: DataSet, labels: Collection[str]) -> str:
    """Describe the label that a set's kind needs but the set lacks; "" if nothing is missing."""
    needed = LABEL_OF_KIND.get(data_set.kind)
    if needed is None or needed in labels:
        return ""
    lack = f"a set of kind {data_set.kind} needs a folder {needed}/"
    if data_set.kind == "mattes" and "mask" in labels:
        lack += "; its mask/ is read as binary: use kind photos, or a layout in which mask/ is the alpha"
    elif data_set.kind == "photos" and "alpha" in labels:
        lack += "; it has alphas: use kind mattes"
    return lack


def needed_sets(recipe: Recipe, stage: Stage) -> list[DataSet]:
    """Return the sets that a stage reads: those it samples, and backgrounds if it replaces any."""
    drawn = {s.folder for s in recipe.sets if stage.shares.get(s.folder, s.share) > 0}
    subjects = [s for s in recipe.sets if s.folder in drawn]
    exchanges = max(stage.composite, stage.pairs) > 0 or any(
        s.kind == "cutouts" or s.incomplete for s in subjects
    )
    return [s for s in recipe.sets if s.folder in drawn or (exchanges and s.kind == "backgrounds")]


def prepare_set(recipe: Recipe, data_set: DataSet, samples: list[Sample], cache: Path, workers: int) -> int:
    """Prepare what a run needs besides a set's files: mattes from masks, colours for composites.

    Colours of true mattes are skipped if no stage puts them on another background: they take about a second
    per photo.

    Args:
        recipe: The run.
        data_set: One of its sets.
        samples: Samples of that set.
        cache: Folder of prepared files, see `training.data.pseudo_alpha`.
        workers: Processes.

    Returns:
        Number of prepared photos; existing files are kept.

    Raises:
        DataError: An image or label is missing or cannot be read, or their sizes differ.
    """
    if data_set.kind == "photos":
        return prepare(samples, data_set.band, cache, workers)
    drawing = [t for t in recipe.stages if t.shares.get(data_set.folder, data_set.share) > 0]
    exchanged = data_set.incomplete or any(max(stage.composite, stage.pairs) > 0 for stage in drawing)
    if data_set.kind == "mattes" and data_set.colours == "estimated" and drawing and exchanged:
        return prepare_foregrounds(samples, cache, workers)
    return 0


def read_subject(sample: Sample, data_set: DataSet, mattes: Path) -> Subject:
    """Read a sample with its prepared matte.

    Args:
        sample: Sample from `read_data_set`.
        data_set: Set of the sample.
        mattes: Folder of prepared files, see `training.data.pseudo_alpha`.

    Raises:
        DataError: A file is missing or cannot be read, or sizes differ.
    """
    if data_set.kind == "cutouts":
        return _read_cutout(sample)
    image = read_rgb(sample.image)
    if data_set.kind in ("backgrounds", "unlabelled"):
        # Backgrounds have no subject; the content of unlabelled photos is left to a teacher.
        nothing = np.zeros(image.shape[:2], np.uint8)
        confidence = 255 if data_set.kind == "backgrounds" else 0
        return Subject(image, nothing, np.full_like(nothing, confidence), None, own_background=True)
    if data_set.kind == "hair_only":
        # Foreground inside, unknown outside: the map does not cover the rest of the person.
        hair = read_label(sample.labels["hair"])
        check_size(sample.labels["hair"], hair, image)
        inside = np.where(cv2.erode(hair, np.ones((5, 5), np.uint8)) > 127, 255, 0).astype(np.uint8)
        return Subject(image, inside, inside, None, own_background=True)
    return _read_matte(sample, data_set, image, cached_paths(sample, mattes))


def _read_cutout(sample: Sample) -> Subject:
    if "alpha" in sample.labels:
        foreground, alpha = read_rgb(sample.image), read_label(sample.labels["alpha"])
        check_size(sample.labels["alpha"], alpha, foreground)
    else:
        rgba = read_cutout(sample.image)
        foreground, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    return Subject(foreground, alpha, np.full_like(alpha, 255), lambda: foreground, own_background=False)


def _read_matte(sample: Sample, data_set: DataSet, image: Pixels, cached: dict[str, Path]) -> Subject:
    if data_set.kind == "mattes":
        path, weight_path = sample.labels["alpha"], sample.labels.get("weight")
    else:
        path, weight_path = cached["alpha"], cached["weight"]
    # Alphas that we solved are read unchanged; other labels may need scaling to 0 and 255.
    alpha = read_label(path) if data_set.kind == "mattes" else read_plane(path)
    weight = np.full_like(alpha, 255) if weight_path is None else read_plane(weight_path)
    for label_path, label in ((path, alpha), (weight_path or path, weight)):
        check_size(label_path, label, image)
    colours: dict[str, Callable[[], Pixels]] = {
        "estimated": functools.partial(_prepared_colours, cached["foreground"], image),
        "fused": functools.partial(fused_colours, image, alpha),
        "raw": lambda: image,
    }
    # A subject with missing parts cannot be cut out: on another background its label error would be real.
    is_whole = weight_path is None or (weight == 0).mean() < 0.005
    is_complete = sample.image.stem not in data_set.incomplete
    foreground = colours[data_set.colours] if is_whole or not is_complete else None
    weight = (weight * data_set.belief).astype(np.uint8)
    return Subject(image, alpha, weight, foreground, own_background=is_complete)
