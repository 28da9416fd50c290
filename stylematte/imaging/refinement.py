"""Choose the tiles of an image to refine, and merge the refined alpha into the coarse one. Arrays only.

The refiner gets tiles of one size at the image's own scale. They cover the band of uncertain alpha, the most
uncertain first, up to a budget. If a cell of the coarse grid spans many pixels, a smaller image is refined
first, so that band and hair have the widths that the refiner was trained on; its result is the coarse alpha
of the next larger image. Outside the band, alpha does not change by a single bit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.errors import UsageError
from stylematte.imaging.geometry import ImageArray, Window, resize, to_dtype, to_float

AUTO_PX = 1_500_000  # tile pixels for one image
UNCERTAIN = (0.02, 0.98)
MOST_CELL_PX = 8.0  # largest cell of a coarse grid in the refiner's training
LEAST_RADIUS_PX, MOST_RADIUS_PX = 4, 12  # radius of the band around uncertain alpha
FADE_PX = 3  # width of the band's edge, which blends into the coarse alpha
MARGIN_PX, RAMP_PX = 12, 8  # on each side of a tile: its overlap, and the part of that used for blending
LEAST_DOUBT = 12.0  # smallest uncertainty of a tile worth refining, in pixels of alpha 0.5
BLOCK_PX = 128
SETTLED_PX = 2048  # side of the squares in which whole planes are computed

Plane = NDArray[np.float32]
Coarse = Callable[[ImageArray, Window | None], Plane]  # alpha of an image of any size, or of a window of it


class Tiles(NamedTuple):
    """The input of a refiner: the batch size and side of its tiles."""

    batch: int
    side_px: int


class Patch(NamedTuple):
    """A refined part of an image.

    Attributes:
        window: Rows and columns in the image.
        alpha: (h, w) float32, the refined alpha.
        share: (h, w) float32 in [0, 1], the weight of the refined alpha; 0 keeps the coarse alpha.
    """

    window: Window
    alpha: Plane
    share: Plane


Run = Callable[[Plane, Plane], Plane]  # (N, 3, t, t) RGB and (N, 1, t, t) coarse alpha → (N, 1, t, t) alpha


def parse_detail(text: str) -> float:
    """Parse the number of tile pixels for an image: `off`, `auto`, `max`, or megapixels.

    Raises:
        UsageError: The text is none of these.
    """
    named = {"off": 0.0, "auto": float(AUTO_PX), "max": math.inf}
    if text in named:
        return named[text]
    try:
        megapixels = float(text)
    except ValueError:
        megapixels = math.nan
    if not 0 < megapixels < math.inf:
        raise UsageError(f"detail {text!r} is not known", "Give auto, off, max, or megapixels such as 4")
    return megapixels * 1e6


def refine(
    image: ImageArray, coarse: Coarse, grid: tuple[int, int], run: Run, tiles: Tiles, budget_px: float
) -> list[Patch]:
    """Refine the uncertain band of an image.

    Args:
        image: (H, W, 3) RGB uint8, uint16, or float32 in [0, 1].
        coarse: Function that computes the coarse alpha.
        grid: (height, width) of the coefficients of the coarse alpha.
        run: The refiner.
        tiles: The refiner's input.
        budget_px: Largest number of tile pixels to refine.

    Returns:
        Patches that do not overlap; none if nothing is uncertain.
    """
    small = tuple(min(side, cells) for side, cells in zip(image.shape[:2], grid, strict=True))
    if budget_px < tiles.side_px**2 or not _is_uncertain(coarse(resize(image, small), None)).any():
        return []
    cell_px = max(side / cells for side, cells in zip(image.shape[:2], grid, strict=True))
    levels = max(0, math.ceil(math.log2(cell_px / MOST_CELL_PX)))
    before: _Level | None = None
    for step in range(levels, -1, -1):
        picture = image if step == 0 else resize(image, _halved(image.shape[:2], step))
        radius_px = round(cell_px / 2**step) if before is None else 2 * LEAST_RADIUS_PX
        level = _Level(picture, coarse, before, radius_px)
        if not (used_px := level.look(run, tiles, budget_px)) and before is not None:
            break  # larger images would cost even more
        budget_px -= used_px
        if step:
            level.settle()
            before = level
    if step:
        level = _Level(image, coarse, before, LEAST_RADIUS_PX)
    return level.patches()


def apply_patches(alpha: NDArray[Any], patches: Sequence[Patch]) -> NDArray[Any]:
    """Blend patches into a coarse alpha, (H, W) uint8, uint16 or float32, in place; return it."""
    for window, refined, share in patches:
        part = alpha[window]
        before = to_float(part)
        mixed = to_dtype(before + share * (refined - before), alpha.dtype)
        np.copyto(part, mixed, where=share > 0)
    return alpha


class _Level:
    """One level of the image pyramid.

    Args:
        image: (h, w, 3).
        coarse: Function that computes its coarse alpha.
        before: The next smaller level, already refined; None for the smallest.
        radius_px: Radius of the band around uncertain alpha.
    """

    def __init__(self, image: ImageArray, coarse: Coarse, before: "_Level | None", radius_px: int) -> None:
        self._image = image
        self._coarse = coarse
        self._before = before
        self._size = image.shape[:2]
        self._radius_px = min(MOST_RADIUS_PX, max(LEAST_RADIUS_PX, radius_px))
        # The band is found in the result of the smaller level, if there is one.
        self._scout_scale = 1 if before is None else max(1, round(self._size[0] / before._size[0]))
        self.alpha: Plane = coarse(image, None) if before is None else before.alpha
        self._band = band_of(self.alpha, self._radius_px // self._scout_scale, FADE_PX // self._scout_scale)
        self.touched: Plane = np.zeros((1, 1), np.float32)  # weight of refined alpha in `alpha`, once settled
        self._blocks: dict[tuple[int, int], tuple[Plane, Plane]] = {}  # sums of alpha · weight, and of weight

    def look(self, run: Run, tiles: Tiles, budget_px: float) -> int:
        """Run the refiner on the most uncertain tiles; return the number of their pixels.

        If there is a smaller level, a level is skipped if the budget covers less than half of its tiles:
        otherwise, some of a subject's hair would be sharper than the rest.
        """
        core_px = tiles.side_px - 2 * MARGIN_PX
        places = lay_tiles(self.alpha, self._band > 0, core_px // self._scout_scale)
        most = int(min(budget_px / tiles.side_px**2, len(places)))
        if self._before is not None and most < len(places) / 2:
            return 0
        weight = _weight(tiles.side_px)
        for first in range(0, most, tiles.batch):
            some = places[first : min(most, first + tiles.batch)]
            windows = [self._window(top, left, tiles.side_px) for top, left in some]
            inputs = [self._tile(window, tiles.side_px) for window in windows]
            images, alphas = (
                np.zeros((tiles.batch, c, tiles.side_px, tiles.side_px), np.float32) for c in (3, 1)
            )
            for k, (image, alpha) in enumerate(inputs):
                images[k], alphas[k, 0] = image, alpha
            refined = run(images, alphas)
            for window, alpha in zip(windows, refined[:, 0], strict=False):
                self._add(window, alpha, weight)
        return most * tiles.side_px**2

    def settle(self) -> None:
        """Compute the whole planes `alpha` and `touched`, which the next level reads."""
        if self._before is None:
            self.touched = np.zeros(self._size, np.float32)
        else:
            self.alpha, self.touched = (np.empty(self._size, np.float32) for _ in range(2))
            for window in _windows(self._size, SETTLED_PX):
                self.alpha[window], self.touched[window] = self._coarse_at(window), self._touched_at(window)
        for window, alpha, share in self._own_patches():
            self.alpha[window] += share * (alpha - self.alpha[window])
            self.touched[window] += share * (1 - self.touched[window])

    def patches(self) -> list[Patch]:
        """Return the patches for the coarse alpha: those of this level over those of the smaller ones."""
        own = list(self._own_patches())
        if self._before is None:
            return own
        by_place = {(patch.window[0].start, patch.window[1].start): patch for patch in own}
        result = []
        for window in _windows(self._size, BLOCK_PX):
            patch = by_place.get((window[0].start, window[1].start))
            if patch is None and not self._touched_below(window):
                continue
            touched, alpha = self._touched_at(window), self._up(self._before.alpha, window)
            if patch is None:
                result.append(Patch(window, alpha, touched))
                continue
            below: Plane = touched * (1 - patch.share)
            share: Plane = patch.share + below
            mixed = (patch.share * patch.alpha + below * alpha) / np.maximum(share, 1e-6)
            result.append(Patch(window, np.asarray(mixed, np.float32), share))
        return result

    def _own_patches(self) -> Iterator[Patch]:
        for (row, column), (total, weights) in self._blocks.items():
            window = _clipped(row * BLOCK_PX, column * BLOCK_PX, BLOCK_PX, self._size)
            inside = tuple(slice(0, s.stop - s.start) for s in window)
            total, weights = total[inside], weights[inside]
            band = self._band[window] if self._before is None else self._up(self._band, window)
            share = np.minimum(1, 2 * weights) * (band.astype(np.float32) / 255)
            alpha = np.asarray(total / np.maximum(weights, 1e-6), np.float32)
            yield Patch(window, alpha, np.asarray(share, np.float32))

    def _coarse_at(self, window: Window) -> Plane:
        """Return the coarse alpha: from the smaller level where that is refined, else from coefficients."""
        if self._before is None:
            return self.alpha[window]
        alpha = self._coarse(self._image, window)
        touched = self._touched_at(window)
        if touched.any():
            alpha = alpha + touched * (self._up(self._before.alpha, window) - alpha)
        return alpha

    def _touched_at(self, window: Window) -> Plane:
        assert self._before is not None
        return self._up(self._before.touched, window)

    def _touched_below(self, window: Window) -> bool:
        """Return whether the smaller level refined anything there."""
        assert self._before is not None
        part, _ = self._below(window, self._before.touched)
        return bool(part.any())

    def _up(self, smaller: NDArray[Any], window: Window) -> Plane:
        """Upsample a window of this level from an array of the smaller level."""
        part, (rows, columns) = self._below(window, smaller)
        values = part.astype(np.float32, copy=False)
        scale = smaller.shape[0] / self._size[0], smaller.shape[1] / self._size[1]
        return np.asarray(upsample(values, scale, window, (rows.start, columns.start)), np.float32)

    def _below(self, window: Window, smaller: NDArray[Any]) -> tuple[NDArray[Any], Window]:
        """Return the part of the smaller array that a window is interpolated from, and its position."""
        rows, columns = (
            slice(max(0, int(s.start * n / side) - 1), int(s.stop * n / side) + 2)
            for s, n, side in zip(window, smaller.shape, self._size, strict=True)
        )
        return smaller[rows, columns], (rows, columns)

    def _window(self, top: int, left: int, side: int) -> Window:
        """Return the window of a tile in pixels of this level; it may extend beyond the image."""
        top, left = (v * self._scout_scale - MARGIN_PX for v in (top, left))
        return slice(top, top + side), slice(left, left + side)

    def _tile(self, window: Window, side: int) -> tuple[Plane, Plane]:
        inside = _bounded(window, self._size)
        image = to_float(self._image[inside])
        alpha = self._coarse_at(inside)
        (above, below), (before, after) = (
            (i.start - w.start, w.stop - i.stop) for i, w in zip(inside, window, strict=True)
        )
        if above or below or before or after:
            edges = (above, below, before, after)
            image = np.asarray(cv2.copyMakeBorder(image, *edges, cv2.BORDER_REPLICATE), np.float32)
            alpha = np.asarray(cv2.copyMakeBorder(alpha, *edges, cv2.BORDER_REPLICATE), np.float32)
        return image.transpose(2, 0, 1), alpha

    def _add(self, window: Window, alpha: Plane, weight: Plane) -> None:
        inside = _bounded(window, self._size)
        rows, columns = inside
        for row in range(rows.start // BLOCK_PX, (rows.stop - 1) // BLOCK_PX + 1):
            for column in range(columns.start // BLOCK_PX, (columns.stop - 1) // BLOCK_PX + 1):
                zeros = (np.zeros((BLOCK_PX, BLOCK_PX), np.float32) for _ in range(2))
                if (row, column) not in self._blocks:
                    self._blocks[row, column] = (next(zeros), next(zeros))
                total, weights = self._blocks[row, column]
                y0, y1 = max(rows.start, row * BLOCK_PX), min(rows.stop, (row + 1) * BLOCK_PX)
                x0, x1 = max(columns.start, column * BLOCK_PX), min(columns.stop, (column + 1) * BLOCK_PX)
                block = (
                    slice(y0 - row * BLOCK_PX, y1 - row * BLOCK_PX),
                    slice(x0 - column * BLOCK_PX, x1 - column * BLOCK_PX),
                )
                tile = (
                    slice(y0 - window[0].start, y1 - window[0].start),
                    slice(x0 - window[1].start, x1 - window[1].start),
                )
                total[block] += alpha[tile] * weight[tile]
                weights[block] += weight[tile]


def band_of(alpha: Plane, radius_px: int, fade_px: int) -> NDArray[np.uint8]:
    """Find the band of uncertain alpha and its surroundings.

    Args:
        alpha: (h, w) in [0, 1].
        radius_px: Radius of the band; its neighbourhood is square.
        fade_px: Half-width of the blur that fades the band's edge to 0, within its radius.

    Returns:
        (h, w) uint8: 255 in the band, less towards its edge, 0 outside.
    """
    size = 2 * (radius_px - fade_px) + 1
    band = cv2.dilate(_is_uncertain(alpha), np.ones((size, size), np.uint8))
    return np.asarray(cv2.blur(band, (2 * fade_px + 1,) * 2), np.uint8)


def upsample(
    part: NDArray[Any], scale: tuple[float, float], window: Window, origin: tuple[int, int] = (0, 0)
) -> NDArray[Any]:
    """Compute a window of an array that is upsampled bilinearly.

    Args:
        part: (h, w) uint8 or float32, the array or the part of it that the window lies in.
        scale: Height and width of the array, divided by those of the result.
        window: Rows and columns of the result.
        origin: First row and column of the part in the array.

    Returns:
        The window, dtype of the part.
    """
    (rows, columns), (down, across) = window, scale
    matrix = np.array(
        [
            [across, 0, (columns.start + 0.5) * across - 0.5 - origin[1]],
            [0, down, (rows.start + 0.5) * down - 0.5 - origin[0]],
        ]
    )
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(part, matrix, shape, flags=how, borderMode=cv2.BORDER_REPLICATE)


def lay_tiles(alpha: Plane, band: NDArray[np.bool_], core_px: int) -> list[tuple[int, int]]:
    """Cover the band of an alpha with squares.

    The band is cut into strips of one square's height. In each, squares are placed from the left, each at the
    first column of the band that is not covered yet.

    Args:
        alpha: (h, w) in [0, 1].
        band: (h, w).
        core_px: Side of the squares.

    Returns:
        (top, left) of each, the most uncertain first; squares with almost no uncertain alpha are left out.
    """
    found: list[tuple[float, int, int]] = []
    rows = np.flatnonzero(band.any(1))
    top = int(rows[0]) if len(rows) else len(band)
    while top < len(band):
        strip = slice(top, top + core_px)
        columns = np.flatnonzero(band[strip].any(0))
        part = np.where(_is_uncertain(alpha[strip]), alpha[strip], 0)
        in_column = np.concatenate([[0], np.cumsum(4 * (part * (1 - part)).sum(0))])
        right = 0
        for left in columns.tolist():
            if left >= right:
                right = left + core_px
                amount = in_column[min(right, len(in_column) - 1)] - in_column[left]
                found.append((float(amount), top, left))
        later = rows[rows >= top + core_px]
        top = int(later[0]) if len(later) else len(band)
    found.sort(key=lambda square: -square[0])
    return [(top, left) for amount, top, left in found if amount >= LEAST_DOUBT]


def _is_uncertain(alpha: Plane) -> NDArray[np.uint8]:
    """Return 255 where alpha is uncertain, else 0."""
    return np.asarray(cv2.inRange(alpha, *UNCERTAIN), np.uint8)


def _halved(size: Sequence[int], times: int) -> tuple[int, int]:
    height, width = size[:2]
    return max(1, height >> times), max(1, width >> times)


def _weight(side: int) -> Plane:
    """Return blending weights (side, side): 1 inside, with a ramp to 0 that is centred on the core's edge."""
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    ramp = np.clip((distance - (MARGIN_PX - RAMP_PX / 2)) / RAMP_PX, 0, 1).astype(np.float32)
    return np.outer(ramp, ramp)


def _windows(size: Sequence[int], side: int) -> Iterator[Window]:
    """Yield the squares of a plane; those at its right and lower edges may be smaller."""
    for top, left in product(range(0, size[0], side), range(0, size[1], side)):
        yield _clipped(top, left, side, size)


def _clipped(top: int, left: int, side: int, size: Sequence[int]) -> Window:
    return slice(top, min(top + side, size[0])), slice(left, min(left + side, size[1]))


def _bounded(window: Sequence[slice], size: Sequence[int]) -> Window:
    rows, columns = (slice(max(0, s.start), min(s.stop, n)) for s, n in zip(window, size, strict=True))
    return rows, columns
