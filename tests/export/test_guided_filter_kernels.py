"""The CUDA kernels, compiled for this CPU, against the float64 NumPy version."""

import ctypes
from itertools import product

import numpy as np
import pytest

from models.stylematte import MEAN, STD
from stylematte.engines.guided_filter.kernels import LAYOUTS, ApplyKernel, CoefficientsKernel, Grey
from stylematte.errors import InputError
from tests.export.host_kernels import HostKernels, require_compiler
from tests.models.references import guided_coefficients, sigmoid, upsample

EPS = 1e-2
RADII = range(1, 17)
GREY = Grey.of(MEAN, STD)
GUIDES = [
    (layout, storage)
    for layout in LAYOUTS
    for storage in ("float32", "float16", "uint8")
    if (layout, storage) != ("grey", "uint8")
]
# Half a step of the storage near 1, and the arithmetic.
STEPS = {"float32": 1e-5, "float16": 2.0**-12 + 1e-5, "uint8": 0.5 / 255 + 1e-5}
FINE = [
    (131, 200),
    (9, 1030),
    (29, 51),
    (17, 30),
    (20, 39),
    (7, 13),
    (5, 3),
    (3, 200),
    (1, 9),
    (9, 1),
    (1, 1),
]


def apply_kernel(layout: str, guide: str, alpha: str, coefficients: str = "float32") -> ApplyKernel:
    return ApplyKernel(layout, None if layout == "grey" else GREY, coefficients, guide, alpha)


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> HostKernels:
    require_compiler()
    kernels = [CoefficientsKernel(radius_px, EPS) for radius_px in RADII]
    kernels += [CoefficientsKernel(1, 1e-4), CoefficientsKernel(16, 1e-4)]
    kernels += [CoefficientsKernel(1, EPS, "float16", kind) for kind in ("float32", "float16")]
    kernels += [apply_kernel(*guide, alpha) for guide, alpha in product(GUIDES, STEPS)]
    kernels += [apply_kernel("grey", "float32", "float32", "float16")]
    return HostKernels(kernels, tmp_path_factory.mktemp("kernels"))


