"""Match predicted alphas with true ones, and score each pair, for `stylematte evaluate`."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylematte.errors import InputError, StyleMatteError, UsageError
from stylematte_cli.commands.evaluate_clips import ClipResult, read_pairs

log = logging.getLogger("stylematte")

MAX_THREADS = 4  # each holds a few float copies of one image
MAX_NAMES = 20  # in one line of stderr; --json lists all of them


@dataclass(frozen=True)
class Pair:
    """Matching files; `name` is the path below the folders, without suffix."""

    name: str
    prediction: Path
    truth: Path
    trimap: Path | None = None


@dataclass(frozen=True)
class Matching:
    """Matches between two folders; names are relative paths without suffix."""

    pairs: list[Pair]
    without_prediction: list[str]
    without_truth: list[str]


@dataclass
class Result:
    """Result for one pair: scores by name, or an error; and warnings."""

    pair: Pair
    scores: dict[str, float]
    warnings: list[str]
    error: StyleMatteError | None = None


def match(prediction: Path, truth: Path, trimap: Path | None = None) -> Matching:
    """Match the files of two folders.

    Args:
        prediction: A file, or a folder, which is searched recursively.
        truth: A file or folder, like `prediction`.
        trimap: A file or folder; for two files it may also be a folder.

    Raises:
        UsageError: One is a file and the other a folder.
        InputError: A path does not exist, no names match, or a folder has two files of the same name.
    """
    for path in (prediction, truth, trimap):
        if path is not None and not path.exists():
            raise InputError(f"{path}: no such file or folder")
    if prediction.is_dir() != truth.is_dir():
        raise UsageError(
            f"{prediction} and {truth}: one is a folder and the other a file", "Give two files or two folders"
        )
    if not prediction.is_dir():
        if trimap is not None and trimap.is_dir():
            trimap = _trimap_of(truth.stem, trimap, _by_name(trimap))
        return Matching([Pair(truth.stem, prediction, truth, trimap)], [], [])
    if trimap is not None and not trimap.is_dir():
        raise UsageError(
            f"--trimap {trimap}: one file for two folders", "Give a folder of trimaps, or auto:R"
        )

    predictions, truths = _by_name(prediction), _by_name(truth)
    names = sorted(predictions.keys() & truths.keys())
    if not names:
        raise InputError(
            f"{prediction} and {truth}: no files in these folders have the same name",
            f"Found {len(predictions)} and {len(truths)} images; suffixes may differ, but names must match",
        )
    trimaps = {} if trimap is None else _by_name(trimap)
    pairs = [Pair(name, predictions[name], truths[name], trimaps.get(name)) for name in names]
    lacking = [pair.name for pair in pairs if trimap is not None and pair.trimap is None]
    if lacking:
        raise InputError(f"{trimap}: no trimap for {some_of(lacking)}")
    return Matching(pairs, sorted(truths.keys() - predictions), sorted(predictions.keys() - truths))


def score(pair: Pair, radius_px: int | None = None) -> Result:
    """Read and score one pair.

    Args:
        pair: The files.
        radius_px: Make the trimap from the true alpha with a band of this radius.

    Raises:
        InputError: A file cannot be read, or the sizes differ.
    """
    import numpy as np

    from stylematte.media.images import read_alpha
    from training import metrics

    warnings: list[str] = []
    prediction, truth = (_read_alpha(path, warnings) for path in (pair.prediction, pair.truth))
    _check_sizes(pair, "prediction", prediction, truth)
    trimap = None
    if radius_px is not None:
        trimap = metrics.trimap_from_alpha(truth, radius_px)
    elif pair.trimap is not None:
        trimap = (read_alpha(pair.trimap) * 255 + 0.5).astype(np.uint8)
        _check_sizes(pair, "trimap", trimap, truth)
        odd = sorted(set(np.unique(trimap).tolist()) - {0, 128, 255})
        if odd:
            values = ", ".join(map(str, odd[:5])) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
            warnings.append(
                f"{pair.trimap}: value {values} is counted as unknown; code that only looks for 128 would "
                "ignore it"
            )
    return Result(pair, metrics.measure(prediction, truth, trimap), warnings)


def _read_alpha(path: Path, warnings: list[str]) -> Any:
    """Read an alpha, and warn if the file does not look like one."""
    import numpy as np

    from stylematte.media.images import alpha_of, is_coloured, read_image

    photo = read_image(path, is_data=True)
    alpha = alpha_of(photo)
    if is_coloured(photo):
        warnings.append(f"{path}: a colour image, not an alpha; its red channel is scored")
    levels = np.iinfo(photo.pixels.dtype).max
    if alpha.any() and alpha.max() * levels < 1.5:
        warnings.append(f"{path}: a mask with values 0 and 1; it is scored as 0 and {levels}")
        alpha = alpha * np.float32(levels)
    return alpha


def score_all(pairs: list[Pair], radius_px: int | None) -> Iterator[Result]:
    """Score on several threads, results in the order of the pairs; OpenCV and NumPy release the GIL."""
    from stylematte.engines.base import usable_cores

    def attempt(pair: Pair) -> Result:
        try:
            return score(pair, radius_px)
        except StyleMatteError as error:
            return Result(pair, {}, [], error)

    from concurrent.futures import ThreadPoolExecutor  # slow to import, and no help needs it

    pool = ThreadPoolExecutor(min(MAX_THREADS, usable_cores()))
    try:
        yield from pool.map(attempt, pairs)
    finally:  # also after Ctrl-C: drop the waiting pairs
        pool.shutdown(cancel_futures=True)


def score_clip(
    prediction: Path, truth: Path, radius_px: int | None, clips: list[ClipResult]
) -> Iterator[Result]:
    """Score every frame of a clip, then add the clip itself to `clips`."""
    from training import metrics

    stability = metrics.ClipScores()
    for number, found, true in read_pairs(prediction, truth):
        pair = Pair(f"{truth.stem}.{number:04}", prediction, truth)
        _check_sizes(pair, "prediction", found, true)
        trimap = None if radius_px is None else metrics.trimap_from_alpha(true, radius_px)
        stability.add(found, true)
        yield Result(pair, metrics.measure(found, true, trimap), [])
    clips.append(ClipResult(truth.stem, stability.frames, stability.scores()))


def _by_name(folder: Path) -> dict[str, Path]:
    """Map relative paths without suffix to files; the folder is searched as by `stylematte matte`."""
    from stylematte.media.paths import walk

    found: dict[str, Path] = {}
    problems: list[tuple[Path, str]] = []
    for path in walk(folder, problems):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{found[name]} and {path}: two files have the same name", "Remove one of them")
        found[name] = path
    for path, reason in problems:
        log.warning("warning: %s: %s", path, reason)
    return found


def _trimap_of(name: str, folder: Path, trimaps: dict[str, Path]) -> Path:
    if name not in trimaps:
        raise InputError(f"{folder}: no trimap for {name}")
    return trimaps[name]


def _check_sizes(pair: Pair, what: str, array: Any, truth: Any) -> None:
    if array.shape != truth.shape:
        one, other = ("x".join(map(str, a.shape)) for a in (array, truth))
        raise InputError(
            f"{pair.name}: {what} is {one}, ground truth is {other} (height x width)",
            "Compute the alpha at the size of the photo; scores of resized alphas are not meaningful",
        )


def some_of(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
