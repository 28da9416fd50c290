"""TensorRT engines: a file for one GPU model, and a sidecar that describes it (docs/model-contract.md)."""

import hashlib
import json
import logging
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stylematte.engines.base import Contract, DeviceCoefficients
from stylematte.engines.cuda import INSTALL_HINT, Cuda
from stylematte.engines.gpu_filter import GpuArray, GpuCoefficients, GpuGuidedFilter
from stylematte.errors import EngineError, InputError, MissingError
from stylematte.files import sha256_of

SIDECAR_VERSION = 1
SUFFIX = ".engine"
LANES = 2  # contexts: one prepares its batch on the CPU while the other's batch is on the GPU
FLOAT_BYTES = 4

log = logging.getLogger("stylematte")


@dataclass(frozen=True)
class Sidecar:
    """The description of an engine file, stored beside it.

    Attributes:
        contract: Contract of the ONNX file that the engine was built from.
        built_for: `gpu`, `compute_capability`, `driver` and `tensorrt`; all must be the same on this machine.
        engine_sha256: Hex digest of the engine file.
        onnx_sha256: Hex digest of the ONNX file.
        sizes: Each working (height, width) that the engine was built for.
        largest_batch: Largest number of images in one pass.
    """

    contract: Contract
    built_for: dict[str, str]
    engine_sha256: str
    onnx_sha256: str
    sizes: tuple[tuple[int, int], ...]
    largest_batch: int

    @classmethod
    def read(cls, engine_path: Path) -> Self:
        """Read the sidecar of an engine file.

        Raises:
            InputError: The sidecar is missing, damaged, or of another version.
        """
        path = sidecar_path(engine_path)
        again = "Build the engine again with `stylematte export --format tensorrt`"
        if not path.is_file():
            raise InputError(f"{engine_path}: its {path.name}, which describes the engine, is missing", again)
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            found = facts["sidecar"]
            if found != SIDECAR_VERSION:
                raise InputError(
                    f"{path}: sidecar version {found}, this tool reads version {SIDECAR_VERSION}",
                    "Update stylematte, or build the engine again with this version",
                )
            return cls(
                contract=Contract.from_metadata(facts["contract"], str(path)),
                built_for={str(key): str(value) for key, value in facts["built_for"].items()},
                engine_sha256=facts["engine_sha256"],
                onnx_sha256=facts["onnx_sha256"],
                sizes=tuple((int(height), int(width)) for height, width in facts["sizes"]),
                largest_batch=int(facts["largest_batch"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: damaged: {type(error).__name__}: {error}", again) from None

    def mismatch(self, here: dict[str, str]) -> str:
        """Return the differences between this machine and the one the engine was built for; empty if none."""
        differences = [
            f"{key.replace('_', ' ')} {self.built_for.get(key)}, here {value}"
            for key, value in here.items()
            if self.built_for.get(key) != value
        ]
        return "; ".join(differences)


def sidecar_path(engine_path: Path) -> Path:
    """Return the path of an engine's sidecar: `nano.3f2a.engine` → `nano.3f2a.engine.json`."""
    return engine_path.with_name(engine_path.name + ".json")


def tensorrt_version() -> str:
    """Return the version of the installed TensorRT, four numbers; empty if there is none."""
    for package in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def machine_identity(gpu: Cuda) -> dict[str, str]:
    """Return what an engine is tied to: the GPU, its driver, and the installed TensorRT."""
    return {**gpu.identity(), "tensorrt": tensorrt_version()}


def find_engine(onnx_path: Path, here: dict[str, str]) -> tuple[Path | None, str]:
    """Find an engine beside an ONNX file that was built from it for this machine.

    Args:
        onnx_path: `<name>.onnx`; engines are named `<name>.<key>.engine`.
        here: Result of `machine_identity`.

    Returns:
        The engine and an empty text; or None and the reason why no engine can be used.
    """
    reasons = []
    candidates = sorted(onnx_path.parent.glob(f"{onnx_path.stem}.*{SUFFIX}"))
    digest = sha256_of(onnx_path) if candidates else ""
    for path in candidates:
        try:
            sidecar = Sidecar.read(path)
        except InputError as error:
            reasons.append(error.message)
            continue
        if sidecar.onnx_sha256 != digest:
            reasons.append(f"{path.name} was built from another {onnx_path.name}")
        elif difference := sidecar.mismatch(here):
            reasons.append(f"{path.name} was built for {difference}")
        else:
            return path, ""
    return None, "; ".join(reasons) or f"no engine of {onnx_path.name} lies beside it"


def usable_engine(onnx_path: Path, device: str) -> tuple[bool, str]:
    """Return whether TensorRT, a GPU and a matching engine are available; if not, also the reason."""
    try:
        _import_tensorrt()
        here = machine_identity(_gpu(device))
    except MissingError as error:
        return False, error.message
    found, reason = find_engine(onnx_path, here)
    return found is not None, reason


def open_tensorrt(path: Path, device: str, lanes: int) -> "TensorRTEngine":
    """Open an engine file, or the engine beside an ONNX file.

    Args:
        path: `.engine` or `.onnx` file.
        device: `auto`, `cuda` or `cuda:i`, checked by the caller.
        lanes: Number of threads that call the engine in parallel.

    Raises:
        MissingError: There is no TensorRT, no GPU, or no engine for this GPU.
        InputError: The engine is not one of this tool, is damaged, or was built for another machine.
    """
    trt = _import_tensorrt()
    # TensorRT ends the process if it finds no GPU, so check for one first.
    gpu = _gpu(device)
    here = machine_identity(gpu)
    given = ["--weights", str(path), "--out", str(path.parent)]
    build = f"Build one here: {shlex.join(['stylematte', 'export', '--format', 'tensorrt', *given])}"
    if path.suffix == SUFFIX:
        sidecar = Sidecar.read(path)
        if difference := sidecar.mismatch(here):
            raise InputError(
                f"{path}: the engine was built for {difference}", "Build it again on this machine"
            )
    else:
        found, reason = find_engine(path, here)
        if found is None:
            raise MissingError(f"engine tensorrt: {reason}", build)
        path = found
        sidecar = Sidecar.read(path)
    data = path.read_bytes()
    # A plan can contain code that runs on this machine, so TensorRT gets only the one hashed in the sidecar.
    if hashlib.sha256(data).hexdigest() != sidecar.engine_sha256:
        raise InputError(f"{path}: SHA-256 differs from its sidecar's: damaged or replaced", "Build it again")
    plan = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(data)
    if plan is None:
        raise EngineError(f"{path}: TensorRT {here['tensorrt']} cannot open the engine", "Build it again")
    engine = TensorRTEngine(path, plan, sidecar, gpu, max(lanes, LANES))
    log.info("engine tensorrt, %s on %s, %s", path.name, here["gpu"], sidecar.contract.precision)
    return engine


class TensorRTEngine:
    """Runs an engine file; see `Engine`.

    Each lane has a context, a stream, and memory for the largest pass. So a pass is one upload, one launch of
    a CUDA graph, and one download of the coefficients, which have at most a sixth of the image's size.
    """

    name = "tensorrt"
    provider = "TensorRT"

    def __init__(self, path: Path, plan: Any, sidecar: Sidecar, gpu: Cuda, lanes: int) -> None:
        self.contract = sidecar.contract
        self.lanes = lanes
        self.gpu_filter: GpuGuidedFilter | None = None  # set by `engines.gpu.use_gpu_filter`
        self.takes_prior = "prior" in _tensors(plan)
        self.file_sha256 = sidecar.engine_sha256  # checked by `open_tensorrt`
        self._path = path
        self._largest_batch = sidecar.largest_batch
        self._sizes = sidecar.sizes
        self._free: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(lanes):
            self._free.put(_Lane(plan, gpu, sidecar))

    def coefficients(
        self, images: NDArray[np.float32], priors: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | list[DeviceCoefficients]:
        """Run the network at one of the sizes that the engine was built for; see `Engine.coefficients`."""
        size = images.shape[2:]
        if size not in self._sizes:
            raise EngineError(
                f"{self._path}: built for {_text(self._sizes)}, not for {'x'.join(map(str, size))}",
                "Build an engine with that --size",
            )
        most = self._largest_batch
        pieces = [
            (images[start : start + most], None if priors is None else priors[start : start + most])
            for start in range(0, len(images), most)
        ]
        with self._lane() as lane:
            try:
                if self.gpu_filter is not None:
                    return [kept for piece in pieces for kept in lane.run_and_keep(*piece, self.gpu_filter)]
                return np.concatenate([lane.run(*piece) for piece in pieces])
            except EngineError as error:
                raise EngineError(f"{self._path}: {error.message}", error.hint) from error

    @contextmanager
    def _lane(self) -> Iterator["_Lane"]:
        lane = self._free.get()
        try:
            yield lane
        finally:
            self._free.put(lane)


class _Lane:
    """A context with its stream and memory; used by one thread at a time."""

    def __init__(self, plan: Any, gpu: Cuda, sidecar: Sidecar) -> None:
        self._gpu = gpu
        self._sizes = sidecar.sizes
        self._context = plan.create_execution_context()
        if self._context is None:
            raise EngineError("TensorRT has not enough memory for another context", "Use fewer --workers")
        self._stream = gpu.stream()
        self._tensors = _tensors(plan)
        self._shape: tuple[int, ...] = ()
        self._graph: Any = None
        needed = self._needed_bytes(sidecar.largest_batch)
        self._addresses = {name: gpu.allocate(count) for name, count in needed.items()}
        for name in ("guide", "prior"):
            if name in self._addresses:
                gpu.upload(np.zeros(needed[name], np.uint8), self._addresses[name], self._stream)
        self._had_prior = False  # the prior's memory is zero until a pass uploads one
        for name, address in self._addresses.items():
            self._checked(self._context.set_tensor_address(name, address), f"it takes no address for {name}")

    def _needed_bytes(self, batch: int) -> dict[str, int]:
        """Return the bytes of each tensor for the largest pass of any profile, from TensorRT's shapes."""
        needed = dict.fromkeys(self._tensors, 0)
        for height, width in self._sizes:
            self._choose((batch, 3, height, width))
            for name in self._tensors:
                shape = tuple(self._context.get_tensor_shape(name))
                self._checked(min(shape) > 0, f"it does not know the shape of {name}")
                needed[name] = max(needed[name], math.prod(shape) * FLOAT_BYTES)
        self._shape = ()
        return needed

    def run(self, images: NDArray[np.float32], priors: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Run a pass: images (n, 3, h, w), and priors (n, 1, h, w) or None → (n, 2, gh, gw), float32."""
        self._pass(images, priors)
        result = np.empty(self._result_shape(), np.float32)
        self._gpu.download(self._addresses["coefficients"], result, self._stream)
        return result

    def run_and_keep(
        self, images: NDArray[np.float32], priors: NDArray[np.float32] | None, gpu_filter: GpuGuidedFilter
    ) -> list[DeviceCoefficients]:
        """Run a pass, but keep the result on the GPU, in memory that the next pass does not overwrite."""
        self._pass(images, priors)
        shape = (1, *self._result_shape()[1:])
        step = math.prod(shape) * FLOAT_BYTES
        kept: list[DeviceCoefficients] = []
        for index in range(len(images)):
            array = GpuArray(self._gpu, shape, np.float32)
            source = self._addresses["coefficients"] + index * step
            self._gpu.copy(source, array.address, step, self._stream)
            kept.append(GpuCoefficients(array, gpu_filter))
        return kept

    def _result_shape(self) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape("coefficients"))

    def _pass(self, images: NDArray[np.float32], priors: NDArray[np.float32] | None) -> None:
        self._gpu.upload(np.ascontiguousarray(images), self._addresses["image"], self._stream)
        if "prior" in self._addresses and (priors is not None or self._had_prior):
            count, _, height, width = images.shape
            given = np.zeros((count, 1, height, width), np.float32) if priors is None else priors
            self._gpu.upload(np.ascontiguousarray(given), self._addresses["prior"], self._stream)
            self._had_prior = True
        if images.shape != self._shape:
            self._choose(images.shape)
            self._enqueue()  # TensorRT's setup in the first pass of a shape must not be captured
        else:
            # A graph is valid for one shape only: it is captured in the second consecutive pass of a shape.
            self._graph = self._graph or self._gpu.capture(self._enqueue, self._stream)
            self._gpu.launch(self._graph, self._stream)

    def _choose(self, shape: tuple[int, ...]) -> None:
        self._graph, self._shape = None, ()
        profile = self._sizes.index((shape[2], shape[3]))
        context, stream = self._context, self._stream
        if context.active_optimization_profile != profile:
            self._checked(context.set_optimization_profile_async(profile, stream), f"no profile {profile}")
            self._gpu.wait(stream)
        # The guide is one pixel, because full-size alpha is computed from the coefficients outside TensorRT.
        shapes = {"image": shape, "guide": (shape[0], 3, 1, 1), "prior": (shape[0], 1, *shape[2:])}
        for name, wanted in shapes.items():
            if name in self._tensors:
                self._checked(context.set_input_shape(name, wanted), f"it takes no {name} of {wanted}")
        self._shape = shape

    def _enqueue(self) -> None:
        self._checked(self._context.execute_async_v3(self._stream), "the pass failed")

    @staticmethod
    def _checked(is_done: bool, message: str) -> None:
        if not is_done:
            raise EngineError(f"TensorRT: {message}")


def _tensors(plan: Any) -> list[str]:
    """Return the names of an engine's inputs and outputs."""
    return [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]


def _gpu(device: str) -> Cuda:
    return Cuda(int(device.partition(":")[2] or 0))


def _import_tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        if error.name == "tensorrt":
            raise MissingError("TensorRT is not installed", INSTALL_HINT) from None
        raise MissingError(f"TensorRT does not start: {error}", INSTALL_HINT) from error
    return tensorrt


def _text(sizes: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)
