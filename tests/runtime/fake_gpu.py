"""A GPU and a TensorRT that are not here: memory is the computer's own, and a plan is an ONNX file."""

import ctypes
import enum
import types
from typing import Any

import numpy as np
import onnxruntime


class Code(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815


class FakeCuda:
    """`cuda.bindings.runtime`, as far as the engines use it. Work is done at once, except while captured.

    Attributes:
        GPUs: How many there are.
        failing: What a function of this name answers.
        launches: How many graphs were launched.
        captures: How many were captured.
    """

    cudaMemcpyKind = types.SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, gpus: int = 1) -> None:
        self.gpus = gpus
        self.failing: dict[str, Code] = {}
        self.launches = 0
        self.captures = 0
        self.captured: list[Any] | None = None
        self._memory: dict[int, Any] = {}

    def __getattribute__(self, name: str) -> Any:
        failing = object.__getattribute__(self, "__dict__").get("failing", {})
        return (lambda *_: (failing[name], None)) if name in failing else object.__getattribute__(self, name)

    def do(self, work: Any) -> None:
        """Do what was put on a stream, or keep it for the graph."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def cudaGetDeviceCount(self):  # noqa: N802
        return (Code.cudaSuccess, self.gpus) if self.gpus else (Code.cudaErrorNoDevice, None)

    def cudaSetDevice(self, index):  # noqa: N802
        assert index < self.gpus
        return (Code.cudaSuccess,)

    def cudaGetDeviceProperties(self, index):  # noqa: N802
        gpu = types.SimpleNamespace(name=b"Drawn GPU 9000", major=9, minor=index)
        return Code.cudaSuccess, gpu

    def cudaDriverGetVersion(self):  # noqa: N802
        return Code.cudaSuccess, 13000

    def cudaStreamCreate(self):  # noqa: N802
        return Code.cudaSuccess, 7

    def cudaStreamDestroy(self, stream):  # noqa: N802
        return (Code.cudaSuccess,)

    def cudaMalloc(self, count):  # noqa: N802
        buffer = ctypes.create_string_buffer(count + 256)
        address = -(-ctypes.addressof(buffer) // 256) * 256  # as a GPU aligns
        self._memory[address] = (buffer, count)
        return Code.cudaSuccess, address

    def bytes_at(self, address):
        """How many were allocated there; an address that nobody allocated has none."""
        return self._memory.get(address, (None, 0))[1]

    def _room_at(self, place):
        """Bytes from a place inside allocated memory to its end."""
        return max((a + n - place for a, (_, n) in self._memory.items() if a <= place < a + n), default=0)

    def cudaFree(self, address):  # noqa: N802
        del self._memory[address]
        return (Code.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, count, kind, stream):  # noqa: N802
        for on_gpu in {1: [target], 2: [source], 3: [source, target]}[kind]:
            assert count <= self._room_at(on_gpu)
        assert stream == 7
        ctypes.memmove(target, source, count)
        return (Code.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return (Code.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        self.captured = []
        self.captures += 1
        return (Code.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        graph, self.captured = self.captured, None
        return Code.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        return Code.cudaSuccess, graph

    def cudaGraphLaunch(self, graph, stream):  # noqa: N802
        self.launches += 1
        for work in graph:
            work()
        return (Code.cudaSuccess,)


class FakeContext:
    """Runs the plan's ONNX file on what lies at its addresses."""

    def __init__(self, plan: "FakePlan") -> None:
        self.plan = plan
        self.active_optimization_profile = 0
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.profiles: list[int] = []

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_optimization_profile_async(self, profile, stream):
        self.active_optimization_profile = profile
        self.profiles.append(profile)
        self.shapes.clear()
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return shape[0] <= self.plan.largest_batch

    def get_tensor_shape(self, name):
        if name in self.shapes:
            return self.shapes[name]
        inputs = {key: np.zeros(shape, np.float32) for key, shape in self.shapes.items()}
        return self.plan.session.run([name], inputs)[0].shape

    def execute_async_v3(self, stream):
        if self.plan.broken:
            return False
        shapes = dict(self.shapes)
        self.plan.cuda.do(lambda: self._run(shapes))
        return True

    def _run(self, shapes):
        names = [port.name for port in self.plan.session.get_outputs()]
        inputs = {name: self._at(name, shapes[name]) for name in shapes}
        for name, result in zip(names, self.plan.session.run(names, inputs), strict=True):
            self._at(name, result.shape)[:] = result

    def _at(self, name, shape):
        count = int(np.prod(shape))
        assert 4 * count <= self.plan.cuda.bytes_at(self.addresses[name]), f"{name} of {shape}: out of bounds"
        return np.frombuffer((ctypes.c_float * count).from_address(self.addresses[name]), np.float32).reshape(
            shape
        )


