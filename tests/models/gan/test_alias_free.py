"""Filters and filtered leaky ReLU against SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import signal, special

from models.gan.alias_free import FilteredLeakyReLU, lowpass_filter

DESIGNS = [(12, 2.0, 4.5, 32.0), (24, 5.0, 6.0, 64.0), (12, 128.0, 60.0, 512.0), (6, 8.0, 16.0, 32.0)]


@pytest.mark.parametrize("design", DESIGNS)
def test_design(design):
    taps, cutoff, width, rate = design
    expected = signal.firwin(taps, cutoff, width=width, fs=rate)
    assert np.allclose(lowpass_filter(*design).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
def test_radial_design(design):
    taps, cutoff, width, rate = design
    time = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.sqrt(time[:, None] ** 2 + time**2)
    window = signal.windows.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2))))
    jinc = special.j1(2 * math.pi * cutoff * radius) / radius
    expected = jinc * window * window[:, None]
    found = lowpass_filter(*design, radial=True).numpy()
    assert np.allclose(found, expected / expected.sum(), rtol=0, atol=1e-12)


def layer(up=2, down=2, size=26, out_size=24, radial=False, slope=0.2, gain=1.5, clamp=0.9):
    return FilteredLeakyReLU(
        lowpass_filter(6 * up, 3.0, 5.0, 32.0),
        lowpass_filter(6 * down, 4.0, 6.0, 32.0, radial),
        (up, down),
        (size, out_size),
        slope,
        gain,
        clamp,
    )


def reference(x: np.ndarray, up, down, size, out_size, radial, slope, gain, clamp) -> np.ndarray:
    """(h, h) float64 by full convolutions, cropped about the middle."""
    rise = lowpass_filter(6 * up, 3.0, 5.0, 32.0).numpy() * up
    for axis in (0, 1):
        x = signal.upfirdn(rise, x, up, axis=axis)
    x = x[: (size - 1) * up + len(rise), : (size - 1) * up + len(rise)]
    inner = (out_size - 1) * down + 6 * down
    lost = (len(x) - inner) // 2
    assert lost >= 0
    x = x[lost : lost + inner, lost : lost + inner]
    x = np.clip(np.where(x < 0, slope * x, x) * gain, -clamp, clamp)
    fall = lowpass_filter(6 * down, 4.0, 6.0, 32.0, radial).numpy()
    if radial:
        return signal.correlate2d(x, fall, "valid")[::down, ::down]
    for axis in (0, 1):
        x = signal.upfirdn(fall, x, axis=axis)
    return x[6 * down - 1 :: down, 6 * down - 1 :: down][:out_size, :out_size]


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize(
    ("up", "down", "size", "out_size"),
    [(2, 2, 26, 24), (4, 2, 18, 28), (2, 4, 40, 12), (2, 2, 70, 70), (8, 2, 12, 40)],
)
def test_against_scipy(up, down, size, out_size, radial):
    settings = {"slope": 0.2, "gain": 1.5, "clamp": 0.9}
    rng = np.random.default_rng(0)
    x = 2 * rng.standard_normal((2, 3, size, size))
    found = layer(up, down, size, out_size, radial, **settings)(torch.from_numpy(x).float()).double().numpy()
    for image, channel in np.ndindex(2, 3):
        expected = reference(x[image, channel], up, down, size, out_size, radial, **settings)
        assert np.abs(expected).max() > 0.4
        assert np.allclose(found[image, channel], expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize(("up", "down", "size", "out_size"), [(2, 2, 9, 8), (4, 2, 8, 10), (2, 4, 14, 5)])
def test_gradient(up, down, size, out_size, radial):
    torch.manual_seed(0)
    x = torch.randn(1, 2, size, size, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer(up, down, size, out_size, radial).double(), (x,))


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize(
    ("up", "down", "size", "out_size"), [(2, 2, 70, 70), (4, 2, 18, 28), (2, 4, 40, 12), (2, 4, 14, 5)]
)
def test_rows_and_matrices_agree(up, down, size, out_size, radial, monkeypatch):
    """What a CPU computes, and what a GPU computes, in chunks of seven of its ten images."""
    torch.manual_seed(0)
    module = layer(up, down, size, out_size, radial).double()
    x = torch.randn(2, 5, size, size, dtype=torch.double)
    outer = torch.randn(2, 5, out_size, out_size, dtype=torch.double)
    monkeypatch.setattr("models.gan.alias_free.GPU_BYTES", 7 * module.up.shape[0] ** 2 * 8)
    assert torch.allclose(module.by_rows(x), module.by_matrices(x), rtol=0, atol=1e-12)
    assert torch.allclose(module.by_rows(x, outer), module.by_matrices(x, outer), rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_channels_are_filtered_in_groups(threads, monkeypatch):
    torch.manual_seed(0)
    module = layer()
    x, outer = torch.randn(2, 21, 26, 26), torch.randn(2, 21, 24, 24)
    whole = module.by_rows(x), module.by_rows(x, outer)
    monkeypatch.setattr("models.gan.filtered_rows.CACHE_BYTES", 0)  # 8 channels a group, so 7, 7 and 7
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert torch.equal(module.by_rows(x), whole[0])
    assert torch.equal(module.by_rows(x, outer), whole[1])


def test_nan_is_kept():
    x = torch.zeros(1, 1, 26, 26)
    x[0, 0, 13, 13] = torch.nan
    found = layer().by_rows(x)
    assert found.isnan().any()
    assert not found.isnan().all()


def test_what_is_above_the_band_does_not_fold_into_it():
    """Leaky ReLU of a sine of 12 cycles: harmonics at 24, 48, 72 … cycles, the n-th of 1 / (n² − 1).

    At 64 samples the fourth, 48 cycles, folds to 16. At twice the rate the filter takes it away, and the
    twelfth is the first that folds there: 15 / 143 of it.
    """
    size, cycles = 64, 12.0
    t = (torch.arange(size) - (size - 1) / 2) / size
    x = torch.sin(2 * math.pi * cycles * t).expand(1, 1, size, size).contiguous()
    taps = lowpass_filter(12, 16.0, 32.0, 128.0)
    filtered = FilteredLeakyReLU(taps, taps, (2, 2), (size, size), 0.2, 1.0, 256.0)(x)
    plain = torch.nn.functional.leaky_relu(x, 0.2)
    window = torch.hann_window(size, periodic=False)
    spectra = [torch.fft.rfft(y[0, 0, size // 2] * window).abs() for y in (filtered, plain)]
    folded, plainly_folded = [(s[14:19].max() / s[12]).item() for s in spectra]
    assert plainly_folded > 0.03
    assert folded < plainly_folded * 1.2 * 15 / 143
