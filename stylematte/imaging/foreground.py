"""Estimate the subject's own colours, so that a cut-out has no halo of the old background."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte.imaging.geometry import ImageArray, resize, to_dtype, to_float

REGULARISER = 1e-5  # weight of the smoothness term where alpha is constant
ALPHA_WEIGHT = 0.1  # additional weight per unit of alpha difference between neighbours
COARSE_PX = 1 << 16  # pixels of the small copy that is solved as a whole
COARSE_SIDE = 4096  # upper limit of its sides, well within the limits of cv2.warpAffine
SMALL_SIDE, SMALL_ITERATIONS = 128, 10  # for small levels, where colours must propagate far
COARSE_ITERATIONS = 6
TILE = 128
CLEAR = 0.5 / 255  # alpha that rounds to 0 (or 1) in 8 bits counts as 0 (or 1)
OPAQUE = 1 - CLEAR

Planes = NDArray[np.float32]  # (..., height, width)


def estimate_foreground(image: ImageArray, alpha: NDArray[Any]) -> ImageArray:
    """Estimate the foreground colour of every pixel from image = α · F + (1 - α) · B.

    Foreground and background are solved coarse to fine on a small copy of the image and upsampled. The
    residual of the image equation then corrects each pixel, tile by tile, so little more memory is needed
    than for the result. Opaque pixels keep their exact colour; clear ones get that of the nearby subject.

    Args:
        image: (H, W, 3) RGB uint8, uint16, or float32 in [0, 1].
        alpha: (H, W) uint8, uint16, or float32 in [0, 1].

    Returns:
        (H, W, 3) un-premultiplied foreground, dtype of `image`.

    Reference:
        Germer, Uelwer, Conrad, Harmeling, "Fast Multi-Level Foreground Estimation", 2020, for the small copy,
        with Jacobi iterations, which NumPy vectorises over all pixels; Forte, "Approximate Fast Foreground
        Colour Estimation", 2021, for the correction.
    """
    height, width = image.shape[:2]
    scale = min(1.0, (COARSE_PX / (height * width)) ** 0.5)
    coarse_size = (
        min(COARSE_SIDE, max(1, round(height * scale))),
        min(COARSE_SIDE, max(1, round(width * scale))),
    )
    coarse_image, coarse_alpha = to_float(resize(image, coarse_size)), to_float(resize(alpha, coarse_size))
    spread = _spread_colours(coarse_image, coarse_alpha)
    coarse = [np.ascontiguousarray(planes.transpose(1, 2, 0)) for planes in spread]

    result = np.empty_like(image, order="C")
    for tile in _tiles(height, width):
        tile_alpha = to_float(alpha[tile])
        if tile_alpha.min() >= OPAQUE:
            result[tile] = image[tile]
            continue
        foreground = _lift(coarse[0], (height, width), tile)
        if tile_alpha.max() > CLEAR:
            background = _lift(coarse[1], (height, width), tile)
            opacity = cv2.merge([tile_alpha] * 3)
            # The share α of the residual I - α F - (1 - α) B belongs to the foreground.
            left_over = to_float(image[tile]) - background
            left_over -= opacity * (foreground - background)
            foreground += opacity * left_over
            np.clip(foreground, 0, 1, out=foreground)
        colours = to_dtype(foreground, image.dtype)
        opaque = (tile_alpha >= OPAQUE).view(np.uint8)
        result[tile] = cv2.copyTo(np.ascontiguousarray(image[tile]), opaque, colours)
    return result


def _spread_colours(image: NDArray[np.float32], alpha: NDArray[np.float32]) -> Planes:
    """Solve for foreground and background on a whole small image, coarse to fine.

    Args:
        image: (h, w, 3) float32.
        alpha: (h, w) float32.

    Returns:
        (2, 3, h, w): foreground, background.
    """
    sizes = [image.shape[:2]]
    while max(sizes[-1]) > 2:
        sizes.append((max(1, sizes[-1][0] // 2), max(1, sizes[-1][1] // 2)))
    colours: Planes | None = None
    for size in reversed(sizes):
        level_image = np.ascontiguousarray(resize(image, size).transpose(2, 0, 1))
        level_alpha = resize(alpha, size)
        if colours is None:
            colours = np.stack([level_image, level_image])
        else:
            smaller = colours.reshape(6, *colours.shape[2:])
            larger = [cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in smaller]
            colours = np.stack(larger).reshape(2, 3, *size)
        iterations = SMALL_ITERATIONS if max(size) <= SMALL_SIDE else COARSE_ITERATIONS
        colours = _relax(colours, level_image, level_alpha, iterations)
    assert colours is not None
    return colours


def _relax(colours: Planes, image: Planes, alpha: NDArray[np.float32], iterations: int) -> Planes:
    """Run Jacobi iterations of the smoothness term and the image equation.

    Neighbours have the more weight the more alpha differs between them: across an edge of the matte, the
    image tells least about either colour. For one pixel and the weighted means M of its neighbours, the
    paper's 2x2 system has the solution F = M_F + α r / d and B = M_B + (1 - α) r / d, with
    r = image - α M_F - (1 - α) M_B and d = α² + (1 - α)² + Σ weights.

    Args:
        colours: (2, 3, h, w): foreground, background; overwritten.
        image: (3, h, w).
        alpha: (h, w).
        iterations: Number of iterations.
    """
    edges = np.pad(alpha, 1, mode="edge")
    middle = slice(1, -1)
    shifts = [(slice(-2), middle), (slice(2, None), middle), (middle, slice(-2)), (middle, slice(2, None))]
    weights = np.stack([np.abs(alpha - edges[shift]) for shift in shifts])
    weights *= ALPHA_WEIGHT
    weights += REGULARISER
    total = weights.sum(axis=0)
    weights /= total
    shares = np.stack([alpha, 1 - alpha])
    steps = shares / (shares[0] * shares[0] + shares[1] * shares[1] + total)

    padded = np.empty((2, *edges.shape), np.float32)
    pair = np.empty_like(shares)
    product = np.empty_like(shares)
    for channel in range(3):  # one at a time, so that the working set stays in the cache
        pair[...] = colours[:, channel]
        for _ in range(iterations):
            padded[:, middle, middle] = pair
            padded[:, 0, middle], padded[:, -1, middle] = pair[:, 0], pair[:, -1]
            padded[:, middle, 0], padded[:, middle, -1] = pair[:, :, 0], pair[:, :, -1]
            np.multiply(weights[0], padded[(slice(None), *shifts[0])], out=pair)
            for weight, shift in zip(weights[1:], shifts[1:], strict=True):
                pair += np.multiply(weight, padded[(slice(None), *shift)], out=product)
            np.multiply(shares, pair, out=product)
            residual = image[channel] - product[0]
            residual -= product[1]
            pair += np.multiply(steps, residual, out=product)
            np.clip(pair, 0, 1, out=pair)
        colours[:, channel] = pair
    return colours


def _lift(
    coarse: NDArray[np.float32], size: tuple[int, int], tile: tuple[slice, slice]
) -> NDArray[np.float32]:
    """Upsample the part of the coarse colours that covers a tile, with pixel edges aligned as in cv2.resize.

    Args:
        coarse: Foreground or background, (h, w, 3).
        size: (height, width) of the full image.
        tile: Rows and columns of the full image.

    Returns:
        (rows, columns, 3).
    """
    rows, columns = tile
    scale_y, scale_x = coarse.shape[0] / size[0], coarse.shape[1] / size[1]
    inverse_map = np.array(
        [
            [scale_x, 0, (columns.start + 0.5) * scale_x - 0.5],
            [0, scale_y, (rows.start + 0.5) * scale_y - 0.5],
        ]
    )
    shape = columns.stop - columns.start, rows.stop - rows.start
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(coarse, inverse_map, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of the tiles of an image."""
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))
