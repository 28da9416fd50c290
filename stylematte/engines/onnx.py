"""ONNX Runtime, on a CPU or a CUDA GPU."""

import logging
import re
import shlex
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.engines.base import Contract, DeviceCoefficients, usable_cores
from stylematte.engines.gpu_filter import GpuArray, GpuCoefficients, GpuGuidedFilter
from stylematte.errors import EngineError, InputError, MissingError
from stylematte.files import sha256_of

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
INSTALL_HINT = 'Install one of: pip install "stylematte[cpu]"  or  pip install "stylematte[gpu]"'
SWAP_HINT = 'Install it: pip uninstall -y onnxruntime && pip install "stylematte[gpu]"'
LIBRARIES_HINT = (
    'Install them: pip install "onnxruntime-gpu[cuda,cudnn]" and check the driver with nvidia-smi'
)

log = logging.getLogger("stylematte")


class OnnxEngine:
    """Runs a model file with ONNX Runtime; see `Engine`.

    The session computes only `coefficients` and gets a 1x1 guide, so there is no full-size float image.
    """

    name = "onnx"

    def __init__(self, path: Path, session: Any, contract: Contract, lanes: int) -> None:
        self.contract = contract
        self.provider: str = session.get_providers()[0]
        self.lanes = lanes
        self.gpu_filter: GpuGuidedFilter | None = None  # set by `engines.gpu.use_gpu_filter`
        ports = {port.name: port.shape for port in session.get_inputs()}
        self.takes_prior = "prior" in ports
        self._takes_one = ports["image"][0] == 1  # some third-party networks
        self._path = path
        self._session = session
        self._zeros = np.zeros(0, np.float32)  # grows to the largest prior

    @cached_property
    def file_sha256(self) -> str:
        """Hex digest of the model file; see `Engine`."""
        return sha256_of(self._path)

    def coefficients(
        self, images: NDArray[np.float32], priors: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | list[DeviceCoefficients]:
        """Run the network; see `Engine.coefficients`."""
        if self._takes_one and len(images) > 1:
            return one_by_one(self.coefficients, images, priors)
        inputs = {"image": images, "guide": np.zeros((len(images), 3, 1, 1), np.float32)}
        if self.takes_prior:
            inputs["prior"] = self._no_prior(images.shape) if priors is None else priors
        try:
            if self.gpu_filter is not None:
                return self._on_gpu(inputs, self.gpu_filter)
            (result,) = self._session.run(["coefficients"], inputs)
        except Exception as error:  # ORT's exceptions have no common base class
            shape = "x".join(map(str, images.shape))
            raise EngineError(f"{self._path}: ONNX Runtime failed on {shape}: {_one_line(error)}") from error
        return np.asarray(result, np.float32)

    def _no_prior(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return zeros (N, 1, h, w) for images of that shape, as a view of a buffer that grows as needed."""
        count, _, height, width = shape
        zeros = self._zeros
        if zeros.size < count * height * width:
            self._zeros = zeros = np.zeros(count * height * width, np.float32)
        return zeros[: count * height * width].reshape(count, 1, height, width)

    def _on_gpu(
        self, inputs: dict[str, NDArray[np.float32]], gpu_filter: GpuGuidedFilter
    ) -> list[DeviceCoefficients]:
        """Run the network and leave the result on the GPU: no copy between network and filter."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("coefficients", "cuda" if self.provider == CUDA else "cpu", gpu_filter.gpu.index)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        (value,) = binding.get_outputs()
        _, channels, height, width = value.shape()
        shape, step = (1, channels, height, width), channels * height * width * 4
        arrays = (
            GpuArray(gpu_filter.gpu, shape, np.float32, value.data_ptr() + index * step, value)
            for index in range(len(inputs["image"]))
        )
        return [GpuCoefficients(array, gpu_filter) for array in arrays]


def open_onnx(path: Path, device: str, threads: int | None, lanes: int) -> OnnxEngine:
    """Open a model file with ONNX Runtime.

    Args:
        path: The ONNX file.
        device: `auto`, `cpu`, `cuda` or `cuda:i`, checked by the caller.
        threads: Threads of one network pass; None: all cores. With several lanes, each pass has one thread.
        lanes: Number of threads that call the engine in parallel.

    Raises:
        MissingError: ONNX Runtime is not installed, or CUDA was named explicitly and is not available.
        InputError: The file is not an ONNX file, or not a model of this tool.
    """
    session, why = open_session(path, device, threads, lanes)
    return _engine(path, session, lanes, threads_of(threads, lanes), why)


def one_by_one(
    run: Callable[..., NDArray[np.float32] | list[DeviceCoefficients]],
    images: NDArray[np.float32],
    priors: NDArray[np.float32] | None,
) -> NDArray[np.float32] | list[DeviceCoefficients]:
    """Run a network with batch size 1 on several images; see `Engine.coefficients` for the arguments."""
    known = [None] * len(images) if priors is None else priors[:, None]
    results = [run(image[None], prior) for image, prior in zip(images, known, strict=True)]
    if isinstance(results[0], np.ndarray):
        return np.concatenate([result for result in results if isinstance(result, np.ndarray)])
    return [one for result in results for one in result]


def threads_of(threads: int | None, lanes: int) -> int:
    """Return the threads of one pass: one if there are several lanes, else the given number or all cores."""
    return (threads or usable_cores()) if lanes == 1 else 1


def open_session(path: Path, device: str, threads: int | None, lanes: int) -> tuple[Any, str]:
    """Open any ONNX file on a device; see `open_onnx` for arguments and errors.

    Returns:
        The session, and the reason for its provider.
    """
    ort = _import_onnxruntime()
    wants_cuda = device.startswith("cuda")
    has_cuda = CUDA in ort.get_available_providers()
    if wants_cuda and not has_cuda:
        raise MissingError(f"device {device}: this ONNX Runtime {ort.__version__} has no CUDA", SWAP_HINT)
    threads = threads_of(threads, lanes)

    reason = ""
    if has_cuda and device != "cpu":
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds CUDA and cuDNN installed by pip
        index = int(device.partition(":")[2] or 0)
        try:
            session = _create_session(ort, path, [(CUDA, {"device_id": index}), CPU], threads)
        except Exception as error:
            # A damaged file fails on any provider: the CPU attempt below reports it.
            reason = _one_line(error)
        else:
            if session.get_providers()[0] == CUDA:
                return session, "asked for" if wants_cuda else "CUDA is there"
            reason = "the CUDA libraries did not load"

    try:
        session = _create_session(ort, path, [CPU], threads)
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error):
            raise EngineError(
                f"{path}: ONNX Runtime {ort.__version__} cannot compute it on a CPU: {_one_line(error)}",
                "bf16 files are for GPUs; export the weights again without --bf16",
            ) from error
        raise InputError(
            f"{path}: ONNX Runtime cannot open it: {_one_line(error)}",
            "The file is damaged or not an ONNX model",
        ) from error
    if wants_cuda:
        raise MissingError(f"device {device}: the session does not use it: {reason}", LIBRARIES_HINT)
    why = "asked for" if device == "cpu" else reason or f"this ONNX Runtime {ort.__version__} has no CUDA"
    return session, why


def _engine(path: Path, session: Any, lanes: int, threads: int, why: str) -> OnnxEngine:
    """Check the model of a session, and log the provider and its reason."""
    contract = Contract.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    names = {port.name for port in (*session.get_inputs(), *session.get_outputs())}
    lacking = {"image", "guide", "coefficients"} - names
    if lacking:
        raise InputError(f"{path}: the model lacks {', '.join(sorted(lacking))}", "Export the weights again")
    engine = OnnxEngine(path, session, contract, lanes)
    if contract.precision == "fp16" and engine.provider == CPU:
        log.warning(
            "%s: on a CPU, a float16 file is slower than its float32 file, which this makes: "
            "stylematte export --weights %s",
            path,
            shlex.quote(str(path)),
        )
    log.info("engine onnx, %s (%s), %d lane(s) of %d thread(s)", engine.provider, why, engine.lanes, threads)
    return engine


def _create_session(ort: Any, path: Path, providers: list[Any], threads: int) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Without VNNI, x86 CPUs add two 8-bit products in 16 bits, which overflows with int8 files.
    options.add_session_config_entry("session.x64quantprecision", "1")
    # Without enable_fallback=0, a failing provider is replaced by the CPU, with a message on stdout.
    return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        if error.name == "onnxruntime":
            raise MissingError("ONNX Runtime is not installed", INSTALL_HINT) from None
        raise MissingError(f"ONNX Runtime does not start: {_one_line(error)}", INSTALL_HINT) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _one_line(error: BaseException) -> str:
    """Shorten a runtime's message to one line."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : |Load model from .* failed:", "", str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
