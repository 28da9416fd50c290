"""Generate images: each depends only on the weights, the seed and its number, not on other images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stylematte.errors import InputError

Pixels = NDArray[np.uint8]
# Noise, truncation and transform → images, see `models.gan.generator.Generator.forward`.
Generator = Callable[[Tensor, Tensor, Tensor], Tensor]

MIN_TRUNCATION = 0.1  # closer to 0 the generator gives the mean image; ranges exclude that
# Near duplicates differ by less (RMS between thumbnails); of 400 real faces no two differ by less than 17.
NEAR_LEVELS = 3.0
SMALL_PX = 8
PROBE = 16
_WINDOW = 64
_MAX_COPIES = 0.75  # fraction of the last images; above it the generator has no more variety
DIGITS = 8  # in file names


@dataclass(frozen=True)
class SamplingPlan:
    """What to generate, except for the weights.

    Attributes:
        seed: Random seed; any non-negative number.
        truncation: Minimum and maximum ψ; equal for a fixed ψ. A range excludes |ψ| < 0.1.
        shift: Maximum shift along each axis, as a fraction of the image side.
        turn_deg: Maximum rotation to either side, in degrees.

    Raises:
        InputError: ψ is outside of [-1, 1], in the wrong order, or its range is empty; or the jitter is
            negative or too large.
    """

    seed: int = 0
    truncation: tuple[float, float] = (0.7, 0.7)
    shift: float = 0.0
    turn_deg: float = 0.0

    def __post_init__(self) -> None:
        """Reject invalid values."""
        low, high = self.truncation
        named = f"truncation {low:g}" + (f":{high:g}" if high != low else "")
        if not -1 <= low <= high <= 1:  # also false for NaN
            raise InputError(f"{named}: give values from -1 to 1, the smaller one first")
        if low == high == 0:
            raise InputError(f"{named}: every image would be the mean image")
        if low != high and not self._parts():
            raise InputError(
                f"{named}: this range is empty, because values within {MIN_TRUNCATION:g} of 0 are excluded: "
                "they give the mean image"
            )
        if not (0 <= self.shift <= 0.5 and 0 <= self.turn_deg <= 180):
            raise InputError(
                f"jitter {self.shift:g}:{self.turn_deg:g}: the shift may be up to 0.5, the turn up to 180 "
                "degrees"
            )

    @property
    def has_jitter(self) -> bool:
        """Whether images are shifted or rotated."""
        return self.shift > 0 or self.turn_deg > 0

    def draft(self, index: int, z_dim: int) -> "Draft":
        """Return the random inputs of one image."""
        # One random generator per image, always used in the same order: noise does not depend on options.
        rng = np.random.default_rng((self.seed, index))
        noise = rng.standard_normal(z_dim, np.float32)
        truncation, x, y, turn = rng.random(4)
        x, y, turn = (2 * v - 1 for v in (x, y, turn))
        shift = (self.shift * x, self.shift * y)
        return Draft(index, noise, self._truncation_at(truncation), shift, self.turn_deg * turn)

    def _parts(self) -> list[tuple[float, float]]:
        low, high = self.truncation
        parts = [(low, min(high, -MIN_TRUNCATION)), (max(low, MIN_TRUNCATION), high)]
        return [(a, b) for a, b in parts if a < b]

    def _truncation_at(self, share: float) -> float:
        low, high = self.truncation
        if low == high:
            return low
        place = share * sum(b - a for a, b in self._parts())
        for a, b in self._parts():
            if place <= b - a:
                return a + place
            place -= b - a
        return high


@dataclass(frozen=True)
class Draft:
    """The inputs of one image.

    Attributes:
        index: Its number.
        noise: (z_dim,) float32, standard normal.
        truncation: ψ.
        shift: Shift to the right and down, as fractions of the side.
        turn_deg: Clockwise rotation, in degrees.
    """

    index: int
    noise: NDArray[np.float32]
    truncation: float
    shift: tuple[float, float]
    turn_deg: float

    def lookup(self) -> NDArray[np.float32]:
        """Return the (3, 3) transform from image to input coordinates: inverse rotation, then shift."""
        angle = math.radians(self.turn_deg)
        cosine, sine = math.cos(angle), math.sin(angle)
        x, y = self.shift
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        back = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
        return (turn @ back).astype(np.float32)


@dataclass(frozen=True)
class GeneratedImage:
    """An image and its inputs; `rgba` is (H, W, 4) uint8 with straight alpha."""

    draft: Draft
    rgba: Pixels


@torch.inference_mode()
def generate(
    generator: Generator, drafts: Sequence[Draft], device: str = "cpu", side_px: int | None = None
) -> list[GeneratedImage]:
    """Generate images in one pass.

    A pass of another batch size may round differently, by one 8-bit step at a few pixels.

    Args:
        generator: Makes (N, 4, H, W) in [-1, 1] from noise (N, z_dim), ψ (N,) and transforms (N, 3, 3).
        drafts: One or more.
        device: Device of the generator.
        side_px: Downsample to this side; None keeps the generator's size.
    """
    noise, lookups = (torch.from_numpy(np.stack(a)).to(device) for a in _columns(drafts))
    truncation = torch.tensor([d.truncation for d in drafts], dtype=torch.float32, device=device)
    images = generator(noise, truncation, lookups)
    levels = (images.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)  # [-1, 1], rounded
    rgba = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    if side_px is not None and side_px != rgba.shape[1]:
        shrunk = [cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA) for image in rgba]
        rgba = np.stack(shrunk)
    return [GeneratedImage(draft, image) for draft, image in zip(drafts, rgba, strict=True)]


def _columns(drafts: Sequence[Draft]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    return [d.noise for d in drafts], [d.lookup() for d in drafts]


def small_copy(rgba: Pixels) -> Pixels:
    """Return a thumbnail of a cut-out over grey, (192,), to detect near duplicates."""
    small = cv2.resize(rgba, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = small[..., 3:] / 255
    return np.round(small[..., :3] * alpha + 128 * (1 - alpha)).astype(np.uint8).reshape(-1)


class Gallery:
    """Thumbnails of the kept images, to reject near duplicates.

    Near duplicates have similar mean colours, so each image is only compared with those in neighbouring cells
    of a grid of mean colours.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[int, ...], list[tuple[int, NDArray[np.int16]]]] = {}

    def add(self, index: int, small: Pixels) -> None:
        """Add a thumbnail."""
        self._cells.setdefault(_cell(small), []).append((index, small.astype(np.int16)))

    def near(self, small: Pixels) -> int | None:
        """Return the number of an image that this is a near duplicate of, or None."""
        own = _cell(small)
        cells = (tuple(map(sum, zip(own, step, strict=True))) for step in product((-1, 0, 1), repeat=3))
        found = [entry for cell in cells for entry in self._cells.get(cell, ())]
        if not found:
            return None
        differences = np.stack([other for _, other in found]) - small.astype(np.int16)
        squares = np.square(differences, dtype=np.int32).sum(1)
        nearest = int(squares.argmin())
        return found[nearest][0] if squares[nearest] < NEAR_LEVELS**2 * len(small) else None


