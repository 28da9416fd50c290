"""Direct launches through a stand-in driver that runs the kernels on this CPU."""

import sys

import numpy as np
import pytest

from models.stylematte import MEAN, STD
from stylematte.engines.guided_filter import launch
from stylematte.engines.guided_filter.kernels import ApplyKernel, CoefficientsKernel, Grey
from stylematte.engines.guided_filter.launch import DeviceArray, GuidedFilter
from stylematte.errors import EngineError, InputError
from tests.export.fakes import Code, FakeDriver, pointer_types
from tests.export.host_kernels import HostKernels, require_compiler
from tests.models.references import guided_logits, sigmoid

GREY = Grey.of(MEAN, STD)


class FakeArray:
    """What torch shows of a tensor on a GPU; here it is a NumPy array."""

    def __init__(self, array: np.ndarray, strides: tuple[int, ...] | None = None) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": strides,
            "version": 2,
        }


def zeros(*shape: int, dtype: str = "float32") -> FakeArray:
    return FakeArray(np.zeros(shape, dtype))


@pytest.fixture
def driver(monkeypatch) -> FakeDriver:
    monkeypatch.setattr(launch, "compile_ptx", repr)
    return FakeDriver()


@pytest.fixture
def kernels(driver) -> GuidedFilter:
    return GuidedFilter(1, 1e-2, GREY, driver)


def test_both_kernels_give_alpha(driver, rng, tmp_path):
    require_compiler()
    used = [CoefficientsKernel(2, 1e-2), ApplyKernel("interleaved", GREY, "float32", "uint8", "float32")]
    driver.host = HostKernels(used, tmp_path)
    coarse_guide, logits = rng.normal(0, 1, (2, 2, 1, 7, 13)).astype(np.float32)
    photo = rng.integers(0, 256, (2, 29, 51, 3)).astype(np.uint8)
    coefficients, alpha = zeros(2, 2, 7, 13), zeros(2, 1, 29, 51)

    kernels = GuidedFilter(2, 1e-2, GREY, driver)
    kernels.coefficients(FakeArray(coarse_guide), FakeArray(5 * logits), coefficients, stream=77)
    kernels.apply(coefficients, FakeArray(photo), alpha)

    grey = ((photo / 255 - MEAN) / STD).mean(-1)
    for image in range(2):
        maps = coarse_guide[image, 0].astype(np.float64), 5.0 * logits[image, 0], grey[image]
        np.testing.assert_allclose(alpha.array[image, 0], sigmoid(guided_logits(*maps, 2, 1e-2)), atol=1e-5)
    first, second = driver.launches
    assert pointer_types(first) == [True, True, False, False, True]
    assert pointer_types(second) == [True, True, False, False, False, False, True]
    assert (first.kernel, first.grid, first.block, first.shared_bytes, first.stream) == (
        "fgf_coefficients", (1, 1, 2), (256, 1, 1), 0, 77,
    )  # fmt: skip
    assert (second.kernel, second.grid, second.block, second.stream) == (
        "fgf_apply",
        (1, 4, 2),
        (32, 8, 1),
        0,
    )
    assert second.values[2:6] == (7, 13, 29, 51)
    assert driver.pushed == []


@pytest.mark.parametrize(
    ("guide", "layout"),
    [
        ((2, 1, 30, 40), "grey"),
        ((2, 3, 30, 40), "planar"),
        ((2, 30, 40, 3), "interleaved"),
    ],
)
def test_the_guides_shape_tells_its_layout(driver, kernels, guide, layout):
    addresses = DeviceArray(4096, (2, 2, 8, 10), "float16"), DeviceArray(1 << 40, guide, "float16")
    kernels.apply(*addresses, DeviceArray(8192, (2, 1, 30, 40), "uint8"))
    assert driver.launches[0].values == (4096, 1 << 40, 8, 10, 30, 40, 8192)
    grey = None if layout == "grey" else GREY
    assert [kernel for _, kernel in kernels._functions] == [
        ApplyKernel(layout, grey, "float16", "float16", "uint8")
    ]


