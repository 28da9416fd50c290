"""Low-pass filters, and a non-linearity that keeps to a signal's band: up, leaky ReLU, down.

Reference:
    Karras et al., "Alias-Free Generative Adversarial Networks", 2021, sections 2 and 3, appendix C.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

BLOCK = 24  # outputs of one matrix product: enough to be fast, few enough to skip most of a band's zeros
CACHE_BYTES = 4 << 20  # what is worked on at once on a processor stays near its cores
CARD_BYTES = 512 << 20  # on a card: few launches, yet no second copy of the whole batch


def lowpass_filter(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor:
    """Design a low-pass filter: a sinc, or the jinc of a disc in frequency, in a Kaiser window.

    Args:
        taps: Length; even for a radial filter.
        cutoff: Cutoff frequency, where the filter lets half of the amplitude through.
        width: Full width of the band between passing and stopping.
        rate: Sampling rate, in the unit of the two frequencies.
        radial: Make a filter that is the same in all directions.

    Returns:
        (taps,) float64, or (taps, taps) for a radial one; its sum is 1.

    Reference:
        Kaiser, "Nonrecursive digital filter design using the I0-sinh window function", 1974;
        Karras et al., 2021, eq. 4 to 7 and appendix C.
    """
    time = (np.arange(taps) - (taps - 1) / 2) / rate
    window = np.kaiser(taps, _kaiser_beta(2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95))
    if radial:
        radius = np.hypot(*np.meshgrid(time, time))
        design = _bessel_j1(2 * math.pi * cutoff * radius) / radius * np.outer(window, window)
    else:
        design = np.sinc(2 * cutoff * time) * window
    return torch.from_numpy(design / design.sum())


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """Bessel's integral, J1(x) = 1/π ∫ cos(τ − x·sin τ) dτ over half a turn; torch's own is off by 5e-7.

    The integrand is periodic, so the midpoint rule is exact to float64 for |x| well below the 512 points.
    """
    tau = (np.arange(512) + 0.5) * math.pi / 512
    return np.cos(tau - x[..., None] * np.sin(tau)).mean(-1)


def _kaiser_beta(attenuation_db: float) -> float:
    """Shape of the window for an attenuation; Kaiser's fit."""
    if attenuation_db > 50:
        return 0.1102 * (attenuation_db - 8.7)
    if attenuation_db > 21:
        return 0.5842 * (attenuation_db - 21) ** 0.4 + 0.07886 * (attenuation_db - 21)
    return 0.0


