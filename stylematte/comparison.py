"""Compare models on the same photos: their agreement, their speed, and a contact sheet."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.errors import StyleMatteError
from stylematte.imaging.geometry import convert, resize
from stylematte.matter import Matter
from stylematte.media.images import read_image

Alpha = NDArray[np.uint8]
SOFT = (5, 250)  # 8-bit alpha between these is neither background nor subject
THUMB_PX = 240  # height of a cell of the sheet
WIDEST = 1.8  # largest width of a cell, as a multiple of its height
SQUARE_PX = 12
LIGHT, DARK = 225, 175  # greys of the checkerboard


@dataclass(frozen=True)
class Pair:
    """The agreement of two models on one photo.

    Attributes:
        iou: Intersection over union of the two subjects (alpha above a half); 1 if neither model finds one.
        mean_difference: Mean absolute difference of alpha over the photo.
        band_difference: The same, where either alpha is soft, dilated with a square of a hundredth of the
            longer side.
    """

    iou: float
    mean_difference: float
    band_difference: float


@dataclass
class Compared:
    """The results of all models on one photo.

    Attributes:
        photo: The file.
        seconds: Time of each model, from the decoded photo to the 8-bit alpha.
        pairs: Indices of two models → their agreement.
        cells: Thumbnails: the photo, and each model's subject over a checkerboard.
        error: Why it failed; None if it did not.
    """

    photo: Path
    seconds: list[float] = field(default_factory=list)
    pairs: dict[tuple[int, int], Pair] = field(default_factory=dict)
    cells: list[NDArray[np.uint8]] = field(default_factory=list)
    error: StyleMatteError | None = None

    @property
    def agreement(self) -> float:
        """The smallest IoU of two models."""
        return min((pair.iou for pair in self.pairs.values()), default=1.0)


def compare(photos: Sequence[Path], matters: Sequence[Matter]) -> Iterator[Compared]:
    """Matte photos with several models, one photo after the other.

    Args:
        photos: Files; one that cannot be read is yielded with its error.
        matters: The models, with one lane each.

    Raises:
        EngineError: A runtime failed.
    """
    for path in photos:
        result = Compared(path)
        try:
            pixels = convert(read_image(path).srgb, np.uint8)
        except StyleMatteError as error:
            result.error = error
            yield result
            continue
        alphas: list[Alpha] = []
        for matter in matters:
            started = time.perf_counter()
            alphas.append(np.asarray(matter(pixels).alpha_as(np.uint8), np.uint8))
            result.seconds.append(time.perf_counter() - started)
        for first, second in itertools.combinations(range(len(matters)), 2):
            result.pairs[first, second] = compare_alphas(alphas[first], alphas[second])
        small = _cell_size(*pixels.shape[:2])
        image = resize(pixels, small)
        result.cells = [image, *(_over_squares(image, resize(alpha, small)) for alpha in alphas)]
        yield result


def compare_alphas(first: Alpha, second: Alpha) -> Pair:
    """Measure the agreement of two 8-bit alphas."""
    a, b = first > 127, second > 127
    union = np.count_nonzero(a | b)
    difference = cv2.absdiff(first, second)
    soft = ((first > SOFT[0]) & (first < SOFT[1])) | ((second > SOFT[0]) & (second < SOFT[1]))
    side_px = max(3, round(max(first.shape) / 100))
    band = cv2.dilate(soft.astype(np.uint8), np.ones((side_px, side_px), np.uint8)) > 0
    return Pair(
        np.count_nonzero(a & b) / union if union else 1.0,
        float(difference.mean()) / 255,
        float(difference[band].mean()) / 255 if band.any() else 0.0,
    )


def summarise(results: Sequence[Compared], names: Sequence[str]) -> dict[str, Any]:
    """Summarise over photos: the median time of each model, and the mean measures of each pair."""
    done = [result for result in results if result.error is None]
    models = [
        {"name": name, "median_s": float(np.median([result.seconds[index] for result in done]))}
        for index, name in enumerate(names)
    ]
    pairs = []
    for first, second in itertools.combinations(range(len(names)), 2):
        measured = [result.pairs[first, second] for result in done]
        means = {
            key: float(np.mean([getattr(pair, key) for pair in measured])) for key in Pair.__annotations__
        }
        pairs.append({"first": names[first], "second": names[second], **means})
    photos = [
        {"photo": str(result.photo), "iou": result.agreement, "seconds": result.seconds} for result in done
    ]
    return {"models": models, "pairs": pairs, "photos": sorted(photos, key=lambda row: float(row["iou"]))}


def draw_sheet(results: Sequence[Compared], names: Sequence[str], most: int) -> NDArray[np.uint8]:
    """Draw photos and subjects side by side, with the least agreement first.

    Args:
        results: Results of `compare`.
        names: Names of the models.
        most: Largest number of rows.

    Returns:
        (H, W, 3) RGB.
    """
    done = sorted((result for result in results if result.error is None), key=lambda result: result.agreement)
    rows = [result.cells for result in done[:most]]
    width_px = max(cell.shape[1] for row in rows for cell in row)
    lines = [_titles(["photo", *names], width_px)]
    lines += [np.concatenate([_centred(cell, width_px) for cell in row], axis=1) for row in rows]
    return np.concatenate(lines)


def _cell_size(height: int, width: int) -> tuple[int, int]:
    scale = min(THUMB_PX / height, WIDEST * THUMB_PX / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _over_squares(image: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.uint8]:
    rows, columns = np.indices(alpha.shape) // SQUARE_PX
    ground = np.where((rows + columns) % 2, LIGHT, DARK).astype(np.float32)[..., None]
    opacity = alpha.astype(np.float32)[..., None] / 255
    return (image * opacity + ground * (1 - opacity) + 0.5).astype(np.uint8)


def _centred(cell: NDArray[np.uint8], width_px: int) -> NDArray[np.uint8]:
    height, width = cell.shape[:2]
    result = np.full((THUMB_PX + 4, width_px + 4, 3), 255, np.uint8)
    top, left = (THUMB_PX + 4 - height) // 2, (width_px + 4 - width) // 2
    result[top : top + height, left : left + width] = cell
    return result


def _titles(names: Sequence[str], width_px: int) -> NDArray[np.uint8]:
    cells = []
    for name in names:
        cell = np.full((28, width_px + 4, 3), 255, np.uint8)
        shown = name.encode("ascii", "replace").decode()[: math.floor(width_px / 9)]
        cv2.putText(cell, shown, (4, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
        cells.append(cell)
    return np.concatenate(cells, axis=1)
