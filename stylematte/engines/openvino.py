"""OpenVINO on any CPU and on Intel's GPUs and NPUs; one compiled model per size, cached on disk."""

import hashlib
import io
import json
import logging
import sys
import threading
from collections import Counter
from contextlib import suppress
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stylematte.engines.base import Contract, DeviceCoefficients
from stylematte.engines.onnx import CPU, one_by_one, threads_of
from stylematte.errors import EngineError, InputError, MissingError, UsageError
from stylematte.files import cache_folder, sha256_of, writing

if TYPE_CHECKING:
    from stylematte.engines.gpu_filter import GpuGuidedFilter

INSTALL_HINT = 'Install it: pip install "stylematte[openvino]"'
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
# Without these instructions, bfloat16 is slower than float32, but OpenVINO may still offer it.
BF16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"))
ANY_SIZE = -1, -1
FEW_USES = 64  # of a size; above, a model compiled for it saves more time than it takes to load
MOST_SIZES = 16  # compiled models kept in memory
MOST_CACHED_BYTES = 4 << 30  # size of the disk cache; the oldest files are deleted first
DIGEST_BYTES = 64  # a cache file begins with the SHA-256 of the rest, in hex

log = logging.getLogger("stylematte")
_CORE_LOCK = threading.Lock()


class OpenVinoEngine:
    """Runs a model file with OpenVINO, with batch size 1; see `Engine`.

    On a CPU, one compiled model serves all sizes. A size that is used often gets its own, which is a tenth
    faster, but takes as long to load as many passes. Other devices only get models of one size.
    """

    name = "openvino"

    def __init__(
        self, path: Path, core: Any, model: Any, device: str, precision: str, lanes: int, threads: int
    ) -> None:
        ports = {port.get_any_name(): port for port in model.inputs}
        self.contract = _contract(path, model)
        self.provider = CPU if device == "CPU" else device
        self.precision = precision
        self.lanes = lanes
        self.gpu_filter: GpuGuidedFilter | None = None  # only for NVIDIA's GPUs; never set here
        self.takes_prior = "prior" in ports
        self._path, self._core, self._device, self._threads = path, core, device, threads
        self._model = _without_alpha(path, model)
        self._compiled: dict[tuple[int, int], SimpleQueue[Any]] = {}
        self._uses: Counter[tuple[int, int]] = Counter()
        sides = ports["image"].get_partial_shape()[2], ports["image"].get_partial_shape()[3]
        self._takes_any_size = device == "CPU" and all(side.is_dynamic for side in sides)
        self._lock = threading.Lock()

    @cached_property
    def file_sha256(self) -> str:
        """Hex digest of the model file; see `Engine`."""
        return sha256_of(self._path)

    def coefficients(
        self, images: NDArray[np.float32], priors: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | list[DeviceCoefficients]:
        """Run the network; see `Engine.coefficients`."""
        if len(images) > 1:
            return one_by_one(self.coefficients, images, priors)
        height, width = images.shape[2:]
        inputs = {"image": np.ascontiguousarray(images)}
        if self.takes_prior:
            zeros = np.zeros((1, 1, height, width), np.float32)
            inputs["prior"] = zeros if priors is None else np.ascontiguousarray(priors)
        requests = self._requests(height, width)
        request = requests.get()
        try:
            request.infer(inputs)
            return np.array(
                request.get_output_tensor(0).data, np.float32
            )  # a copy, because the request is reused
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise EngineError(
                f"{self._path}: OpenVINO failed on {height}x{width}: {_one_line(error)}"
            ) from error
        finally:
            requests.put(request)

    def _requests(self, height: int, width: int) -> "SimpleQueue[Any]":
        """Return the inference requests, one per lane, of the model compiled for a size or for all sizes."""
        size = height, width
        with self._lock:
            self._uses[size] += 1
            if self._takes_any_size and self._uses[size] <= FEW_USES:
                size = ANY_SIZE
            known = self._compiled.pop(size, None)
            if known is None:
                compiled = self._compile(*size)
                known = SimpleQueue()
                for _ in range(self.lanes):
                    known.put(compiled.create_infer_request())
            self._compiled[size] = known  # most recently used last
            while len(self._compiled) > MOST_SIZES:
                del self._compiled[next(iter(self._compiled))]
            return known

    def _compile(self, height: int, width: int) -> Any:
        settings = self._settings()
        file = _cached(self._cache_key(height, width, settings))
        if blob := _read(file):
            with suppress(Exception):  # from another machine or too old: compile again
                return self._core.import_model(io.BytesIO(blob), self._device, settings)
        shapes = {"image": [1, 3, height, width], "prior": [1, 1, height, width]}
        model = self._model.clone()
        try:
            model.reshape({port: shapes[port.get_any_name()] for port in model.inputs})
            compiled = self._core.compile_model(model, self._device, settings)
        except Exception as error:
            raise EngineError(
                f"{self._path}: OpenVINO cannot compile it for {_said(height, width)}: {_one_line(error)}",
                "Use --engine onnx",
            ) from error
        try:
            _write(file, compiled.export_model().getvalue())
        except Exception as error:  # no export on this device, or a full disk: only slower next time
            log.debug("the compiled model is not kept: %s", _one_line(error))
        return compiled

    def _settings(self) -> dict[str, Any]:
        """Return the compile settings: one stream with all threads, or one stream of one thread per lane."""
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[self.precision]}
        if self._device == "CPU":
            settings |= {
                "NUM_STREAMS": self.lanes,
                "INFERENCE_NUM_THREADS": self._threads * self.lanes,
                "ENABLE_CPU_PINNING": False,  # the cores are shared with the other stages
            }
        return settings

    def _cache_key(self, height: int, width: int, settings: dict[str, Any]) -> str:
        facts = {
            "model": self.file_sha256,
            "size": [height, width],
            "settings": settings,
            "device": self._core.get_property(self._device, "FULL_DEVICE_NAME"),
            "capabilities": sorted(self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")),
            "openvino": openvino_version(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def open_openvino(
    path: Path, device: str, threads: int | None, lanes: int, precision: str = "auto"
) -> OpenVinoEngine:
    """Open a model file with OpenVINO.

    Args:
        path: The ONNX file.
        device: `auto` and `cpu`: the CPU; `gpu`, `gpu:i`, `npu`: Intel's devices.
        threads: Threads of one network pass; None: all cores. With several lanes, each pass has one thread.
        lanes: Number of threads that call the engine in parallel.
        precision: `auto`, `float32` or `bfloat16`. `auto` is float32. `bfloat16` falls back to float32, with
            a log message, if the processor does not support it.

    Raises:
        MissingError: OpenVINO is not installed, or the device does not exist.
        InputError: The file is not an ONNX file, or not a model of this tool.
        UsageError: The device or precision is invalid.
    """
    core = _core()
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"precision {precision!r} is not known", "Choose auto, float32 or bfloat16")
    wanted = _device_of(device, core)
    try:
        model = core.read_model(str(path))
    except Exception as error:
        raise InputError(
            f"{path}: OpenVINO cannot open it: {_one_line(error)}",
            "The file is damaged, or it has operators that OpenVINO lacks; try --engine onnx",
        ) from error
    runs_in = "float32" if precision == "auto" else precision
    if runs_in == "bfloat16" and not computes_in_bf16(core, wanted):
        log.info("precision float32: this processor has no instructions for bfloat16")
        runs_in = "float32"
    engine = OpenVinoEngine(path, core, model, wanted, runs_in, lanes, threads_of(threads, lanes))
    log.info("engine openvino, %s, %s, %d lane(s)", wanted, runs_in, lanes)
    return engine


def openvino_version() -> str:
    """Return the installed release of OpenVINO; empty if there is none."""
    try:
        return str(_import_openvino().__version__).partition("-")[0]
    except MissingError:
        return ""


def describe_devices() -> dict[str, tuple[str, bool]]:
    """Return device name → (full name, whether it computes in bfloat16).

    Raises:
        MissingError: OpenVINO is not installed, or does not start.
    """
    core = _core()
    return {
        name: (core.get_property(name, "FULL_DEVICE_NAME"), computes_in_bf16(core, name))
        for name in core.available_devices
    }


def computes_in_bf16(core: Any, device: str = "CPU") -> bool:
    """Return whether a device has instructions for bfloat16, rather than emulating them."""
    if "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        return False
    if device != "CPU":
        return True
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return not lines or not BF16_FLAGS.isdisjoint(lines[0].split())


def _core() -> Any:
    """Return OpenVINO's `Core`: one per process, never freed.

    Its CPU plugin gives the thread that loads it a stack for signals, and unmaps it when the last `Core` is
    freed. If another thread does that, the next signal (Ctrl-C, the end of a child process) is a crash.

    Raises:
        MissingError: OpenVINO is not installed, or does not start.
    """
    ov = _import_openvino()
    with _CORE_LOCK:
        return _make_core(ov)


@cache
def _make_core(ov: Any) -> Any:
    # OpenVINO 2026.4 deadlocks if two threads convert the process's first arrays at the same time.
    _ = ov.Tensor(np.zeros(1, np.float32)).data
    return ov.Core()


def _import_openvino() -> Any:
    # OpenVINO reports the use of some of its tools, unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module("openvino")
    except ImportError as error:
        if error.name == "openvino":
            raise MissingError("OpenVINO is not installed", INSTALL_HINT) from None
        raise MissingError(f"OpenVINO does not start: {error}", INSTALL_HINT) from error


def _device_of(device: str, core: Any) -> str:
    name, _, index = device.partition(":")
    if name == "cuda":
        raise UsageError("engine openvino has no CUDA", "Use --engine onnx, or --device cpu, gpu or npu")
    wanted = "CPU" if name in ("auto", "cpu") else name.upper() + (f".{index}" if index else "")
    there = list(core.available_devices)
    if wanted not in there and f"{wanted}.0" not in there:
        raise MissingError(f"device {device}: OpenVINO only finds {', '.join(there)}", "Use --device cpu")
    return wanted


def _contract(path: Path, model: Any) -> Contract:
    info = model.get_rt_info()
    found = info["framework"] if "framework" in info else {}
    metadata = {str(key): str(found[key].value) for key in found}
    return Contract.from_metadata(metadata, str(path))


def _without_alpha(path: Path, model: Any) -> Any:
    """Return the part that computes `coefficients`; alpha is computed outside OpenVINO, at full size."""
    names = {port.get_any_name() for port in (*model.inputs, *model.outputs)}
    if lacking := {"image", "guide", "coefficients"} - names:
        raise InputError(f"{path}: the model lacks {', '.join(sorted(lacking))}", "Export the weights again")
    inputs = [port.get_node() for port in model.inputs if port.get_any_name() != "guide"]
    return _import_openvino().Model([model.output("coefficients")], inputs, "coefficients")


def _cached(key: str) -> Path:
    return cache_folder() / "openvino" / f"{key}.blob"


def _read(file: Path) -> bytes | None:
    """Read a compiled model; None if it is missing or damaged."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    blob = data[DIGEST_BYTES:]
    if hashlib.sha256(blob).hexdigest().encode() != data[:DIGEST_BYTES]:
        log.debug("%s: damaged, made anew", file)
        return None
    file.touch()
    return blob


def _write(file: Path, blob: bytes) -> None:
    """Store a compiled model atomically, and delete the oldest ones."""
    with writing(file, shared=True) as temporary:
        temporary.write_bytes(hashlib.sha256(blob).hexdigest().encode() + blob)
    kept = 0
    by_age = sorted(file.parent.glob("*.blob"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_age:
        kept += path.stat().st_size
        if kept > MOST_CACHED_BYTES and path != file:
            path.unlink(missing_ok=True)


def _said(height: int, width: int) -> str:
    return "all sizes" if (height, width) == ANY_SIZE else f"{height}x{width}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
