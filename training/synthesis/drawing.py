"""Pictures drawn from a generator: each depends on weights, seed and its number, on no other picture."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stylematte.errors import InputError

Pixels = NDArray[np.uint8]
Generator = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # noise, truncation and lookup as models.gan.generator has it

LEAST_TRUNCATION = 0.1  # nearer to 0 the generator draws the mean picture; ranges leave that out
NEAR_LEVELS = (
    3.0  # a near copy differs by less: root mean square over small copies; of 400 real faces no two by 17
)
SMALL_PX = 8
PROBE = 16
_WINDOW = 64
_MOST_COPIES = 0.75  # of the last pictures; beyond it the generator has no more to give
DIGITS = 8  # of a file's name


@dataclass(frozen=True)
class Plan:
    """What is drawn, but for the weights.

    Attributes:
        seed: Of everything random; any non-negative number.
        truncation: Least and greatest ψ; equal for a fixed one. A range leaves out |ψ| < 0.1.
        shift: Greatest shift along each axis, as a share of the picture's side.
        turn_deg: Greatest turn to either side, in degrees.

    Raises:
        InputError: ψ beyond 1, the wrong way round, or nothing left of its range; a negative or huge
            jitter.
    """

    seed: int = 0
    truncation: tuple[float, float] = (0.7, 0.7)
    shift: float = 0.0
    turn_deg: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        low, high = self.truncation
        named = f"truncation {low:g}" + (f":{high:g}" if high != low else "")
        if not -1 <= low <= high <= 1:  # also false for NaN
            raise InputError(f"{named}: from -1 to 1, the lesser number first")
        if low == high == 0:
            raise InputError(f"{named}: every picture would be the mean picture")
        if low != high and not self._parts():
            raise InputError(
                f"{named}: nothing is left of it, as a range leaves out what is within "
                f"{LEAST_TRUNCATION:g} of 0: the mean picture over and over"
            )
        if not (0 <= self.shift <= 0.5 and 0 <= self.turn_deg <= 180):
            raise InputError(
                f"jitter {self.shift:g}:{self.turn_deg:g}: a shift to 0.5, a turn to 180 degrees"
            )

    @property
    def has_jitter(self) -> bool:
        """Whether poses are changed."""
        return self.shift > 0 or self.turn_deg > 0

    def draft(self, index: int, z_dim: int) -> "Draft":
        """Everything random about one picture."""
        # One generator a picture, and always the same numbers from it: the noise does not depend on options.
        rng = np.random.default_rng((self.seed, index))
        noise = rng.standard_normal(z_dim, np.float32)
        truncation, x, y, turn = rng.random(4)
        x, y, turn = (2 * v - 1 for v in (x, y, turn))
        shift = (self.shift * x, self.shift * y)
        return Draft(index, noise, self._truncation_at(truncation), shift, self.turn_deg * turn)

    def _parts(self) -> list[tuple[float, float]]:
        low, high = self.truncation
        parts = [(low, min(high, -LEAST_TRUNCATION)), (max(low, LEAST_TRUNCATION), high)]
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
    """All that one picture is drawn from.

    Attributes:
        index: Its number.
        noise: (z_dim,) float32, standard normal.
        truncation: ψ.
        shift: To the right and down, as shares of the side.
        turn_deg: Clockwise.
    """

    index: int
    noise: NDArray[np.float32]
    truncation: float
    shift: tuple[float, float]
    turn_deg: float

    def lookup(self) -> NDArray[np.float32]:
        """(3, 3): where a place of the picture is looked up, the way back of the turn and then the shift."""
        angle = math.radians(self.turn_deg)
        cosine, sine = math.cos(angle), math.sin(angle)
        x, y = self.shift
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        back = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
        return (turn @ back).astype(np.float32)


@dataclass(frozen=True)
class Drawn:
    """A picture and what it was drawn from; `rgba` is (H, W, 4) uint8, straight."""

    draft: Draft
    rgba: Pixels


@torch.inference_mode()
def draw(
    generator: Generator, drafts: Sequence[Draft], device: str = "cpu", side_px: int | None = None
) -> list[Drawn]:
    """Draw pictures in one pass.

    A pass of another size may round differently: by one step of 8 bits, at few pixels.

    Args:
        generator: Makes (N, 4, H, W) in [-1, 1] of noise (N, z_dim), ψ (N,) and lookups (N, 3, 3).
        drafts: One or more.
        device: Where the generator is.
        side_px: Shrink to this; None keeps the generator's own size.
    """
    noise, lookups = (torch.from_numpy(np.stack(a)).to(device) for a in _columns(drafts))
    truncation = torch.tensor([d.truncation for d in drafts], dtype=torch.float32, device=device)
    pictures = generator(noise, truncation, lookups)
    levels = (pictures.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)  # [-1, 1], rounded
    rgba = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    if side_px is not None and side_px != rgba.shape[1]:
        shrunk = [cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA) for picture in rgba]
        rgba = np.stack(shrunk)
    return [Drawn(draft, picture) for draft, picture in zip(drafts, rgba, strict=True)]


def _columns(drafts: Sequence[Draft]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    return [d.noise for d in drafts], [d.lookup() for d in drafts]


def small_copy(rgba: Pixels) -> Pixels:
    """Shrink a cut-out, over grey, to (192,): what near copies are known by."""
    small = cv2.resize(rgba, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = small[..., 3:] / 255
    return np.round(small[..., :3] * alpha + 128 * (1 - alpha)).astype(np.uint8).reshape(-1)


class Gallery:
    """Small copies of the pictures kept, to refuse those that are there already."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self._copies = np.zeros((64, 3 * SMALL_PX**2), np.float32)
        self._squares = np.zeros(64, np.float32)

    def add(self, index: int, small: Pixels) -> None:
        """Keep a small copy."""
        count = len(self.indices)
        if count == len(self._copies):
            self._copies = np.concatenate([self._copies, np.zeros_like(self._copies)])
            self._squares = np.concatenate([self._squares, np.zeros_like(self._squares)])
        centred = small.astype(np.float32) - 128  # smaller numbers, so float32 is exact enough
        self._copies[count], self._squares[count] = centred, centred @ centred
        self.indices.append(index)

    def near(self, small: Pixels) -> int | None:
        """Number of a picture that this is a near copy of, if there is one."""
        count = len(self.indices)
        if not count:
            return None
        centred = small.astype(np.float32) - 128
        squares = self._squares[:count] - 2 * (self._copies[:count] @ centred) + centred @ centred
        nearest = int(squares.argmin())
        return self.indices[nearest] if squares[nearest] < NEAR_LEVELS**2 * len(small) else None