def test_a_kernel_is_loaded_once_a_gpu(driver, kernels):
    arrays = zeros(1, 2, 4, 4), zeros(1, 1, 9, 9), zeros(1, 1, 9, 9)
    for _ in range(3):
        kernels.apply(*arrays)
    assert driver.loaded == 1
    driver.devices = {array.array.ctypes.data: 1 for array in arrays}
    kernels.apply(*arrays)
    assert (driver.loaded, len(driver.launches), driver.pushed) == (2, 4, [])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ((np.zeros((1, 2, 4, 4)), None, None), "coefficients: a ndarray that is not on a CUDA device"),
        ((FakeArray(np.zeros((1, 2, 4, 4))), None, None), "coefficients is <f8: the kernels take float32"),
        ((zeros(1, 3, 4, 4), None, None), r"coefficients is \(1, 3, 4, 4\) and should be \(1, 2, 4, 4\)"),
        ((None, zeros(1, 4, 9, 9), None), r"guide is \(1, 4, 9, 9\).*one of \(1, 1, 9, 9\) grey"),
        ((None, zeros(1, 1, 9, 8), None), r"guide is \(1, 1, 9, 8\)"),
        ((None, zeros(9, 9), None), r"guide is \(9, 9\): it needs four dimensions"),
        ((None, FakeArray(np.zeros((1, 1, 9, 9), "f4"), (324, 324, 4, 36)), None), "guide is not contiguous"),
        ((None, zeros(1, 1, 9, 9, dtype="uint8"), None), "grey guide in uint8"),
        ((None, None, zeros(2, 1, 9, 9)), r"out is \(2, 1, 9, 9\) and should be \(1, 1, 9, 9\)"),
        ((None, None, zeros(1, 1, 0, 9)), r"out is \(1, 1, 0, 9\): it needs four dimensions, from 1"),
        ((zeros(1, 2, 4, 4, dtype="uint8"), None, None), "coefficients in uint8"),
        ((None, None, DeviceArray(1, (1, 1, 70000, 1), "uint8")), r"out is \(1, 1, 70000, 1\): .* 65535"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_named(driver, kernels, arrays, words):
    fitting = zeros(1, 2, 4, 4), zeros(1, 1, 9, 9), zeros(1, 1, 9, 9)
    given = [fit if array is None else array for array, fit in zip(arrays, fitting, strict=True)]
    with pytest.raises(InputError, match=words):
        kernels.apply(*given)
    assert driver.launches == []


def test_coefficients_want_one_size_and_one_storage(kernels):
    with pytest.raises(InputError, match=r"logits is \(1, 1, 4, 5\) and should be \(1, 1, 4, 4\)"):
        kernels.coefficients(zeros(1, 1, 4, 4), zeros(1, 1, 4, 5), zeros(1, 2, 4, 4))
    with pytest.raises(InputError, match="logits are float16 and the guide is float32"):
        kernels.coefficients(zeros(1, 1, 4, 4), zeros(1, 1, 4, 4, dtype="float16"), zeros(1, 2, 4, 4))
    with pytest.raises(InputError, match=r"out is \(1, 1, 4, 4\) and should be \(1, 2, 4, 4\)"):
        kernels.coefficients(zeros(1, 1, 4, 4), zeros(1, 1, 4, 4), zeros(1, 1, 4, 4))


def test_rgb_without_grey_weights(driver):
    with pytest.raises(InputError, match="no grey weights were given"):
        GuidedFilter(1, 1e-4, driver=driver).apply(zeros(1, 2, 4, 4), zeros(1, 3, 9, 9), zeros(1, 1, 9, 9))


def test_memory_has_to_be_on_one_gpu(driver, kernels):
    arrays = zeros(1, 2, 4, 4), zeros(1, 1, 9, 9), zeros(1, 1, 9, 9)
    driver.devices[arrays[1].array.ctypes.data] = 1
    with pytest.raises(InputError, match="several GPUs: coefficients on 0, guide on 1, out on 0"):
        kernels.apply(*arrays)
    driver.devices[arrays[1].array.ctypes.data] = None
    with pytest.raises(InputError, match=r"guide: address 0x[0-9a-f]+ is not memory of a CUDA device"):
        kernels.apply(*arrays)


@pytest.mark.parametrize(
    ("failing", "code", "words"),
    [
        ("cuModuleLoadData", Code.CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "NVRTC is newer than the driver"),
        ("cuLaunchKernel", Code.CUDA_ERROR_OUT_OF_MEMORY, "cuLaunchKernel failed: CUDA_ERROR_OUT_OF_MEMORY$"),
    ],
)
def test_a_call_that_fails_is_named_and_the_context_put_back(driver, kernels, failing, code, words):
    driver.failing[failing] = code
    with pytest.raises(EngineError, match=words):
        kernels.apply(zeros(1, 2, 4, 4), zeros(1, 1, 9, 9), zeros(1, 1, 9, 9))
    assert driver.pushed == []


def test_no_bindings(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(
        EngineError, match=r"cuda-bindings is not installed: pip install \"stylematte\[cuda\]\""
    ):
        GuidedFilter(1, 1e-4)
