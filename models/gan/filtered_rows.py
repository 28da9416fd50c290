"""The filtered leaky ReLU on a CPU, and its gradient, in one pass over rows.

Channels come last, so that every loop runs over adjacent values. A row at the higher sampling rate is kept
for the next few output rows and then overwritten, so this signal never leaves the processor's cache.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TAPS = 6  # taps per inner loop; a band is a multiple of it
CACHE_BYTES = 512 << 10  # rows kept at the higher rate

_U = np.uint64  # an unsigned index cannot count from the end, which would keep loops from being vectorised


class Band(NamedTuple):
    """The nonzero part of filter matrices: along one axis, y[j] = Σ weights[t, j, k] · x[first[j] + k].

    A filter of two axes is Σ signs[t] · (matrix t along both axes).

    Attributes:
        first: (size,) int64, in ascending order.
        weights: (terms, size, K), K a multiple of `TAPS`.
        signed: The same, times the term's sign; for one of the axes.
    """

    first: NDArray[np.int64]
    weights: NDArray[Any]
    signed: NDArray[Any]


def band_of(matrices: Tensor, signs: Sequence[int]) -> Band:
    """Return the band of matrices (terms, size, length), whose nonzero parts move right from row to row."""
    nonzero = (matrices != 0).any(0).numpy()
    length = nonzero.shape[1]
    first = np.maximum.accumulate(nonzero.argmax(1))  # a row of zeros has the place of the row before
    ends = np.where(nonzero.any(1), length - nonzero[:, ::-1].argmax(1), 0)
    width = -(-int((ends - first).max()) // TAPS) * TAPS
    first = np.minimum(first, max(0, length - width))
    padded = np.pad(matrices.numpy(), ((0, 0), (0, 0), (0, max(0, width - length))))
    weights = np.take_along_axis(padded, (first[:, None] + np.arange(width))[None], 2)
    return Band(first, weights, weights * np.array(signs, weights.dtype)[:, None, None])


def filtered_leaky_relu(
    x: Tensor, outer: Tensor | None, up: Band, outer_up: Band, down: Band, slope: float, limit: float
) -> Tensor:
    """Upsample both axes, apply the leaky ReLU, clamp and downsample both axes; or the gradient of all that.

    Args:
        x: (N, C, h, h) float32 or float64, on a CPU.
        outer: None; or the gradient for the output, (N, C, H, H), to get the gradient for x.
        up: From h to the higher rate; one term.
        outer_up: For the gradient: `down` of the forward pass, transposed. Unused without `outer`.
        down: From the higher rate to H; for the gradient, `up` of the forward pass, transposed.
        slope: Slope for negative values.
        limit: Greatest magnitude at the higher rate.

    Returns:
        (N, C, H, H), or the gradient (N, C, h, h); channels last in memory.
    """
    count, channels, side = x.shape[:3]
    inner, size = len(up.first), len(down.first)
    lines = up.weights.shape[2] + down.weights.shape[2]
    if outer is not None:
        lines += len(outer_up.weights) * outer_up.weights.shape[2]
    groups = -(-channels // max(8, CACHE_BYTES // (lines * inner * x.element_size())))
    out = x.new_empty((count, size, size, channels))
    flat = _flat(x)
    number = flat.dtype.type
    arguments = (
        flat,
        flat[:0] if outer is None else _flat(outer),
        (side, 0 if outer is None else outer.shape[2], channels, groups),
        up, outer_up, down, number(slope), number(limit), out.numpy().reshape(-1),
    )  # fmt: skip
    items = count * groups
    threads = max(1, min(torch.get_num_threads(), items))
    ends = [items * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(_filter, *arguments, *part) for part in pairwise(ends)]
    for part in parts:
        part.result()
    return out.permute(0, 3, 1, 2)


def _flat(x: Tensor) -> NDArray[Any]:
    """(N, C, h, h) → (N · h · h · C,), channels last."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy().reshape(-1)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Not the whole of fastmath: it assumes that there are no NaN, but a run that diverges has to see them.
    settings: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # no folder is writable: compile anew in every process
        return numba.njit(**settings)(function)


# A "line" is one row of pixels of some channels, channels last. Rings keep the last lines of a signal; they
# start as zeros, because images shorter than a filter never fill them.


@_compiled
def _after(row, period):
    return row + 1 if row + 1 < period else 0  # faster than a remainder