def coarse_maps(rng, size: tuple[int, int], kind: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """A guide and logits, (2, 1, h, w)."""
    guide, logits = rng.normal(0, 1, (2, 2, 1, *size))
    return guide.astype(kind), (5 * logits).astype(kind)


def expected_coefficients(guide: np.ndarray, logits: np.ndarray, radius_px: int, eps: float) -> np.ndarray:
    pairs = zip(guide[:, 0].astype(np.float64), logits[:, 0].astype(np.float64), strict=True)
    return np.stack([np.stack(guided_coefficients(g, x, radius_px, eps)) for g, x in pairs])


def expected_alpha(coefficients: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """(N, 2, h, w), (N, H, W) → (N, 1, H, W)."""
    alphas = []
    for planes, image in zip(coefficients.astype(np.float64), grey, strict=True):
        a, b = (upsample(plane, image.shape) for plane in planes)
        alphas.append(sigmoid(a * image + b)[None])
    return np.stack(alphas)


def guide_and_grey(rng, layout: str, kind: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two images in a layout, as stored, and their float64 grey (2, H, W)."""
    if layout == "grey":
        guide = rng.normal(0, 1, (2, 1, *size)).astype(kind)
        return guide, guide[:, 0].astype(np.float64)
    shape = (2, 3, *size) if layout == "planar" else (2, *size, 3)
    guide = rng.integers(0, 256, shape).astype(kind) if kind == "uint8" else rng.random(shape).astype(kind)
    colours = guide.astype(np.float64) / (255 if kind == "uint8" else 1)
    if layout == "planar":
        colours = np.moveaxis(colours, 1, -1)
    return guide, ((colours - MEAN) / STD).mean(-1)


@pytest.mark.parametrize("radius_px", RADII)
def test_coefficients_of_every_radius(host, rng, radius_px):
    kernel = CoefficientsKernel(radius_px, EPS)
    for size in [(1, 1), (1, 37), (19, 1), (2, 3), (23, 35)]:
        guide, logits = coarse_maps(rng, size)
        got = host.coefficients(kernel, guide, logits)
        wanted = expected_coefficients(guide, logits, radius_px, EPS)
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0, err_msg=str(size))


@pytest.mark.parametrize("radius_px", [1, 13, 14])  # the last with tiles of 8
def test_tiles_meet(host, rng, radius_px):
    guide, logits = coarse_maps(rng, (48, 81))
    got = host.coefficients(CoefficientsKernel(radius_px, EPS), guide, logits)
    np.testing.assert_allclose(got, expected_coefficients(guide, logits, radius_px, EPS), atol=1e-5)


@pytest.mark.parametrize("radius_px", [1, 16])
@pytest.mark.parametrize("offset", [0, 2, 100])
def test_nothing_cancels_where_the_guide_is_nearly_flat(host, rng, radius_px, offset):
    guide, logits = coarse_maps(rng, (23, 35))
    guide = (offset + 1e-3 * guide).astype(np.float32)
    a = host.coefficients(CoefficientsKernel(radius_px, 1e-4), guide, logits)[:, 0]
    wanted = expected_coefficients(guide, logits, radius_px, 1e-4)[:, 0]
    largest = np.abs(wanted).max()
    assert largest > 0.5
    np.testing.assert_allclose(a, wanted, atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize("radius_px", [1, 16])
def test_flat_guide_gives_the_mean_of_the_logits_exactly_unsteered(host, rng, radius_px):
    guide, logits = coarse_maps(rng, (23, 35))
    guide[:] = 12345.678
    a, b = np.moveaxis(host.coefficients(CoefficientsKernel(radius_px, 1e-4), guide, logits), 1, 0)
    assert np.all(a == 0)
    flat = expected_coefficients(np.zeros_like(guide), logits, radius_px, 1e-4)[:, 1]
    np.testing.assert_allclose(b, flat, atol=1e-5)


@pytest.mark.parametrize(("kind", "bound"), [("float32", 1e-5), ("float16", 2e-3)])
def test_coefficients_from_half_precision(host, rng, kind, bound):
    guide, logits = coarse_maps(rng, (23, 35), "float16")
    got = host.coefficients(CoefficientsKernel(1, EPS, "float16", kind), guide, logits)
    assert got.dtype == kind
    np.testing.assert_allclose(got, expected_coefficients(guide, logits, 1, EPS), atol=bound, rtol=bound)


@pytest.mark.parametrize("radius_px", [1, 13, 16])
def test_the_order_of_threads_makes_no_difference(host, rng, radius_px):
    guide, logits = coarse_maps(rng, (23, 35))
    kernel = CoefficientsKernel(radius_px, EPS)
    forwards = host.coefficients(kernel, guide, logits)
    assert np.array_equal(forwards, host.coefficients(kernel, guide, logits, backwards=True))


def test_a_missing_barrier_would_be_seen(rng, tmp_path):
    require_compiler()
    kernel = CoefficientsKernel(1, EPS)
    broken = HostKernels([kernel], tmp_path, edit=("__syncthreads();", ""))
    guide, logits = coarse_maps(rng, (23, 35))
    assert not np.all(np.isfinite(broken.coefficients(kernel, guide, logits)))


def test_a_misaligned_access_would_be_seen(rng, tmp_path):
    require_compiler()
    kernel = apply_kernel("grey", "float32", "float32")
    blind = HostKernels([kernel], tmp_path, edit=("if ((size_t)from % sizeof(Four<T>) == 0)", "if (true)"))
    coefficients, guide = np.zeros((1, 2, 3, 5), np.float32), np.zeros((1, 1, 9, 45), np.float32)
    with pytest.raises(AssertionError, match="UNDEFINED_BEHAVIOUR"):
        blind.apply(kernel, coefficients, guide, (1, 0))


@pytest.mark.parametrize("alpha", STEPS)
@pytest.mark.parametrize(("layout", "storage"), GUIDES)
def test_apply(host, rng, layout, storage, alpha):
    coefficients = rng.normal(0, 3, (2, 2, 7, 13)).astype(np.float32)
    kernel = apply_kernel(layout, storage, alpha)
    for size in FINE:
        guide, grey = guide_and_grey(rng, layout, storage, size)
        got = host.apply(kernel, coefficients, guide)
        wanted = expected_alpha(coefficients, grey)
        scale = 255 if alpha == "uint8" else 1
        np.testing.assert_allclose(
            got.astype(np.float64) / scale, wanted, atol=STEPS[alpha], rtol=0, err_msg=str(size)
        )


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [((1, 1), (37, 53)), ((1, 8), (37, 53)), ((8, 1), (37, 53)), ((60, 90), (37, 53)), ((3, 300), (9, 1030))],
)
def test_apply_from_coarse_maps_of_any_size(host, rng, coarse, fine):
    coefficients = rng.normal(0, 3, (2, 2, *coarse)).astype(np.float32)
    guide, grey = guide_and_grey(rng, "grey", "float32", fine)
    got = host.apply(apply_kernel("grey", "float32", "float32"), coefficients, guide)
    np.testing.assert_allclose(got, expected_alpha(coefficients, grey), atol=1e-5)


@pytest.mark.parametrize("shifts", list(product(range(4), range(4))))
@pytest.mark.parametrize(
    ("layout", "storage", "alpha"), [("grey", "float32", "uint8"), ("planar", "uint8", "float32")]
)
def test_arrays_may_begin_at_any_address(host, rng, layout, storage, alpha, shifts):
    coefficients = rng.normal(0, 3, (2, 2, 3, 5)).astype(np.float32)
    guide, grey = guide_and_grey(rng, layout, storage, (9, 45))
    got = host.apply(apply_kernel(layout, storage, alpha), coefficients, guide, shifts)
    scale = 255 if alpha == "uint8" else 1
    np.testing.assert_allclose(
        got.astype(np.float64) / scale, expected_alpha(coefficients, grey), atol=STEPS[alpha]
    )


def test_coefficients_may_be_stored_in_half_precision(host, rng):
    coefficients = rng.normal(0, 3, (2, 2, 7, 13)).astype(np.float16)
    guide, grey = guide_and_grey(rng, "grey", "float32", (29, 51))
    got = host.apply(apply_kernel("grey", "float32", "float32", "float16"), coefficients, guide)
    np.testing.assert_allclose(got, expected_alpha(coefficients, grey), atol=1e-5)


# All but the first have places where the quotient by way of float is one too large, or one too small.
@pytest.mark.parametrize(("coarse", "fine"), [(256, 16001), (1000, 60554), (30000, 62465), (30000, 65489)])
def test_positions_are_exact_far_from_the_left(host, coarse, fine):
    # Logits are 0 and 300 in turn: a position off by 1e-5 of a coarse pixel changes alpha by 7e-4.
    coefficients = np.zeros((1, 2, 1, coarse), np.float32)
    coefficients[0, 1, 0, 1::2] = 300
    guide = np.zeros((1, 1, 1, fine), np.float32)
    got = host.apply(apply_kernel("grey", "float32", "float32"), coefficients, guide)
    positions = np.arange(fine) * (coarse - 1) / (fine - 1)
    wanted = sigmoid(np.interp(positions, np.arange(coarse), coefficients[0, 1, 0].astype(np.float64)))
    np.testing.assert_allclose(got.ravel(), wanted, atol=2e-5)  # a fraction near 1 has 6e-8 of 300


def test_far_logits_are_0_and_1(host):
    coefficients = np.zeros((1, 2, 1, 2), np.float32)
    coefficients[0, 1, 0] = -1e4, 1e4
    guide = np.zeros((1, 1, 1, 64), np.float32)
    for alpha in STEPS:
        got = host.apply(apply_kernel("grey", "float32", alpha), coefficients, guide).ravel()
        assert (got[0], got[-1]) == (0, 255 if alpha == "uint8" else 1)
        assert np.all(np.diff(got.astype(np.float64)) >= 0)


def test_halves_of_the_shim_are_ieee(host):
    widen, narrow = host.library.widen_half, host.library.narrow_float
    widen.restype, widen.argtypes = ctypes.c_float, [ctypes.c_ushort]
    narrow.restype, narrow.argtypes = ctypes.c_ushort, [ctypes.c_float]
    bits = np.arange(0, 65536, 7, dtype=np.uint16)
    halves = bits.view(np.float16)
    np.testing.assert_array_equal([widen(int(b)) for b in bits], halves.astype(np.float32))
    finite = np.abs(halves[np.isfinite(halves)]).astype(np.float32)
    up = np.nextafter(finite.astype(np.float16), np.float16(np.inf)).astype(np.float32)
    values = np.concatenate(
        [finite, (finite + up) / 2, finite * 1.0003, -finite, [65519, 65520, 1e30, np.inf]]
    )
    values = values.astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal([narrow(float(v)) for v in values], wanted)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CoefficientsKernel(0, 1e-4), "radius 0 px: the kernel takes 1 to 16"),
        (lambda: CoefficientsKernel(17, 1e-4), "radius 17 px"),
        (lambda: CoefficientsKernel(1, 0.0), "eps 0.0"),
        (lambda: CoefficientsKernel(1, float("nan")), "eps nan"),
        (lambda: CoefficientsKernel(1, 1e-4, "uint8"), "uint8: the kernel takes float32, float16"),
        (lambda: ApplyKernel("rgb"), "layout 'rgb': the kernel takes grey, planar, interleaved"),
        (lambda: ApplyKernel("planar"), "an RGB guide needs its grey weights"),
        (lambda: ApplyKernel("grey", GREY), "a grey guide has none"),
        (lambda: ApplyKernel(guide="uint8"), "grey guide in uint8"),
        (lambda: ApplyKernel(alpha="int8"), "alpha in int8: the kernel takes float32, float16, uint8"),
    ],
)
def test_kernels_that_there_are_not(make, words):
    with pytest.raises(InputError, match=words):
        make()
