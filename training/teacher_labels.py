"""Labels that models make of photos without any: once, kept as a data set, with how far they agree."""

import dataclasses
import hashlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import stylematte
from stylematte.engines.base import usable_cores
from stylematte.files import copy_file, sha256_of, write_bytes
from stylematte.imaging.geometry import convert
from stylematte.matter import Matter
from stylematte.media.images import encode_image, read_bytes, read_image
from training.config import DataSet, Recipe
from training.data.subjects import read_data_set

Alpha = NDArray[np.float32]
KEY_LETTERS = 10  # of a hash that tells sets of labels apart
NAME_LETTERS = 16  # of a photo's hash, in the name of its label
Progress = Callable[[Generator[tuple[int, int | None], None, None]], None]


@dataclass(frozen=True)
class Label:
    """What the teachers say of a photo, (H, W) float32 in [0, 1] each.

    Attributes:
        alpha: Their mean.
        confidence: 1 − the greatest difference between any two of them, or between one of them and itself on
            the mirror image.
    """

    alpha: Alpha
    confidence: Alpha


def label_photo(image: NDArray[np.uint8], teachers: Sequence[Matter]) -> Label:
    """Ask every teacher about a photo and its mirror image.

    Args:
        image: (H, W, 3) RGB.
        teachers: Models, one at least.
    """
    answers: list[Alpha] = []
    disagreement = np.zeros(image.shape[:2], np.float32)
    for teacher in teachers:
        seen = teacher(image).alpha
        mirrored = teacher(np.ascontiguousarray(image[:, ::-1])).alpha[:, ::-1]
        disagreement = np.maximum(disagreement, np.abs(seen - mirrored))
        answers.append(np.asarray((seen + mirrored) / 2, np.float32))
    for index, answer in enumerate(answers):
        for other in answers[:index]:
            disagreement = np.maximum(disagreement, np.abs(answer - other))
    return Label(np.mean(answers, axis=0, dtype=np.float32), 1 - disagreement)


def with_labels(
    recipe: Recipe, root: Path, teachers: Sequence[Path], cache: Path, device: str, progress: Progress
) -> Recipe:
    """Have models label the sets that have no labels; the recipe reads them as sets with mattes from then on.

    Photos that were labelled before by the same models are passed over, so the same command goes on.

    Args:
        recipe: What is to be trained.
        root: The data root.
        teachers: Model files.
        cache: Folder below which each set of labels has one of its own.
        device: As for `stylematte.load`.
        progress: Runs the work, and shows how far it is.

    Raises:
        InputError: A photo cannot be read; the models' files are damaged.
    """
    digests = [sha256_of(path) for path in teachers]
    key = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:KEY_LETTERS]
    by = "-".join(dict.fromkeys(path.stem for path in teachers))
    sets, renamed = [], {}
    for data_set in recipe.sets:
        if data_set.kind != "unlabelled":
            sets.append(data_set)
            continue
        named = "photos" if data_set.folder == "." else data_set.folder
        folder = f"labels/{by}-{key}/{named}"
        photos = [sample.image for sample in read_data_set(root, data_set)]
        progress(make_labels(photos, teachers, cache / folder, device))
        sets.append(_as_mattes(data_set, folder, cache / folder))
        renamed[data_set.folder] = folder
    stages = tuple(
        dataclasses.replace(
            stage, shares={renamed.get(name, name): share for name, share in stage.shares.items()}
        )
        for stage in recipe.stages
    )
    return dataclasses.replace(recipe, sets=tuple(sets), stages=stages)


def make_labels(
    photos: Sequence[Path], teachers: Sequence[Path], out: Path, device: str = "auto"
) -> Generator[tuple[int, int | None], None, None]:
    """Fill a folder with image/, alpha/ and weight/, as `layout = "plain"` reads it.

    A photo is linked to where the file system allows it, and copied elsewhere. Its name has the hash of its
    bytes, so a changed photo is labelled anew. The weight is written last: where it is, all is.

    Args:
        photos: Files.
        teachers: Model files, by which `out` is named.
        out: The folder.
        device: As for `stylematte.load`.

    Yields:
        How many photos are done, and how many there are.

    Raises:
        InputError: A photo cannot be read.
    """
    cores = usable_cores()
    matters: list[Matter] = []

    def make(photo: Path) -> None:
        name = f"{photo.stem}-{hashlib.sha256(read_bytes(photo)).hexdigest()[:NAME_LETTERS]}"
        paths = {part: out / part / f"{name}.png" for part in ("alpha", "weight")}
        image = out / "image" / f"{name}{photo.suffix.lower()}"
        if paths["weight"].is_file() and image.is_file():
            return
        label = label_photo(convert(read_image(photo).srgb, np.uint8), matters)
        copy_file(photo, image, may_link=True)
        for part, plane in (("alpha", label.alpha), ("weight", label.confidence)):
            write_bytes(paths[part], encode_image((plane * 255 + 0.5).astype(np.uint8), "png"))

    matters += [stylematte.load(path, device=device, lanes=cores) for path in teachers]
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(cores)
    try:
        jobs = [pool.submit(make, photo) for photo in photos]
        for done, job in enumerate(jobs, 1):
            job.result()
            yield done, len(jobs)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads_before)


def _as_mattes(data_set: DataSet, folder: str, place: Path) -> DataSet:
    return dataclasses.replace(
        data_set,
        folder=folder,
        kind="mattes",
        layout="plain",
        colours="fused",
        image=str((place / "image").resolve()),
        labels=str((place / "alpha").resolve()),
    )
