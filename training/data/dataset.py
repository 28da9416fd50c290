"""Training pictures, drawn one by one: choose a set, a sample, a view, a background, a light.

Sample i of a stage is always the same picture, whatever worker draws it: its randomness comes from (seed,
stage, i). That is what makes a resumed run continue exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from training.config import DataSet, Recipe
from training.data import augment
from training.data.pseudo_alpha import cached_paths
from training.data.readers import DataError, Sample, read_grey, read_rgb, read_set, split

Pixels = NDArray[np.uint8]
ASPECTS = (1.0, 0.75, 0.67, 1.33, 1.5, 0.56)  # width / height
STRIDE = 32


class View(NamedTuple):
    """What the network will see and should answer: picture (H, W, 3), alpha and weight (H, W), uint8."""

    picture: Pixels
    alpha: Pixels
    weight: Pixels


@dataclass
class Subject:
    """A picture with what is known of it, all (H, W[, 3]) uint8.

    Attributes:
        image: RGB photo, or foreground colours of a cut-out.
        alpha: Opacity, 255 = 1.
        weight: Belief in `alpha`, 255 = 1.
        foreground: Colours without the old background; None where the background cannot be exchanged.
        own_background: Whether `image` is a photo that stands by itself.
    """

    image: Pixels
    alpha: Pixels
    weight: Pixels
    foreground: Pixels | None
    own_background: bool


def read_subject(sample: Sample, data_set: DataSet, mattes: Path) -> Subject:
    """Read a sample with its prepared matte.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    if data_set.kind == "cutouts":
        rgba = cv2.imread(str(sample.image), cv2.IMREAD_UNCHANGED)
        if rgba is None or rgba.ndim != 3 or rgba.shape[2] != 4:
            raise DataError(f"{sample.image}: not an RGBA cut-out")
        foreground = np.ascontiguousarray(rgba[..., 2::-1], np.uint8)
        alpha = np.ascontiguousarray(rgba[..., 3], np.uint8)
        return Subject(foreground, alpha, np.full_like(alpha, 255), foreground, own_background=False)
    image = read_rgb(sample.image)
    if data_set.kind == "backgrounds":
        nothing = np.zeros(image.shape[:2], np.uint8)
        return Subject(image, nothing, np.full_like(nothing, 255), None, own_background=True)
    if data_set.kind == "unlabelled":
        nothing = np.zeros(image.shape[:2], np.uint8)
        return Subject(image, nothing, nothing, None, own_background=True)
    if data_set.kind == "mattes":
        alpha = read_grey(sample.labels["alpha"])
        _check_size(sample.labels["alpha"], alpha, image)
        return Subject(image, alpha, np.full_like(alpha, 255), image, own_background=True)
    if data_set.kind == "hair_only":
        # Surely foreground inside, unknown elsewhere: the map says nothing about the rest of the person.
        hair = read_grey(sample.labels["hair"])
        _check_size(sample.labels["hair"], hair, image)
        inside = np.where(cv2.erode(hair, np.ones((5, 5), np.uint8)) > 127, 255, 0).astype(np.uint8)
        return Subject(image, inside, inside, None, own_background=True)
    paths = cached_paths(sample, mattes)
    alpha, weight = read_grey(paths["alpha"]), read_grey(paths["weight"])
    _check_size(paths["alpha"], alpha, image)
    weight = (weight * data_set.belief).astype(np.uint8)
    # A subject with a part left out is no cut-out: on another background the slip would become a truth.
    is_whole = (weight == 0).mean() < 0.005
    is_complete = sample.image.stem not in data_set.incomplete
    colours = read_rgb(paths["foreground"]) if is_whole or not is_complete else None
    return Subject(image, alpha, weight, colours, own_background=is_complete)


def _check_size(path: Path, label: Pixels, image: Pixels) -> None:
    if label.shape != image.shape[:2]:
        raise DataError(f"{path}: size {label.shape}, its picture has {image.shape[:2]}")


