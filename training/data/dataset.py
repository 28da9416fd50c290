"""Training samples, drawn one by one: a set, a sample of it, a view, a background, a light.

Sample i of a stage is always the same, whichever worker draws it, because its random numbers depend only on
(seed, stage, i). A resumed run therefore continues exactly.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from training.config import Recipe
from training.data import augment, published_augment
from training.data.priors import draw_prior
from training.data.readers import DataError, read_rgb, split
from training.data.subjects import Pixels, Subject, needed_sets, read_data_set, read_subject

ASPECTS = (1.0, 0.75, 0.67, 1.33, 1.5, 0.56)  # width / height
# Few sizes, because a GPU takes seconds to select and compile kernels for each new size. With a new size in
# every step, an H100 took 4 to 18 s per step in bfloat16.
SIDES_PER_STAGE = 4
STRIDE = 32
# Fraction of pairs with a prior, in stages with priors: only with two subjects does the answer depend on it.
PRIOR_OF_PAIRS = 0.7


class View(NamedTuple):
    """A training sample: image (H, W, 3), target alpha and weight (H, W), uint8.

    `parts` are the foreground and background (H, W, 3) of a composite; they are unknown for a photo. With two
    subjects, `choices` are the alphas (H, W) of those that a prior may select.
    """

    image: Pixels
    alpha: Pixels
    weight: Pixels
    parts: tuple[Pixels, ...] = ()
    choices: tuple[Pixels, ...] = ()


class MattingDataset(Dataset[dict[str, torch.Tensor]]):
    """Endless training samples of one stage.

    Items are dicts of uint8 tensors, 255 = 1: `image` (3, h, w) and `guide` (3, H, W) RGB, `alpha` and
    `weight` (1, H, W). All items of a batch share one size, drawn per batch. A stage with priors adds `prior`
    (1, h, w), zero if an image has none. A stage with a composition loss adds `contrast` (3, H, W) float32 in
    [-1, 1]: foreground minus background of a composite, and 0 for pairs and for photos on their own
    background, whose foreground and background are unknown. With k priors per image, `prior` and `alpha` have
    k planes. `as_batch` converts the items to float.
    """

    def __init__(self, root: Path, mattes: Path, recipe: Recipe, stage_number: int) -> None:
        self.arguments = (root, mattes, recipe, stage_number)
        self.mattes, self.stage = mattes, recipe.stages[stage_number]
        self.seed = (recipe.seed, stage_number)
        every = recipe.held_out_every
        self.sets = [(s, split(read_data_set(root, s), every)[0]) for s in needed_sets(recipe, self.stage)]
        self.backgrounds = [x for s, samples in self.sets if s.kind == "backgrounds" for x in samples]
        for data_set, samples in self.sets:
            if not samples:
                raise DataError(
                    f"{root / data_set.folder}: all of its images are held out, so none are left to train on"
                )
        shares = np.array([self.stage.shares.get(s.folder, s.share) for s, _ in self.sets])
        self.shares = shares / shares.sum()
        self.has_contrast = "composition" in self.stage.fine

    def __reduce__(self) -> tuple[type["MattingDataset"], tuple[Path, Path, Recipe, int]]:
        # Workers list the folders themselves. A pickled list would exceed a pipe's buffer, so that each
        # worker would have to be running before the next one starts: eleven workers took over a minute.
        return MattingDataset, self.arguments

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        cv2.setNumThreads(1)
        size = self._batch_size_px(index)
        guide_size = scaled_near(size, self.stage.guide_scale)
        rng = np.random.default_rng((*self.seed, index))
        view = self._draw(rng, guide_size)
        guide, *parts = self._relight(rng, view)
        if self.stage.augmentation == "own":
            guide = augment.random_camera(rng, guide)
        item = {"image": _resized(guide, size), "guide": guide, "alpha": view.alpha, "weight": view.weight}
        if self.stage.prior:
            pairs = [self._prior(rng, view, size) for _ in range(self.stage.priors_per_image)]
            item |= {name: np.dstack([pair[name] for pair in pairs]) for name in ("prior", "alpha")}
        tensors = {name: _as_planes(pixels) for name, pixels in item.items()}
        if self.has_contrast:
            known = [_as_planes(part).float() / 255 for part in parts]
            tensors["contrast"] = known[0] - known[1] if known else torch.zeros(3, *guide_size)
        return tensors

    def _draw(self, rng: np.random.Generator, size: tuple[int, int]) -> View:
        if self.stage.pairs and rng.random() < self.stage.pairs:
            pair = [subject for subject in (self._whole_subject(rng), self._whole_subject(rng)) if subject]
            if len(pair) == 2:
                return compose_pair(rng, (pair[0], pair[1]), self._background(rng, size))
        subject = self._subject(rng)
        if self.stage.augmentation == "published":
            return self._published_view(rng, subject, size)
        return self._view(rng, subject, size)

    def _subject(self, rng: np.random.Generator) -> Subject:
        data_set, samples = self.sets[rng.choice(len(self.sets), p=self.shares)]
        return read_subject(samples[rng.integers(len(samples))], data_set, self.mattes)

    def _whole_subject(self, rng: np.random.Generator) -> Subject | None:
        """Return a subject with foreground colours that is cut off at most at the bottom."""
        for _ in range(6):
            subject = self._subject(rng)
            if subject.foreground is not None and subject.alpha.max() > 127 and not is_cut_off(subject.alpha):
                return subject
        return None

    def _prior(self, rng: np.random.Generator, view: View, size: tuple[int, int]) -> dict[str, Pixels]:
        """Return a prior, and the target alpha that matches it."""
        share = max(self.stage.prior, PRIOR_OF_PAIRS) if view.choices else self.stage.prior
        if rng.random() >= share:
            return {"prior": np.zeros(size, np.uint8), "alpha": view.alpha}
        target = view.choices[rng.integers(len(view.choices))] if view.choices else view.alpha
        prior, is_right = draw_prior(rng, _resized(target, size), _resized(view.alpha, size))
        return {"prior": prior, "alpha": target if is_right else view.alpha}

    def _relight(self, rng: np.random.Generator, view: View) -> list[Pixels]:
        """Change the light of the image, and equally of its parts if they are needed."""
        light = (
            published_augment.random_light if self.stage.augmentation == "published" else augment.random_light
        )
        if not self.has_contrast:
            return [light(rng, view.image)]
        # Changes of light are per pixel, so stacking the images vertically changes all of them equally.
        return np.split(light(rng, np.vstack([view.image, *view.parts])), 1 + len(view.parts))

    def _batch_size_px(self, index: int) -> tuple[int, int]:
        rng = np.random.default_rng((*self.seed, index // self.stage.batch_size, 1))
        side = float(rng.choice(np.linspace(*self.stage.side, SIDES_PER_STAGE)))
        square = self.stage.augmentation == "published"
        return shape_near(side, 1.0 if square else float(rng.choice(ASPECTS)))

    def _keeps_background(self, rng: np.random.Generator, subject: Subject) -> bool:
        """Tell whether a subject keeps its own background."""
        can_replace = subject.foreground is not None and len(self.backgrounds) > 0
        keeps = not can_replace or rng.random() >= self.stage.composite
        return subject.own_background and keeps

    def _view(self, rng: np.random.Generator, subject: Subject, size: tuple[int, int]) -> View:
        source = subject.image.shape[:2]
        if self._keeps_background(rng, subject):
            matrix = augment.random_view(rng, source, size)
            # Reflect image and labels alike at the border, so that they stay consistent.
            parts = (subject.image, subject.alpha, subject.weight)
            image, alpha, weight = (augment.warp(p, matrix, size, cv2.BORDER_REFLECT_101) for p in parts)
            return View(image, alpha, weight)
        background = self._background(rng, size)
        count = int(rng.integers(1, 4)) if min(source) < 150 else 1  # small cut-outs are placed several times
        return compose(rng, subject, background, count)

    def _published_view(self, rng: np.random.Generator, subject: Subject, size: tuple[int, int]) -> View:
        keeps_background = self._keeps_background(rng, subject)
        matrix = published_augment.random_view(rng, subject.image.shape[:2], size)
        colours = subject.image if keeps_background else subject.colours()
        front, alpha = (
            augment.warp(p, matrix, size, cv2.BORDER_REFLECT_101) for p in (colours, subject.alpha)
        )
        if subject.weight.min() == subject.weight.max():  # true mattes; saves a fifth of the time
            weight = np.full(size, subject.weight[0, 0])
        else:
            weight = augment.warp(subject.weight, matrix, size, cv2.BORDER_REFLECT_101)
        if keeps_background:
            return View(published_augment.random_blur(rng, front, 3), alpha, weight)
        front = published_augment.random_blur(rng, published_augment.random_clahe(rng, front), 3)
        if self.backgrounds:
            photo = read_rgb(self.backgrounds[rng.integers(len(self.backgrounds))].image)
            matrix = published_augment.random_view(rng, photo.shape[:2], size)
            back = augment.warp(photo, matrix, size, cv2.BORDER_REFLECT_101)
            back = published_augment.random_background_light(rng, back)
        else:
            back = _plain_colour(rng, size)
        cover = alpha[..., None] / np.float32(255)
        image = back + cover * (front - back.astype(np.float32))
        return View((image + 0.5).astype(np.uint8), alpha, weight, (front, back))

    def _background(self, rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
        if not self.backgrounds:
            return _plain_colour(rng, size)
        photo = read_rgb(self.backgrounds[rng.integers(len(self.backgrounds))].image)
        background = augment.warp(
            photo, augment.random_view(rng, photo.shape[:2], size), size, cv2.BORDER_REFLECT_101
        )
        if rng.random() < 0.3:  # shallow depth of field
            background = np.asarray(cv2.GaussianBlur(background, (0, 0), rng.uniform(1, 6)), np.uint8)
        return augment.random_light(rng, background)


class Layer(NamedTuple):
    """A subject at its place in an image.

    Attributes:
        colours: (H, W, 3) uint8 RGB.
        opacity: (H, W) float32.
        uncertainty: (H, W) float32, 0 where the opacity is certain.
    """

    colours: Pixels
    opacity: NDArray[np.float32]
    uncertainty: NDArray[np.float32]


def is_cut_off(alpha: Pixels) -> bool:
    """Tell whether the left, right or top border of an image cuts its subject."""
    return bool(max(alpha[0].max(), alpha[:, 0].max(), alpha[:, -1].max()) > 10)


def _layer(rng: np.random.Generator, subject: Subject, size: tuple[int, int]) -> Layer | None:
    """Place a subject; one that is cut off keeps its position, so that no straight edge is visible."""
    source = subject.alpha.shape
    rows, columns = np.where(subject.alpha.max(1) > 10)[0], np.where(subject.alpha.max(0) > 10)[0]
    if not len(rows):
        return None
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    if is_cut_off(subject.alpha):
        matrix, border = augment.random_view(rng, source, size), cv2.BORDER_REFLECT_101
    else:
        matrix = augment.place(rng, source, box, size, on_floor=box[2] == source[0])
        border = cv2.BORDER_CONSTANT
    colours = augment.warp(subject.colours(), matrix, size, cv2.BORDER_REFLECT_101)
    planes = (augment.warp(x, matrix, size, border) for x in (subject.alpha, 255 - subject.weight))
    return Layer(colours, *(np.divide(plane, 255, dtype=np.float32) for plane in planes))


def compose(rng: np.random.Generator, subject: Subject, background: Pixels, count: int = 1) -> View:
    """Composite a subject on a background, `count` times at different places.

    Returns:
        A view of the background's size.
    """
    size = background.shape[:2]
    image = background.astype(np.float32)
    alpha = np.zeros(size, np.float32)
    weight = np.ones(size, np.float32)
    colours = background
    for _ in range(count):
        layer = _layer(rng, subject, size)
        if layer is None:
            return View(background, alpha.astype(np.uint8), np.full(size, 255, np.uint8))
        image += layer.opacity[..., None] * (layer.colours - image)
        alpha += layer.opacity * (1 - alpha)
        weight = np.minimum(weight, 1 - layer.uncertainty)
        colours = layer.colours
    if count > 1:  # the mean of all layers, weighted by their visible opacity
        layers = (image - (1 - alpha[..., None]) * background) / np.maximum(alpha[..., None], 1e-3)
        colours = np.where(alpha[..., None] > 0.01, np.clip(layers + 0.5, 0, 255), colours).astype(np.uint8)
    planes = [_rounded(x) for x in (image, alpha * 255, weight * 255)]
    return View(planes[0], planes[1], planes[2], (colours, background))


def compose_pair(rng: np.random.Generator, subjects: tuple[Subject, Subject], background: Pixels) -> View:
    """Composite two subjects on a background.

    Returns:
        A view of the background's size. `choices` are the visible alphas of the subjects; one of which less
        than a fifth is visible is left out.
    """
    size = background.shape[:2]
    layers = [layer for layer in (_layer(rng, subject, size) for subject in subjects) if layer is not None]
    image = background.astype(np.float32)
    weight = np.ones(size, np.float32)
    visible: list[NDArray[np.float32]] = []
    for layer in layers:
        image += layer.opacity[..., None] * (layer.colours - image)
        weight = np.minimum(weight, 1 - layer.uncertainty)
        visible = [alpha * (1 - layer.opacity) for alpha in visible] + [layer.opacity]
    alpha = np.sum(visible, axis=0)
    choices = [x for x, layer in zip(visible, layers, strict=True) if x.sum() > 0.2 * layer.opacity.sum()]
    planes = [_rounded(x) for x in (image, alpha * 255, weight * 255)]
    selectable = tuple(_rounded(x * 255) for x in choices or [alpha])
    return View(planes[0], planes[1], planes[2], (), selectable)


def _rounded(x: NDArray[np.float32]) -> Pixels:
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _plain_colour(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    return np.full((*size, 3), rng.integers(0, 256, 3), np.uint8)


def _as_planes(pixels: Pixels) -> torch.Tensor:
    """(H, W[, C]) → (C, H, W), both uint8."""
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))


def as_batch(items: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move items to a device, then convert uint8 to float32 in [0, 1]: a quarter of the data to transfer."""
    batch = {}
    for name, item in items.items():
        item = item.to(device, memory_format=torch.channels_last, non_blocking=True)
        batch[name] = item.float().div_(255) if item.dtype == torch.uint8 else item
    return batch


