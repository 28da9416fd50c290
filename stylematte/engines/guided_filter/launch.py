"""Run the kernels on GPU memory owned by other libraries: torch, CuPy, ONNX Runtime's IO binding.

    kernels = GuidedFilter(radius_px=1, eps=1e-4, grey=Grey.of(MEAN, STD))
    kernels.apply(coefficients, photo, alpha, stream=torch.cuda.current_stream().cuda_stream)

A call allocates, copies and waits for nothing: it puts one kernel on the stream and returns.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylematte.engines.guided_filter.kernels import (
    MOST_SIZE,
    ApplyKernel,
    CoefficientsKernel,
    Grey,
    Kernel,
)
from stylematte.engines.guided_filter.nvrtc import INSTALL, compile_ptx
from stylematte.errors import EngineError, InputError

DTYPES = {"<f4": "float32", "<f2": "float16", "|u1": "uint8"}


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array in GPU memory, given by its address.

    For an OrtValue `x` of ONNX Runtime: `DeviceArray(x.data_ptr(), tuple(x.shape()), "float32")`.

    Attributes:
        pointer: Address on the GPU.
        shape: Shape in elements.
        dtype: `float32`, `float16` or `uint8`.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str


class GuidedFilter:
    """Both kernels with the parameters of one model's contract.

    Arrays are `DeviceArray`s, or objects with `__cuda_array_interface__`, such as CUDA tensors of torch. All
    arrays of a call must be on one GPU; the kernel runs there, in the primary context, which torch and ONNX
    Runtime use. Each array may have any of its documented dtypes; arithmetic is float32. The first call with
    new dtypes loads a kernel, which must not happen during the capture of a CUDA graph.

    Args:
        radius_px: Box radius in coarse pixels, 1 to 16.
        eps: Regulariser, in squared units of the guide.
        grey: Conversion of RGB guides to grey; without it, `apply` accepts only grey guides.
        driver: Stand-in for `cuda.bindings.driver`, for tests.

    Raises:
        EngineError: There is no CUDA driver.
    """

    def __init__(self, radius_px: int, eps: float, grey: Grey | None = None, driver: Any = None) -> None:
        self.radius_px, self.eps, self.grey = radius_px, eps, grey
        self._driver = driver or _load_driver()
        self._contexts: dict[int, Any] = {}
        self._functions: dict[tuple[int, Kernel], Any] = {}

    def coefficients(self, guide: Any, logits: Any, out: Any, stream: int = 0) -> None:
        """Compute A and b of each coarse pixel.

        Args:
            guide: (N, 1, h, w) grey coarse guide, float32 or float16.
            logits: (N, 1, h, w), dtype of the guide.
            out: (N, 2, h, w) float32 or float16 output: A, then b.
            stream: CUDA stream handle; 0 is the default stream.

        Raises:
            InputError: An array has an unsupported shape or dtype, or is not on the same GPU as the others.
            EngineError: The kernel cannot be compiled or launched.
        """
        guide, logits, out = _array("guide", guide), _array("logits", logits), _array("out", out)
        batch, height, width = _sizes("guide", guide, 1)
        _expect("logits", logits, guide.shape)
        _expect("out", out, (batch, 2, height, width))
        if logits.dtype != guide.dtype:
            raise InputError(
                f"logits are {logits.dtype} and the guide is {guide.dtype}: they must be the same"
            )
        kernel = CoefficientsKernel(self.radius_px, self.eps, guide.dtype, out.dtype)
        self._launch(
            kernel, {"guide": guide, "logits": logits}, (height, width), out, (height, width), stream
        )

    def apply(self, coefficients: Any, guide: Any, out: Any, stream: int = 0) -> None:
        """Compute alpha at full size.

        Args:
            coefficients: (N, 2, h, w) float32 or float16: A, then b.
            guide: (N, 1, H, W) grey float32 or float16; or RGB (N, 3, H, W) or (N, H, W, 3), float32 or
                float16 in [0, 1] or uint8. A 3×3 image, which fits both RGB layouts, is read as the first.
            out: (N, 1, H, W) output: float32 or float16 in [0, 1], or uint8 with 255 for 1.
            stream: CUDA stream handle; 0 is the default stream.

        Raises:
            InputError: An array has an unsupported shape or dtype, or is not on the same GPU as the others.
            EngineError: The kernel cannot be compiled or launched.
        """
        coefficients, guide, out = (
            _array("coefficients", coefficients),
            _array("guide", guide),
            _array("out", out),
        )
        batch, coarse_height, coarse_width = _sizes("coefficients", coefficients, 2)
        _, height, width = _sizes("out", out, 1)
        _expect("out", out, (batch, 1, height, width))
        layout = _layout(guide, batch, height, width)
        if layout != "grey" and self.grey is None:
            raise InputError(
                "the guide is RGB, and no grey weights were given: GuidedFilter(..., grey=Grey.of(mean, std))"
            )
        grey = None if layout == "grey" else self.grey
        kernel = ApplyKernel(layout, grey, coefficients.dtype, guide.dtype, out.dtype)
        inputs = {"coefficients": coefficients, "guide": guide}
        self._launch(
            kernel, inputs, (coarse_height, coarse_width, height, width), out, (height, width), stream
        )

    def _launch(
        self,
        kernel: Kernel,
        inputs: dict[str, DeviceArray],
        integers: Sequence[int],
        out: DeviceArray,
        size: tuple[int, int],
        stream: int,
    ) -> None:
        """Launch a kernel with its arguments in the order inputs, integers, output."""
        device = self._device_of({**inputs, "out": out})
        grid = kernel.grid(out.shape[0], *size, lambda x, y: -(-x // y))
        values = [*(array.pointer for array in inputs.values()), *integers, out.pointer]
        types = [*[ctypes.c_void_p] * len(inputs), *[ctypes.c_int] * len(integers), ctypes.c_void_p]
        driver = self._driver
        self._call("cuCtxPushCurrent", self._context(device))
        try:
            function = self._function(device, kernel)
            arguments = (tuple(values), tuple(types))
            self._call(
                "cuLaunchKernel", function, *grid, *kernel.block, 0, driver.CUstream(stream), arguments, 0
            )
        finally:
            self._call("cuCtxPopCurrent")

    def _device_of(self, arrays: dict[str, DeviceArray]) -> int:
        """Return the index of the GPU that all arrays are on."""
        attribute = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        devices = {}
        for name, array in arrays.items():
            code, device = self._driver.cuPointerGetAttribute(attribute, array.pointer)
            if code.value:
                raise InputError(f"{name}: address {array.pointer:#x} is not memory of a CUDA device")
            devices[name] = int(device)
        if len(set(devices.values())) > 1:
            raise InputError(
                "arrays are on several GPUs: " + ", ".join(f"{k} on {v}" for k, v in devices.items())
            )
        return devices["out"]

    def _context(self, device: int) -> Any:
        if device not in self._contexts:
            handle = self._call("cuDeviceGet", device)
            self._contexts[device] = self._call("cuDevicePrimaryCtxRetain", handle)
        return self._contexts[device]

    def _function(self, device: int, kernel: Kernel) -> Any:
        """Return the kernel; it is compiled and loaded into the current context at its first use."""
        if (device, kernel) not in self._functions:
            module = self._call("cuModuleLoadData", compile_ptx(kernel).encode() + b"\0")
            self._functions[device, kernel] = self._call("cuModuleGetFunction", module, kernel.name.encode())
        return self._functions[device, kernel]

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._driver, name)(*arguments)
        if code.value:
            too_new = code.name == "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
            hint = ": NVRTC is newer than the driver's CUDA; update the driver" if too_new else ""
            raise EngineError(f"{name} failed: {code.name}{hint}")
        return values[0] if values else None


def _load_driver() -> Any:
    try:
        from cuda.bindings import driver

        (code,) = driver.cuInit(0)
    except ImportError as error:
        raise EngineError(f"cuda-bindings is not installed: {INSTALL}") from error
    except RuntimeError as error:  # libcuda is loaded at the first call
        raise EngineError(f"no CUDA driver: {error}") from error
    if code.value:
        raise EngineError(f"no CUDA device: {code.name}")
    return driver


def _array(name: str, array: Any) -> DeviceArray:
    if not isinstance(array, DeviceArray):
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is None:
            raise InputError(f"{name}: a {type(array).__name__} that is not on a CUDA device")
        shape, strides = tuple(interface["shape"]), interface.get("strides")
        dtype = DTYPES.get(interface["typestr"], interface["typestr"])
        if strides is not None and tuple(strides) != _contiguous_strides(
            shape, int(interface["typestr"][2:])
        ):
            raise InputError(f"{name} is not contiguous: pass {name}.contiguous()")
        return _checked(name, DeviceArray(interface["data"][0], shape, dtype))
    return _checked(name, array)


def _checked(name: str, array: DeviceArray) -> DeviceArray:
    if array.dtype not in DTYPES.values():
        raise InputError(f"{name} is {array.dtype}: the kernels take {', '.join(DTYPES.values())}")
    if len(array.shape) != 4 or min(array.shape) < 1 or max(array.shape) > MOST_SIZE:
        raise InputError(f"{name} is {_text(array.shape)}: it needs four dimensions, from 1 to {MOST_SIZE}")
    return array


def _contiguous_strides(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    strides: list[int] = []
    for size in reversed(shape):
        strides.insert(0, item_bytes)
        item_bytes *= size
    return tuple(strides)


def _sizes(name: str, array: DeviceArray, channels: int) -> tuple[int, int, int]:
    batch, _, height, width = array.shape
    _expect(name, array, (batch, channels, height, width))
    return batch, height, width


def _expect(name: str, array: DeviceArray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InputError(f"{name} is {_text(array.shape)} and should be {_text(shape)}")


def _layout(guide: DeviceArray, batch: int, height: int, width: int) -> str:
    layouts = {
        "grey": (batch, 1, height, width),
        "planar": (batch, 3, height, width),
        "interleaved": (batch, height, width, 3),
    }
    for layout, shape in layouts.items():
        if guide.shape == shape:
            return layout
    wanted = ", ".join(f"{_text(shape)} {layout}" for layout, shape in layouts.items())
    raise InputError(f"guide is {_text(guide.shape)} and should be one of {wanted}")


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