class MattingDataset(Dataset[dict[str, torch.Tensor]]):
    """Endless training pictures of one stage.

    Items are dicts of float32 tensors: `image` (3, h, w) and `guide` (3, H, W) RGB in [0, 1], `alpha` and
    `weight` (1, H, W) in [0, 1]. All items of a batch have one size, drawn for the batch.
    """

    def __init__(self, root: Path, mattes: Path, recipe: Recipe, stage_number: int) -> None:
        self.mattes, self.stage = mattes, recipe.stages[stage_number]
        self.seed = (recipe.seed, stage_number)
        every = recipe.held_out_every
        self.sets = [(s, split(read_set(root, s.folder, s.layout), every)[0]) for s in recipe.sets]
        self.backgrounds = [x for s, samples in self.sets if s.kind == "backgrounds" for x in samples]
        for data_set, samples in self.sets:
            if not samples:
                raise DataError(
                    f"{root / data_set.folder}: every picture of it is held out, none is left to train on"
                )
            if data_set.kind == "hair_only" and "hair" not in samples[0].labels:
                raise DataError(f"{root / data_set.folder}: a set of kind hair_only needs a folder hair/")
        shares = np.array([self.stage.shares.get(s.folder, s.share) for s, _ in self.sets])
        self.shares = shares / shares.sum()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        cv2.setNumThreads(1)
        size = self._batch_size_px(index)
        scale = self.stage.guide_scale / STRIDE
        guide_size = (round(size[0] * scale) * STRIDE, round(size[1] * scale) * STRIDE)
        rng = np.random.default_rng((*self.seed, index))
        data_set, samples = self.sets[rng.choice(len(self.sets), p=self.shares)]
        subject = read_subject(samples[rng.integers(len(samples))], data_set, self.mattes)
        picture, alpha, weight = self._view(rng, subject, guide_size)
        guide = augment.random_camera(rng, augment.random_light(rng, picture))
        image = guide
        if guide_size != size:
            image = np.asarray(cv2.resize(guide, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        as_planes = {"image": image.transpose(2, 0, 1), "guide": guide.transpose(2, 0, 1)}
        as_planes |= {"alpha": alpha[None], "weight": weight[None]}
        return {k: torch.from_numpy(np.ascontiguousarray(v)).float().div_(255) for k, v in as_planes.items()}

    def _batch_size_px(self, index: int) -> tuple[int, int]:
        rng = np.random.default_rng((*self.seed, index // self.stage.batch_size, 1))
        side = rng.uniform(*self.stage.side)
        return shape_near(side, float(rng.choice(ASPECTS)))

    def _view(self, rng: np.random.Generator, subject: Subject, size: tuple[int, int]) -> View:
        source = subject.image.shape[:2]
        can_exchange = subject.foreground is not None and len(self.backgrounds) > 0
        stays = not can_exchange or rng.random() >= self.stage.composite
        if subject.own_background and stays:
            matrix = augment.random_view(rng, source, size)
            # Reflected at the border, picture and labels alike, so that they stay true to each other.
            parts = (subject.image, subject.alpha, subject.weight)
            return View(*(augment.warp(p, matrix, size, cv2.BORDER_REFLECT_101) for p in parts))
        background = self._background(rng, size)
        count = int(rng.integers(1, 4)) if min(source) < 150 else 1  # small cut-outs come in groups
        return compose(rng, subject, background, count)

    def _background(self, rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
        if not self.backgrounds:
            return np.full((*size, 3), rng.integers(0, 256, 3), np.uint8)
        photo = read_rgb(self.backgrounds[rng.integers(len(self.backgrounds))].image)
        background = augment.warp(
            photo, augment.random_view(rng, photo.shape[:2], size), size, cv2.BORDER_REFLECT_101
        )
        if rng.random() < 0.3:  # shallow depth of field
            background = np.asarray(cv2.GaussianBlur(background, (0, 0), rng.uniform(1, 6)), np.uint8)
        return augment.random_light(rng, background)


def compose(rng: np.random.Generator, subject: Subject, background: Pixels, count: int = 1) -> View:
    """Put a subject on a background, `count` times at different places.

    A subject that the photo's left, right or upper border cuts stays where it was: no straight cut shows.

    Returns:
        A view of the background's size.
    """
    assert subject.foreground is not None
    size = background.shape[:2]
    picture = background.astype(np.float32)
    alpha = np.zeros(size, np.float32)
    weight = np.ones(size, np.float32)
    source = subject.alpha.shape
    rows, columns = np.where(subject.alpha.max(1) > 10)[0], np.where(subject.alpha.max(0) > 10)[0]
    if not len(rows):
        return View(background, alpha.astype(np.uint8), np.full(size, 255, np.uint8))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    cut_off = box[0] == 0 or box[1] == 0 or box[3] == source[1]
    for _ in range(count):
        if cut_off:
            matrix = augment.random_view(rng, source, size)
            border = cv2.BORDER_REFLECT_101
        else:
            matrix = augment.place(rng, source, box, size, on_floor=box[2] == source[0])
            border = cv2.BORDER_CONSTANT
        colours = augment.warp(subject.foreground, matrix, size, cv2.BORDER_REFLECT_101)
        cover = augment.warp(subject.alpha, matrix, size, border) / np.float32(255)
        believed = augment.warp(255 - subject.weight, matrix, size, border) / np.float32(255)
        picture += cover[..., None] * (colours - picture)
        alpha += cover * (1 - alpha)
        weight = np.minimum(weight, 1 - believed)
    parts = (picture, alpha * 255, weight * 255)
    return View(*(np.clip(x + 0.5, 0, 255).astype(np.uint8) for x in parts))


def shape_near(side: float, aspect: float) -> tuple[int, int]:
    """(height, width), multiples of the stride, near `side`² pixels and near `aspect` = width / height."""
    height = max(1, round(side / np.sqrt(aspect) / STRIDE)) * STRIDE
    width = max(1, round(side * np.sqrt(aspect) / STRIDE)) * STRIDE
    return height, width


class Onwards(Sampler[list[int]]):
    """Batches of consecutive sample numbers from where a run stands to where its stage ends.

    A step's samples are dealt to its passes, one after another, and each pass's to the processes, in turn: so
    all processes together see what one alone would see.

    Args:
        start_step: First step.
        end_step: One beyond the last step.
        batch_size: Samples of one step, over all passes and processes.
        passes: How many batches make one step.
        processes: How many processes share a pass.
        process: Which of them this is.
    """

    def __init__(
        self,
        start_step: int,
        end_step: int,
        batch_size: int,
        passes: int = 1,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.start, self.end, self.batch_size = start_step, end_step, batch_size
        self.passes, self.processes, self.process = passes, processes, process

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the sample numbers of one pass after another."""
        size = self.batch_size // (self.passes * self.processes)
        for step in range(self.start, self.end):
            for number in range(self.passes):
                first = step * self.batch_size + (number * self.processes + self.process) * size
                yield list(range(first, first + size))

    def __len__(self) -> int:
        return (self.end - self.start) * self.passes
