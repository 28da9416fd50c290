"""Stand-ins for the CUDA driver and for TensorRT, as far as the guided filter's hosts use them."""

import ctypes
import enum
import types
from typing import Any, NamedTuple

from tests.export.host_kernels import HostKernels, cdiv


class Code(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222


class Launch(NamedTuple):
    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    stream: int
    values: tuple[int, ...]
    types: tuple[type, ...]


class FakeDriver:
    """The driver API of `cuda.bindings`, over NumPy arrays. Addresses lie on GPU 0 unless told otherwise.

    Attributes:
        devices: GPU by address; None for memory of no GPU.
        failing: What a function of this name answers.
        launches: What was launched.
        pushed: Contexts that were pushed and not popped.
        loaded: How many modules were loaded.
    """

    class CUpointer_attribute(enum.IntEnum):  # noqa: N801
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9

    def __init__(self, host: HostKernels | None = None) -> None:
        self.host = host
        self.devices: dict[int, int | None] = {}
        self.failing: dict[str, Code] = {}
        self.launches: list[Launch] = []
        self.pushed: list[Any] = []
        self.loaded = 0

    def __getattribute__(self, name: str) -> Any:
        failing = object.__getattribute__(self, "__dict__").get("failing", {})
        return (lambda *_: (failing[name], None)) if name in failing else object.__getattribute__(self, name)

    def cuPointerGetAttribute(self, attribute: int, pointer: int):  # noqa: N802
        device = self.devices.get(pointer, 0)
        return (Code.CUDA_ERROR_INVALID_VALUE, None) if device is None else (Code.CUDA_SUCCESS, device)

    def cuDeviceGet(self, number: int):  # noqa: N802
        return Code.CUDA_SUCCESS, f"device {number}"

    def cuDevicePrimaryCtxRetain(self, device: str):  # noqa: N802
        return Code.CUDA_SUCCESS, f"context of {device}"

    def cuCtxPushCurrent(self, context: str):  # noqa: N802
        self.pushed.append(context)
        return (Code.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self):  # noqa: N802
        return Code.CUDA_SUCCESS, self.pushed.pop()

    def cuModuleLoadData(self, image: bytes):  # noqa: N802
        assert image.endswith(b"\0")
        self.loaded += 1
        return Code.CUDA_SUCCESS, image[:-1].decode()

    def cuModuleGetFunction(self, module: str, name: bytes):  # noqa: N802
        return Code.CUDA_SUCCESS, (module, name.decode())

    def CUstream(self, handle: int) -> int:  # noqa: N802
        return handle

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared_bytes, stream, arguments, extra):  # noqa: N802
        assert self.pushed
        assert extra == 0
        module, name = function
        grid, block = (gx, gy, gz), (bx, by, bz)
        self.launches.append(Launch(name, grid, block, shared_bytes, stream, *arguments))
        if self.host is not None:
            # The module is what a test made of the kernel instead of PTX: its repr.
            (kernel,) = (kernel for kernel in self.host.kernels if repr(kernel) == module)
            self.host.run(kernel, grid, block, [t(v) for v, t in zip(*arguments, strict=True)])
        return (Code.CUDA_SUCCESS,)


class Expression:
    """A size that is no number before the engine runs; here it has one, to be looked at when all is done."""

    def __init__(self, value: "int | Expression") -> None:
        self.value: int = value.value if isinstance(value, Expression) else value

    def __add__(self, other: "int | Expression") -> "Expression":
        return Expression(self.value + Expression(other).value)


class FakeTensorDesc:
    def __init__(self, shape: tuple[Any, ...], dtype: str) -> None:
        self.shape_expr = tuple(map(Expression, shape))
        self.dtype = dtype

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size.value for size in self.shape_expr)

    def like(self) -> "FakeTensorDesc":
        return FakeTensorDesc(self.shape_expr, self.dtype)


class KernelLaunchParams:
    shared_mem: Any = 0
    grid_x: Any
    grid_y: Any
    grid_z: Any
    block_x: Any
    block_y: Any
    block_z: Any


def fake_tensorrt() -> dict[str, types.ModuleType]:
    """`tensorrt` and `tensorrt.plugin`, whose `.described` and `.launched` hold what is registered."""
    trt, plugin = types.ModuleType("tensorrt"), types.ModuleType("tensorrt.plugin")
    trt.float32, trt.float16, trt.int8 = "float32", "float16", "int8"
    plugin.described, plugin.launched = {}, {}

    def keeper(kept: dict[str, Any]):
        def decorator(name: str):
            assert name not in kept, "TensorRT takes one definition of a name"
            return lambda function: kept.setdefault(name, function)

        return decorator

    def ceil_div(first: Expression, second: int) -> Expression:
        assert isinstance(first, Expression)
        return Expression(cdiv(first.value, second))

    plugin.register, plugin.aot_impl = keeper(plugin.described), keeper(plugin.launched)
    plugin.TensorDesc, plugin.KernelLaunchParams = FakeTensorDesc, KernelLaunchParams
    plugin.SymIntExprs, plugin.SymInt32, plugin.cdiv = lambda length: [None] * length, Expression, ceil_div
    plugin.from_shape_expr = FakeTensorDesc
    trt.plugin = plugin
    return {"tensorrt": trt, "tensorrt.plugin": plugin}


def pointer_types(launch: Launch) -> list[bool]:
    """For each argument, whether it is an address; the others are 32-bit integers."""
    assert set(launch.types) == {ctypes.c_void_p, ctypes.c_int}
    return [kind is ctypes.c_void_p for kind in launch.types]