@_compiled
def _weighted(x, start, step, period, first, taps, y, into, count, add):
    """For i < count: y[into + i] = Σ taps[k] · x[start + (first + k) mod period · step + i]; or add to y."""
    to, end = _U(into), _U(count)
    row = first % period
    for k in range(0, len(taps), TAPS):
        r1 = _after(row, period)
        r2 = _after(r1, period)
        r3 = _after(r2, period)
        r4 = _after(r3, period)
        r5 = _after(r4, period)
        i0, i1, i2 = _U(start + row * step), _U(start + r1 * step), _U(start + r2 * step)
        i3, i4, i5 = _U(start + r3 * step), _U(start + r4 * step), _U(start + r5 * step)
        row = _after(r5, period)
        t0, t1, t2, t3, t4, t5 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3], taps[k + 4], taps[k + 5]
        if add or k > 0:
            for i in range(end):
                low = t0 * x[i0 + i] + t1 * x[i1 + i] + t2 * x[i2 + i]
                y[to + i] += low + (t3 * x[i3 + i] + t4 * x[i4 + i] + t5 * x[i5 + i])
        else:
            for i in range(end):
                low = t0 * x[i0 + i] + t1 * x[i1 + i] + t2 * x[i2 + i]
                y[to + i] = low + (t3 * x[i3 + i] + t4 * x[i4 + i] + t5 * x[i5 + i])


@_compiled
def _along(x, start, step, length, first, weights, y, into, out_step, count, add):
    """Filter one line of `length` pixels, `step` apart, to len(first) pixels that are `out_step` apart."""
    for i in range(len(first)):
        _weighted(x, start, step, length, first[i], weights[i], y, into + i * out_step, count, add)


@_compiled
def _filter(x, outer, sizes, up, outer_up, down, slope, limit, out, begin, end):
    """Filter the items `begin` to `end`; an item is a group of channels of an image.

    Without `outer`: forward. With it, backward: `outer_up` brings it to the higher rate, where it is
    multiplied by the derivative, and `down` brings it to the size of x.
    """
    side, outer_side, channels, groups = sizes
    backward = len(outer) > 0
    inner, size = len(up.first), len(down.first)
    reach, terms, outer_reach, down_reach = (
        up.weights.shape[2], outer_up.weights.shape[0], outer_up.weights.shape[2], down.weights.shape[2],
    )  # fmt: skip
    most = -(-channels // groups)
    wide = np.zeros(reach * inner * most, x.dtype)  # ring of input lines at the higher rate's width
    outer_wide = np.zeros(terms * outer_reach * inner * most if backward else 0, x.dtype)
    high = np.zeros(down_reach * inner * most, x.dtype)  # ring of lines at the higher rate
    gradient = np.empty(inner * most if backward else 0, x.dtype)
    column = np.empty(inner * most, x.dtype)
    for item in range(begin, end):
        image, left = item // groups, item % groups * most
        count = min(most, channels - left)
        line = inner * count
        made = outer_made = high_made = 0
        for j in range(size):
            while high_made < min(down.first[j] + down_reach, inner):
                while made < min(up.first[high_made] + reach, side):
                    start, into = (image * side + made) * side * channels + left, made % reach * line
                    _along(x, start, channels, side, up.first, up.weights[0], wide, into, count, count, False)
                    made += 1
                here = high_made % down_reach * line
                first, taps = up.first[high_made], up.weights[0, high_made]
                _weighted(wide, 0, line, reach, first, taps, high, here, line, False)
                if backward:
                    first = outer_up.first[high_made]
                    while outer_made < min(first + outer_reach, outer_side):
                        start = (image * outer_side + outer_made) * outer_side * channels + left
                        for t in range(terms):
                            into, taps = (
                                (t * outer_reach + outer_made % outer_reach) * line,
                                outer_up.signed[t],
                            )
                            _along(
                                outer, start, channels, outer_side, outer_up.first, taps,
                                outer_wide, into, count, count, False,
                            )  # fmt: skip
                        outer_made += 1
                    for t in range(terms):
                        start, taps = t * outer_reach * line, outer_up.weights[t, high_made]
                        _weighted(outer_wide, start, line, outer_reach, first, taps, gradient, 0, line, t > 0)
                    for i in range(_U(line)):
                        value = high[_U(here) + i]
                        given = gradient[i] if value > 0 else gradient[i] * slope
                        high[_U(here) + i] = 0 if value >= limit or value * slope <= -limit else given
                else:
                    for i in range(_U(here), _U(here + line)):
                        value = high[i]
                        value = value if value >= 0 else value * slope
                        value = limit if value > limit else value
                        high[i] = -limit if value < -limit else value
                high_made += 1
            into = (image * size + j) * size * channels + left
            for t in range(len(down.weights)):
                _weighted(
                    high, 0, line, down_reach, down.first[j], down.weights[t, j], column, 0, line, False
                )
                _along(column, 0, count, inner, down.first, down.signed[t], out, into, channels, count, t > 0)