def shape_near(side: float, aspect: float) -> tuple[int, int]:
    """Return (height, width), multiples of the stride, near `side`² pixels and `aspect` = width / height."""
    height = max(1, round(side / np.sqrt(aspect) / STRIDE)) * STRIDE
    width = max(1, round(side * np.sqrt(aspect) / STRIDE)) * STRIDE
    return height, width


def scaled_near(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (height, width), multiples of the stride, near `scale` times a size, with its aspect ratio.

    Each side is rounded down or up. Rounding them independently would stretch the image: 320×480 times 1.25
    would be 384×608, which is 5 % off; this returns 384×576.
    """
    sides = [{math.floor(n * scale / STRIDE), math.ceil(n * scale / STRIDE)} for n in size]
    choices = [(h * STRIDE, w * STRIDE) for h in sides[0] for w in sides[1] if h and w]

    def errors(choice: tuple[int, int]) -> tuple[float, float]:
        down, across = (math.log(n / (m * scale)) for n, m in zip(choice, size, strict=True))
        return round(abs(down - across), 9), abs(down + across)

    return min(choices, key=errors)


class ResumableBatchSampler(Sampler[list[int]]):
    """Batches of consecutive sample numbers, from a run's current step to the end of its stage.

    A step's samples are divided among its passes, and each pass's samples among the processes. All processes
    together therefore see the same samples as a single process would.

    Args:
        start_step: First step.
        end_step: One past the last step.
        batch_size: Samples per step, over all passes and processes.
        passes: Batches per step (gradient accumulation).
        processes: Number of processes.
        process: Index of this process.
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
