"""Low-pass filters, and an alias-free non-linearity: upsample, leaky ReLU, downsample.

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

BLOCK = 24  # outputs per matrix product: enough to be fast, few enough to skip most of the matrix's zeros
CACHE_BYTES = 4 << 20  # per chunk on a CPU, so that it stays in the cores' caches
GPU_BYTES = 512 << 20  # per chunk on a GPU: few kernel launches, but no second copy of the whole batch


def lowpass_filter(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor:
    """Design a low-pass filter: a sinc, or the jinc of a disc in frequency, in a Kaiser window.

    Args:
        taps: Length; even for a radial filter.
        cutoff: Cutoff frequency, where the filter passes half of the amplitude.
        width: Full width of the transition band.
        rate: Sampling rate, in the unit of the two frequencies.
        radial: Design a radially symmetric filter.

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
    """Bessel's integral, J1(x) = 1/π ∫ cos(τ − x·sin τ) dτ over [0, π]; torch's own J1 is off by 5e-7.

    The integrand is periodic, so the midpoint rule is exact to float64 for |x| well below the 512 points.
    """
    tau = (np.arange(512) + 0.5) * math.pi / 512
    return np.cos(tau - x[..., None] * np.sin(tau)).mean(-1)


def _kaiser_beta(attenuation_db: float) -> float:
    """Return the window's shape parameter for an attenuation, by Kaiser's formula."""
    if attenuation_db > 50:
        return 0.1102 * (attenuation_db - 8.7)
    if attenuation_db > 21:
        return 0.5842 * (attenuation_db - 21) ** 0.4 + 0.07886 * (attenuation_db - 21)
    return 0.0


class Resampler(nn.Module):
    """Filter along one axis and change the sampling rate: y[j] = Σ x[k] · taps[k·up − j·down + offset].

    On a CPU, multiplying short stretches of the input by one small matrix gives blocks of outputs, which is
    many times faster than convolving single channels. On a GPU, one product with the whole matrix, zeros
    included, is faster than many kernel launches for blocks.
    """

    block: Tensor
    whole: Tensor

    def __init__(self, taps: Tensor, up: int, down: int, offset: int, length: int, size: int) -> None:
        """Build the matrices.

        Args:
            taps: (n,) float64.
            up: Upsampling factor; `down` must be 1.
            down: Downsampling factor; `up` must be 1.
            offset: Tap that the first output applies to the first input sample.
            length: Length of the input.
            size: Length of the output.
        """
        super().__init__()
        self.size = size
        self.count = -(-BLOCK // up) * up
        self.step = self.count * down // up  # distance between the inputs of consecutive blocks
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
        """Same as `forward`, by one matrix product."""
        whole = self.whole.to(x.dtype)
        if axis == 0:
            return (whole @ x.flatten(1)).unflatten(1, x.shape[1:])
        return x @ whole.T

    def by_blocks(self, x: Tensor, axis: int) -> Tensor:
        """Same as `forward`, by one matrix product per block."""
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
    """Leaky ReLU at a higher sampling rate, between filters that prevent aliasing.

    The backward pass recomputes the signal at the higher rate instead of storing it. It cannot be
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
        """Build both filters.

        Args:
            up_filter: (n,) float64, sum 1.
            down_filter: (m,), or (m, m) symmetric; float64, sum 1.
            factors: Upsampling factor, downsampling factor.
            sizes: Side of the input, side of the output; both have the same centre.
            slope: Slope for negative inputs.
            gain: Factor applied after the leaky ReLU.
            clamp: Greatest magnitude after the gain.
        """
        super().__init__()
        (up, down), (size, out_size) = factors, sizes
        n, m = len(up_filter), len(down_filter)
        inner = (out_size - 1) * down + m  # samples that the outputs need at the higher rate
        offset = ((out_size - 1) * down + n + m - 2 - (size - 1) * up) // 2
        self.slope, self.limit = slope, clamp / gain
        self.up = Resampler(up_filter * up, up, 1, offset, size, inner)
        self.up_transposed = Resampler(up_filter.flip(0) * up, 1, up, n - 1 - offset, inner, size)
        # The filter includes the gain, which saves a pass over the larger image.
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
        """Return how many single-channel images to process at once."""
        limit = GPU_BYTES if x.is_cuda else CACHE_BYTES
        return max(1, limit // (self.up.size**2 * x.element_size()))

    # Rows come first below, so that filtering columns is also one matrix product for all images.

    def upsample(self, x: Tensor) -> Tensor:
        """(h, B, h) → (inner, B, inner): upsample."""
        return self.up(self.up(x, 2), 0)

    def downsample(self, u: Tensor) -> Tensor:
        """(inner, B, inner) → (H, B, H): downsample."""
        return self._sum([down(down(u, 0), 2) for down in self.down])

    def downsample_transposed(self, gradient: Tensor) -> Tensor:
        """(H, B, H) → (inner, B, inner)."""
        return self._sum([up(up(gradient, 2), 0) for up in self.down_transposed])

    def upsample_transposed(self, gradient: Tensor) -> Tensor:
        """(inner, B, inner) → (h, B, h)."""
        return self.up_transposed(self.up_transposed(gradient, 0), 2)

    def _sum(self, parts: list[Tensor]) -> Tensor:
        total = parts[0] if self.signs[0] > 0 else -parts[0]
        for sign, part in zip(self.signs[1:], parts[1:], strict=True):
            total.add_(part, alpha=sign)
        return total


def _separable(taps: Tensor) -> list[tuple[int, Tensor]]:
    """Decompose a filter into a sum of ± v vᵀ, so that each term filters columns, then rows.

    A radial filter is a symmetric matrix, so its eigenvectors give the terms. It is also mirror-symmetric,
    so at least half of its eigenvalues are 0.
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
            u = F.leaky_relu_(layer.upsample(part), layer.slope)
            parts.append(layer.downsample(u.clamp_(-layer.limit, layer.limit)))
        return _joined(parts, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        layer = ctx.layer
        low, high = -layer.limit / layer.slope, layer.limit  # range in which the clamp passes gradients
        parts = []
        for part, outer in zip(_chunks(x, layer), _chunks(gradient, layer), strict=True):
            u = layer.upsample(part)
            inner = torch.ops.aten.leaky_relu_backward(
                layer.downsample_transposed(outer), u, layer.slope, False
            )
            inner = torch.ops.aten.hardtanh_backward(inner, u, low, high)
            parts.append(layer.upsample_transposed(inner))
        return _joined(parts, x), None


def _chunks(x: Tensor, layer: FilteredLeakyReLU) -> Iterator[Tensor]:
    """(N, C, h, h) → several (h, B, h)."""
    for part in x.flatten(0, 1).split(layer.chunk(x)):
        yield part.transpose(0, 1).contiguous()


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat([part.transpose(0, 1) for part in parts]).unflatten(0, like.shape[:2])
