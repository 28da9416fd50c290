"""The way of a photo whose network and filter run on a GPU; GPU and driver are stand-ins on this CPU."""

import gc
import sys

import numpy as np
import onnx
import pytest

from stylematte.engines import cuda as cuda_module
from stylematte.engines import gpu as gpu_module
from stylematte.engines import open_engine
from stylematte.engines.cuda import Cuda
from stylematte.engines.gpu_filter import GpuGuidedFilter
from stylematte.engines.guided_filter import launch
from stylematte.engines.guided_filter.kernels import ApplyKernel, Grey
from stylematte.engines.guided_filter.launch import GuidedFilter
from stylematte.engines.tensorrt import Sidecar, TensorRTEngine
from stylematte.errors import EngineError
from stylematte.matter import Matter
from tests.conftest import MEAN, STD, red_detector
from tests.export.fakes import Code, FakeDriver
from tests.export.host_kernels import HostKernels, require_compiler
from tests.runtime.fake_gpu import FakeCuda, FakePlan

GREY = Grey.of(MEAN, STD)
PHOTOS = ((60, 100), (77, 61), (61, 99), (3, 3), (40, 60))


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> HostKernels:
    require_compiler()
    kernels = [
        ApplyKernel(layout, GREY, "float32", kind, alpha)
        for layout in ("interleaved", "planar")
        for kind in ("uint8", "float32")
        for alpha in ("uint8", "float32")
    ]
    return HostKernels(kernels, tmp_path_factory.mktemp("host"))


@pytest.fixture
def memory() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def gpu_filter(host, memory, monkeypatch) -> GpuGuidedFilter:
    monkeypatch.setattr(launch, "compile_ptx", repr)
    return GpuGuidedFilter(Cuda(0, memory), GuidedFilter(1, 1e-4, GREY, FakeDriver(host)))


def on_onnx(red_model, gpu_filter):
    engine = open_engine(red_model, "onnx", "cpu")
    engine.gpu_filter = gpu_filter
    return engine


def on_tensorrt(red_model, gpu_filter):
    data = red_model.read_bytes()
    contract = open_engine(red_model, "onnx", "cpu").contract
    sizes = tuple({contract.working_size_for(*size, 128) for size in PHOTOS})
    sidecar = Sidecar(contract, {}, "", "", sizes, 2)
    plan = FakePlan(data, gpu_filter.gpu._runtime)
    engine = TensorRTEngine(red_model, plan, sidecar, gpu_filter.gpu, 2)
    engine.gpu_filter = gpu_filter
    return engine


@pytest.fixture(params=[on_onnx, on_tensorrt])
def matter(request, red_model, gpu_filter) -> Matter:
    return Matter(request.param(red_model, gpu_filter), 128)


def photo(rng, height: int, width: int, dtype) -> np.ndarray:
    image = np.zeros((height, width, 3), np.float32)
    image[:, width // 2 :, 0] = 1
    image = np.clip(image + rng.normal(0, 0.05, image.shape), 0, 1).astype(np.float32)
    return image if dtype == np.float32 else (image * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alphas_are_those_of_the_cpu(matter, red_model, rng, dtype):
    images = [photo(rng, *size, dtype) for size in PHOTOS]
    reference = Matter(open_engine(red_model, "onnx", "cpu"), 128)
    mattes = matter.batch(images)
    for matte, image in zip(mattes, images, strict=True):
        wanted = reference(image)
        # Both ways have float32 sums; b of a steep line is rounded once more.
        np.testing.assert_allclose(matte.alpha, wanted.alpha, atol=1e-4)
        for kind, step in ((np.uint8, 1), (np.uint16, 8)):
            got = matte.alpha_as(kind)
            assert got.dtype == kind
            assert np.abs(got.astype(int) - wanted.alpha_as(kind)).max() <= step
    assert np.ptp(mattes[0].alpha) > 0.9


@pytest.mark.parametrize("road", [on_onnx, on_tensorrt])
def test_a_prior_goes_to_the_gpu_too(road, gpu_filter, tmp_path, rng):
    path = tmp_path / "believer.onnx"
    onnx.save(red_detector(prior=True), path)
    matter = Matter(road(path, gpu_filter), 128)
    reference = Matter(open_engine(path, "onnx", "cpu"), 128)
    images = [photo(rng, *size, np.uint8) for size in PHOTOS]
    priors = [np.full(image.shape[:2], 0.5, np.float32) for image in images]
    priors[0] = None
    for given in (None, priors, None):
        mattes, expected = matter.batch(images, given), reference.batch(images, given)
        for matte, wanted in zip(mattes, expected, strict=True):
            np.testing.assert_allclose(matte.alpha, wanted.alpha, atol=1e-4)


def test_cutouts_need_nothing_of_the_cpu(matter, rng):
    cutout = matter(photo(rng, 40, 60, np.uint8)).cutout()
    assert cutout.shape == (40, 60, 4)
    assert cutout[:, 45:, 3].min() > 200


def test_memory_is_given_back_with_the_matte(matter, memory, rng):
    matter(photo(rng, 40, 60, np.uint8)).alpha_as(np.uint8)
    gc.collect()
    before = len(memory._memory)
    mattes = matter.batch([photo(rng, 40, 60, np.uint8) for _ in range(3)])
    for matte in mattes:
        matte.alpha_as(np.uint8)
    del mattes, matte
    gc.collect()
    assert len(memory._memory) == before


def test_a_gpu_without_memory_and_a_kernel_that_fails(matter, memory, gpu_filter, rng):
    matte = matter(photo(rng, 40, 60, np.uint8))
    gpu_filter._kernels._driver.failing["cuLaunchKernel"] = Code.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(EngineError, match="the guided filter failed on the GPU: cuLaunchKernel failed"):
        matte.alpha_as(np.uint8)
    memory.failing["cudaMalloc"] = Code.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(EngineError, match="cudaMalloc failed: CUDA_ERROR_OUT_OF_MEMORY"):
        matte.alpha_as(np.uint8)


def test_the_command_hands_the_kernels_over_or_says_why_not(red_model, memory, monkeypatch, caplog):
    engine = open_engine(red_model, "onnx", "cpu")
    gpu_module.use_gpu_filter(engine, "cpu")
    assert engine.gpu_filter is None
    engine.provider = "CUDAExecutionProvider"
    monkeypatch.setattr(cuda_module, "_import_runtime", lambda: memory)
    monkeypatch.setattr(launch, "_load_driver", FakeDriver)
    with caplog.at_level("INFO", logger="stylematte"):
        gpu_module.use_gpu_filter(engine, "cuda:0")
        assert engine.gpu_filter is not None
        assert caplog.messages[-1] == "guided filter on the GPU"
        memory.gpus = 0
        gpu_module.use_gpu_filter(engine, "cuda:0")
        assert caplog.messages[-1].startswith("guided filter on the CPU: no CUDA GPU can be used")
        monkeypatch.setitem(sys.modules, "stylematte.engines.guided_filter.launch", None)
        gpu_module.use_gpu_filter(engine, "auto")
        assert caplog.messages[-1].startswith(
            "guided filter on the CPU: import of stylematte.engines.guided_filter"
        )
