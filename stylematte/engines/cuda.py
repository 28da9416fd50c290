"""The part of the CUDA runtime that engines need: memory, streams, graphs, and the GPU's identity."""

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from stylematte.errors import EngineError, MissingError

INSTALL_HINT = 'Install it: pip install "stylematte[tensorrt]"'
SECONDS_FOR_NVIDIA_SMI = 20


class Cuda:
    """One GPU through the runtime API of `cuda-bindings`; thread-safe.

    Args:
        index: Index of the GPU.
        runtime: Stand-in for `cuda.bindings.runtime`, for tests.

    Raises:
        MissingError: No `cuda-bindings`, no driver, or no such GPU.
    """

    def __init__(self, index: int = 0, runtime: Any = None) -> None:
        self.index = index
        self._runtime = runtime or _import_runtime()
        try:
            count = self._call("cudaGetDeviceCount")
        except EngineError as error:
            raise MissingError(
                f"no CUDA GPU can be used: {error.message}", "nvidia-smi shows the state of the driver"
            ) from None
        if not index < count:
            raise MissingError(
                f"device cuda:{index}: there are {count} CUDA GPUs here", "They are numbered from 0"
            )

    def identity(self) -> dict[str, str]:
        """Return what an engine file is tied to: `gpu`, `compute_capability` and `driver`, as text."""
        properties = self._call("cudaGetDeviceProperties", self.index)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return {
            "gpu": name.rstrip("\0"),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "driver": _driver_version() or f"CUDA {self._call('cudaDriverGetVersion')}",
        }

    def stream(self) -> int:
        """Create a stream and return its handle."""
        return int(self._on_gpu("cudaStreamCreate"))

    def end_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._on_gpu("cudaStreamDestroy", stream)

    def allocate(self, count: int) -> int:
        """Allocate bytes on the GPU and return their address."""
        return int(self._on_gpu("cudaMalloc", count))

    def free(self, address: int) -> None:
        """Free memory."""
        self._on_gpu("cudaFree", address)

    def upload(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy a contiguous array to the GPU, in stream order."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._on_gpu("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy from the GPU to a contiguous array, and wait for it."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._on_gpu("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)
        self.wait(stream)

    def copy(self, source: int, target: int, count: int, stream: int) -> None:
        """Copy bytes within the GPU, and wait for it."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._on_gpu("cudaMemcpyAsync", target, source, count, kind, stream)
        self.wait(stream)

    def wait(self, stream: int) -> None:
        """Wait until a stream has finished its work."""
        self._on_gpu("cudaStreamSynchronize", stream)

    def capture(self, work: Callable[[], None], stream: int) -> Any:
        """Capture what `work` puts on a stream, without running it; returns a graph for `launch`."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._on_gpu("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        finally:
            graph = self._on_gpu("cudaStreamEndCapture", stream)
        return self._on_gpu("cudaGraphInstantiate", graph, 0)

    def launch(self, graph: Any, stream: int) -> None:
        """Run a captured graph in one call."""
        self._on_gpu("cudaGraphLaunch", graph, stream)

    def _on_gpu(self, name: str, *arguments: Any) -> Any:
        self._call("cudaSetDevice", self.index)  # the current device is per thread
        return self._call(name, *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._runtime, name)(*arguments)
        if int(code):
            raise EngineError(f"{name} failed: {getattr(code, 'name', code)}")
        return values[0] if values else None


def _import_runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise MissingError("cuda-bindings is not installed", INSTALL_HINT) from None
    return runtime


def _driver_version() -> str:
    """Return the NVIDIA driver's version, such as `580.65.06`; empty if nvidia-smi does not tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=SECONDS_FOR_NVIDIA_SMI, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.partition("\n")[0].strip()
