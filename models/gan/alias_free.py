"""Low-pass filters, and an alias-free non-linearity: upsample, leaky ReLU, downsample.

Reference:
    Karras et al., "Alias-Free Generative Adversarial Networks", 2021, sections 2 and 3, appendix C.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

GPU_BYTES = 512 << 20  # per chunk: few kernel launches, but no second copy of the whole batch


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


def resampling_matrix(taps: Tensor, up: int, down: int, offset: int, length: int, size: int) -> Tensor:
    """Return the matrix of a filter that changes the rate: y[j] = Σ x[k] · taps[k·up − j·down + offset].

    Args:
        taps: (n,) float64.
        up: Upsampling factor; `down` must be 1.
        down: Downsampling factor; `up` must be 1.
        offset: Tap that the first output applies to the first input sample.
        length: Length of the input.
        size: Length of the output.

    Returns:
        (size, length) float32.
    """
    index = torch.arange(length) * up - torch.arange(size)[:, None] * down + offset
    inside = (index >= 0) & (index < len(taps))
    return torch.where(inside, taps[index.clamp(0, len(taps) - 1)], 0.0).float()


class FilteredLeakyReLU(nn.Module):
    """Leaky ReLU at a higher sampling rate, between filters that prevent aliasing.

    The backward pass recomputes the signal at the higher rate instead of storing it. It cannot be
    differentiated twice.

    Reference:
        Karras et al., 2021, section 3.2 and figure 4b.
    """

    up: Tensor
    down: Tensor

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
        up_matrix = resampling_matrix(up_filter * up, up, 1, offset, size, inner)
        # The filter includes the gain, which saves a pass over the larger image.
        parts = _separable(down_filter * gain if down_filter.ndim == 2 else down_filter * math.sqrt(gain))
        self.signs = [sign for sign, _ in parts]
        down_matrices = [resampling_matrix(taps, 1, down, 0, inner, out_size) for _, taps in parts]
        self.register_buffer("up", up_matrix, persistent=False)
        self.register_buffer("down", torch.stack(down_matrices), persistent=False)
        self._bands: dict[torch.dtype, list[Any]] = {}  # of both matrices, and of both transposed

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, h) → (N, C, H, H)."""
        return _Filtered.apply(x, self)

    def run(self, x: Tensor, outer: Tensor | None = None) -> Tensor:
        """Filter (N, C, h, h); with `outer`, (N, C, H, H), return the gradient for x."""
        return (self.by_matrices if x.is_cuda else self.by_rows)(x, outer)

    def by_rows(self, x: Tensor, outer: Tensor | None = None) -> Tensor:
        """Same as `run`, on a CPU."""
        from models.gan.filtered_rows import band_of, filtered_leaky_relu  # numba's import takes a second

        if x.dtype not in self._bands:
            up, down = self.up[None].to(x.dtype), self.down.to(x.dtype)
            pairs = (up, [1]), (down, self.signs), (down.mT, self.signs), (up.mT, [1])
            self._bands[x.dtype] = [band_of(*pair) for pair in pairs]
        up, down, down_transposed, up_transposed = self._bands[x.dtype]
        if outer is None:
            return filtered_leaky_relu(x, None, up, up, down, self.slope, self.limit)
        return filtered_leaky_relu(x, outer, up, down_transposed, up_transposed, self.slope, self.limit)

    def by_matrices(self, x: Tensor, outer: Tensor | None = None) -> Tensor:
        """Same as `run` on any device, by products with whole matrices.

        On a GPU, this is faster than many kernel launches that skip the zeros.
        """
        chunk = max(1, GPU_BYTES // (self.up.shape[0] ** 2 * x.element_size()))
        work = self._filter_whole if outer is None else self._differentiate_whole
        given = [t.flatten(0, 1).split(chunk) for t in (x, outer) if t is not None]
        results = [work(*map(_rows_first, parts)).transpose(0, 1) for parts in zip(*given, strict=True)]
        return torch.cat(results).unflatten(0, x.shape[:2])

    # Rows come first below, so that filtering columns is also one matrix product for all images.

    def _filter_whole(self, x: Tensor) -> Tensor:
        """(h, B, h) → (H, B, H)."""
        up = self.up.to(x.dtype)
        u = F.leaky_relu_(_both_axes(x, up), self.slope).clamp_(-self.limit, self.limit)
        return self._sum([_both_axes(u, down) for down in self.down.to(x.dtype)])

    def _differentiate_whole(self, x: Tensor, outer: Tensor) -> Tensor:
        """(h, B, h) and (H, B, H) → (h, B, h)."""
        up = self.up.to(x.dtype)
        u = _both_axes(x, up)
        inner = self._sum([_both_axes(outer, down.T) for down in self.down.to(x.dtype)])
        inner = torch.ops.aten.leaky_relu_backward(inner, u, self.slope, False)
        low, high = -self.limit / self.slope, self.limit  # range in which the clamp passes gradients
        return _both_axes(torch.ops.aten.hardtanh_backward(inner, u, low, high), up.T)

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
        return layer.run(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.layer.run(x, gradient), None


def _rows_first(x: Tensor) -> Tensor:
    """(B, h, h) → (h, B, h)."""
    return x.transpose(0, 1).contiguous()


def _both_axes(x: Tensor, matrix: Tensor) -> Tensor:
    """(h, B, h) → (H, B, H)."""
    x = x @ matrix.T
    return (matrix @ x.flatten(1)).unflatten(1, x.shape[1:])