class FakePlan:
    """An engine; `broken` lets its passes fail."""

    def __init__(self, data: bytes, cuda: FakeCuda, largest_batch: int = 2) -> None:
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.cuda = cuda
        self.largest_batch = largest_batch
        self.broken = False
        self.contexts: list[FakeContext] = []

    @property
    def num_io_tensors(self):
        return len(self._names())

    def get_tensor_name(self, index):
        return self._names()[index]

    def _names(self):
        return [port.name for port in (*self.session.get_inputs(), *self.session.get_outputs())]

    def create_execution_context(self):
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


def fake_tensorrt(cuda: FakeCuda) -> Any:
    """A module for `sys.modules["tensorrt"]`, as far as engines are built and run.

    An engine that it builds is the ONNX file. `plans` holds what was opened, `configs` how it was built,
    `refusal` is what the parser answers, `failure` what the builder does.
    """
    module: Any = types.ModuleType("tensorrt")
    module.plans, module.configs, module.refusal, module.failure = [], [], "", ""

    class Logger:
        ERROR = 1

        def __init__(self, severity):
            pass

    class ILogger:
        Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    class IProgressMonitor:
        pass

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, data):
            if data.startswith(b"refused"):
                return None
            module.plans.append(FakePlan(data, cuda))
            return module.plans[-1]

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, logger):
            self.network = network

        def parse(self, data):
            self.network["onnx"] = data
            return not module.refusal

        def get_error(self, index):
            return types.SimpleNamespace(desc=lambda: module.refusal)

    class Profile(dict):
        def set_shape(self, name, least, usual, greatest):
            self[name] = (least, usual, greatest)

    class Config:
        def __init__(self):
            self.profiles, self.cleared, self.progress_monitor = [], [], None

        def set_memory_pool_limit(self, pool, size):
            self.workspace = (pool, size)

        def clear_flag(self, flag):
            self.cleared.append(flag)

        def add_optimization_profile(self, profile):
            self.profiles.append(profile)

    class Builder:
        def __init__(self, logger):
            self.logger = logger

        def create_network(self, flags):
            return {"flags": flags}

        def create_builder_config(self):
            module.configs.append(Config())
            return module.configs[-1]

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            config.network = network
            config.progress_monitor.phase_start("Building", None, 2)
            assert config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
            if module.failure:
                self.logger.log(ILogger.Severity.WARNING, "not this line")
                self.logger.log(ILogger.Severity.ERROR, module.failure)
                return None
            return memoryview(network["onnx"])

    module.Logger, module.ILogger, module.IProgressMonitor = Logger, ILogger, IProgressMonitor
    module.Runtime, module.OnnxParser, module.Builder = Runtime, OnnxParser, Builder
    module.NetworkDefinitionCreationFlag = types.SimpleNamespace()
    module.BuilderFlag = types.SimpleNamespace(TF32="TF32")
    module.MemoryPoolType = types.SimpleNamespace(WORKSPACE="WORKSPACE")
    return module