class Resampler(nn.Module):
    """A filter along one axis with a change of rate: y[j] = Σ x[k] · taps[k·up − j·down + offset].

    A matrix product of a short stretch of the input with one small matrix gives a block of outputs; that is
    many times as fast as a convolution of single channels, on processors above all. On a card one product
    with the whole matrix, zeros and all, is faster than the many launches of the blocks.
    """

    block: Tensor
    whole: Tensor

    def __init__(self, taps: Tensor, up: int, down: int, offset: int, length: int, size: int) -> None:
        """Lay out the matrix.

        Args:
            taps: (n,) float64.
            up: Factor by which the rate rises; with a `down` of 1.
            down: Factor by which it falls; with an `up` of 1.
            offset: Tap of the input's first sample in the first output.
            length: Of the input.
            size: Length of the output.
        """
        super().__init__()
        self.size = size
        self.count = -(-BLOCK // up) * up
        self.step = self.count * down // up  # how far the next block's inputs are from this one's
        first = -(offset // up)
        last = ((self.count - 1) * down - offset + len(taps) - 1) // up
        self.first = first

        def matrix(inputs: Tensor, outputs: int) -> Tensor:
            index = inputs * up - torch.arange(outputs)[:, None] * down + offset
            inside = (index >= 0) & (index < len(taps))
            return torch.where(inside, taps[index.clamp(0, len(taps) - 1)], 0.0).float()

        block, whole = matrix(torch.arange(first, last + 1), self.count), matrix(torch.arange(length), size)
        self.register_buffer("block", block, persistent=False)
        self.register_buffer("whole", whole, persistent=False)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """(h, B, w) → (h, B, size) for axis 2, (size, B, w) for axis 0."""
        return self.at_once(x, axis) if x.is_cuda else self.by_blocks(x, axis)

    def at_once(self, x: Tensor, axis: int) -> Tensor:
        """The same by one matrix product."""
        whole = self.whole.to(x.dtype)
        if axis == 0:
            return (whole @ x.flatten(1)).unflatten(1, x.shape[1:])
        return x @ whole.T

    def by_blocks(self, x: Tensor, axis: int) -> Tensor:
        """The same by one matrix product a block."""
        block = self.block.to(x.dtype)
        length = x.shape[axis]
        y = x.new_empty((self.size, *x.shape[1:]) if axis == 0 else (*x.shape[:2], self.size))
        for index, begin in enumerate(range(0, self.size, self.count)):
            count = min(self.count, self.size - begin)
            start = self.first + index * self.step
            low = min(max(start, 0), length)
            high = max(min(start + block.shape[1], length), low)
            part = block[:count, low - start : high - start]
            source, target = x.narrow(axis, low, high - low), y.narrow(axis, begin, count)
            if axis == 0:
                torch.mm(part, source.flatten(1), out=target.flatten(1))
            else:
                torch.mm(source.flatten(0, 1), part.T, out=target.flatten(0, 1))
        return y


class FilteredLeakyReLU(nn.Module):
    """Leaky ReLU at a higher rate, between filters that keep what it makes above the band from folding back.

    Nothing at the higher rate is kept for the backward pass, which works it out again. It cannot be
    differentiated twice.

    Reference:
        Karras et al., 2021, section 3.2 and figure 4b.
    """

    def __init__(
        self,
        up_filter: Tensor,
        down_filter: Tensor,
        factors: tuple[int, int],
        sizes: tuple[int, int],
        slope: float,
        gain: float,
        clamp: float,
    ) -> None:
        """Lay out both filters.

        Args:
            up_filter: (n,) float64, sum 1.
            down_filter: (m,), or (m, m) symmetric; float64, sum 1.
            factors: Rates go up by the first, down by the second.
            sizes: Side of the input, and of the output; their centres are one place.
            slope: Of the negative half.
            gain: Factor after the leaky ReLU.
            clamp: Greatest magnitude after the gain.
        """
        super().__init__()
        (up, down), (size, out_size) = factors, sizes
        n, m = len(up_filter), len(down_filter)
        inner = (out_size - 1) * down + m  # samples at the higher rate that the outputs need
        offset = ((out_size - 1) * down + n + m - 2 - (size - 1) * up) // 2
        self.slope, self.limit = slope, clamp / gain
        self.up = Resampler(up_filter * up, up, 1, offset, size, inner)
        self.up_transposed = Resampler(up_filter.flip(0) * up, 1, up, n - 1 - offset, inner, size)
        # The gain is the filter's, which saves a pass over the larger picture.
        parts = _separable(down_filter * gain if down_filter.ndim == 2 else down_filter * math.sqrt(gain))
        self.signs = [sign for sign, _ in parts]
        self.down = nn.ModuleList(Resampler(taps, 1, down, 0, inner, out_size) for _, taps in parts)
        self.down_transposed = nn.ModuleList(
            Resampler(taps.flip(0), down, 1, m - 1, out_size, inner) for _, taps in parts
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, h) → (N, C, H, H)."""
        return _Filtered.apply(x, self)

    def chunk(self, x: Tensor) -> int:
        """How many single-channel pictures to work on at once."""
        limit = CARD_BYTES if x.is_cuda else CACHE_BYTES
        return max(1, limit // (self.up.size**2 * x.element_size()))

    # Rows come first in what follows: filtering columns is then one product for all pictures, too.

    def rise(self, x: Tensor) -> Tensor:
        """(h, B, h) → (inner, B, inner), at the higher rate."""
        return self.up(self.up(x, 2), 0)

    def fall(self, u: Tensor) -> Tensor:
        """(inner, B, inner) → (H, B, H)."""
        return self._sum([down(down(u, 0), 2) for down in self.down])

    def fall_transposed(self, gradient: Tensor) -> Tensor:
        """(H, B, H) → (inner, B, inner)."""
        return self._sum([up(up(gradient, 2), 0) for up in self.down_transposed])

    def rise_transposed(self, gradient: Tensor) -> Tensor:
        """(inner, B, inner) → (h, B, h)."""
        return self.up_transposed(self.up_transposed(gradient, 0), 2)

    def _sum(self, parts: list[Tensor]) -> Tensor:
        total = parts[0] if self.signs[0] > 0 else -parts[0]
        for sign, part in zip(self.signs[1:], parts[1:], strict=True):
            total.add_(part, alpha=sign)
        return total


def _separable(taps: Tensor) -> list[tuple[int, Tensor]]:
    """Write a filter as a sum of ± v vᵀ, with v along columns and along rows.

    A radial filter is symmetric, so its eigenvectors do; most of its eigenvalues are 0, as it also mirrors
    into itself.
    """
    if taps.ndim == 1:
        return [(1, taps)]
    values, vectors = torch.linalg.eigh(taps)
    kept = [i for i in range(len(values)) if values[i].abs() > 1e-9 * values.abs().max()]
    return [(1 if values[i] > 0 else -1, vectors[:, i] * values[i].abs().sqrt()) for i in kept]


class _Filtered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FilteredLeakyReLU) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        parts = []
        for part in _chunks(x, layer):
            u = F.leaky_relu_(layer.rise(part), layer.slope)
            parts.append(layer.fall(u.clamp_(-layer.limit, layer.limit)))
        return _joined(parts, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        layer = ctx.layer
        low, high = -layer.limit / layer.slope, layer.limit  # where the clamp lets through
        parts = []
        for part, outer in zip(_chunks(x, layer), _chunks(gradient, layer), strict=True):
            u = layer.rise(part)
            inner = torch.ops.aten.leaky_relu_backward(layer.fall_transposed(outer), u, layer.slope, False)
            inner = torch.ops.aten.hardtanh_backward(inner, u, low, high)
            parts.append(layer.rise_transposed(inner))
        return _joined(parts, x), None


def _chunks(x: Tensor, layer: FilteredLeakyReLU) -> Iterator[Tensor]:
    """(N, C, h, h) → some (h, B, h)."""
    for part in x.flatten(0, 1).split(layer.chunk(x)):
        yield part.transpose(0, 1).contiguous()


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat([part.transpose(0, 1) for part in parts]).unflatten(0, like.shape[:2])