class Watch:
    """Stops a run that draws near copies alone.

    Args:
        plan: For the message.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.recent: list[bool] = []

    def saw(self, is_copy: bool) -> None:
        """Note one more picture.

        Raises:
            InputError: Most of the last ones were near copies of others.
        """
        self.recent = [*self.recent[1 - _WINDOW :], is_copy]
        if len(self.recent) >= PROBE and sum(self.recent) > _MOST_COPIES * len(self.recent):
            low, high = self.plan.truncation
            raise InputError(
                f"{sum(self.recent)} of the last {len(self.recent)} pictures were near copies of others: at "
                f"truncation {low:g}{f':{high:g}' if high != low else ''} this generator has no more to give"
            )


def check_variety(generator: Generator, plan: Plan, z_dim: int, batch_size: int, device: str = "cpu") -> None:
    """Look whether a plan with jitter draws more than one picture in many poses.

    Raises:
        InputError: It does not; see `Watch`.
    """
    plain = Plan(plan.seed, plan.truncation)
    watch, gallery = Watch(plain), Gallery()
    for first in range(0, PROBE, batch_size):
        drafts = [plain.draft(i, z_dim) for i in range(first, min(first + batch_size, PROBE))]
        for drawn in draw(generator, drafts, device):
            small = small_copy(drawn.rgba)
            is_copy = gallery.near(small) is not None
            watch.saw(is_copy)
            if not is_copy:
                gallery.add(drawn.draft.index, small)


def file_name(index: int) -> str:
    """What the file of a picture is called."""
    return f"{index:0{DIGITS}}.png"