def _cell(small: Pixels) -> tuple[int, ...]:
    # If the RMS difference of all values is below NEAR_LEVELS, that of one channel in three is below √3 times
    # that, and so is the difference of its means: near duplicates are in the same cell or in adjacent ones.
    means = small.reshape(-1, 3).mean(0)
    return tuple(int(x) for x in means // (NEAR_LEVELS * math.sqrt(3)))


class CopyMonitor:
    """Stops a run that generates mostly near duplicates.

    Args:
        plan: Plan of the run, for the message.
    """

    def __init__(self, plan: SamplingPlan) -> None:
        self.plan = plan
        self.recent: list[bool] = []

    def record(self, is_copy: bool) -> None:
        """Record an image.

        Raises:
            InputError: Most of the last images were near duplicates.
        """
        self.recent = [*self.recent[1 - _WINDOW :], is_copy]
        if len(self.recent) >= PROBE and sum(self.recent) > _MAX_COPIES * len(self.recent):
            low, high = self.plan.truncation
            raise InputError(
                f"{sum(self.recent)} of the last {len(self.recent)} images were near copies of others: at "
                f"truncation {low:g}{f':{high:g}' if high != low else ''} this generator has no more variety"
            )


def check_variety(
    generator: Generator, plan: SamplingPlan, z_dim: int, batch_size: int, device: str = "cpu"
) -> None:
    """Check that a plan with jitter generates more than one image in many poses.

    Raises:
        InputError: It does not; see `CopyMonitor`.
    """
    plain = SamplingPlan(plan.seed, plan.truncation)
    monitor, gallery = CopyMonitor(plain), Gallery()
    for first in range(0, PROBE, batch_size):
        drafts = [plain.draft(i, z_dim) for i in range(first, min(first + batch_size, PROBE))]
        for drawn in generate(generator, drafts, device):
            small = small_copy(drawn.rgba)
            is_copy = gallery.near(small) is not None
            monitor.record(is_copy)
            if not is_copy:
                gallery.add(drawn.draft.index, small)


def file_name(index: int) -> str:
    """Return the file name of an image."""
    return f"{index:0{DIGITS}}.png"
