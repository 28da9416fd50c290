"""Measure a model's speed and memory in a separate process, and describe the machine."""

import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.engines.base import usable_cores
from stylematte.errors import EngineError, StyleMatteError

SECONDS_FOR_NVIDIA_SMI = 20
WARM_UPS = 3  # the first passes allocate memory, and a GPU compiles kernels


@dataclass(frozen=True)
class Case:
    """A configuration to time.

    Attributes:
        path: Model file.
        engine: See `open_engine`.
        device: See `open_engine`.
        size: Working size; None: the model's own.
        batch_size: Number of images in one network pass.
        photo_size: (height, width) of the photo that is matted.
        runs: Number of timed passes.
        threads: CPU threads of a pass; None: all cores.
        detail: See `matter.open_detail`.
        precision: See `open_engine`.
    """

    path: Path
    engine: str = "auto"
    device: str = "auto"
    size: int | None = None
    batch_size: int = 1
    photo_size: tuple[int, int] = (1536, 2048)
    runs: int = 20
    threads: int | None = None
    detail: str = "off"
    precision: str = "auto"


@dataclass(frozen=True)
class Timing:
    """The measurements of a case.

    Attributes:
        weights: Name of the model file.
        preset: Preset of the model.
        precision: Precision of the network.
        engine: Name of the engine.
        provider: Provider that the session uses.
        working_size: (height, width) of the network's input.
        batch_size: Number of images in a pass.
        network_ms: Median time of a network pass on a whole batch.
        network_p95_ms: 95th percentile of the time of a network pass.
        photos_per_second: Throughput of the network: batch size divided by the median.
        matte_ms: Median time from a decoded photo to its 8-bit alpha, one photo at a time.
        first_ms: Time from opening the file to the first alpha.
        memory_bytes: Peak resident memory of the process, including Python and the libraries.
        card_bytes: GPU memory of the process; None without a GPU, or if the driver does not report it.
    """

    weights: str
    preset: str
    precision: str
    engine: str
    provider: str
    working_size: tuple[int, int]
    batch_size: int
    network_ms: float
    network_p95_ms: float
    photos_per_second: float
    matte_ms: float
    first_ms: float
    memory_bytes: int
    card_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def measure(case: Case) -> Timing:
    """Time a case in this process.

    Raises:
        StyleMatteError: The model cannot be opened or run.
    """
    import stylematte

    photo = drawn_photo(*case.photo_size)
    started = time.perf_counter()
    matter = stylematte.load(
        case.path,
        device=case.device,
        engine=case.engine,
        size=case.size,
        threads=case.threads,
        detail=case.detail,
        precision=case.precision,
    )
    engine = matter.engine
    matter(photo).alpha_as(np.uint8)
    first_ms = 1000 * (time.perf_counter() - started)
    contract = engine.contract
    working_size = contract.working_size_for(*case.photo_size, case.size)
    images = np.random.default_rng(0).random((case.batch_size, 3, *working_size), np.float32)
    network_ms = _times_ms(lambda: engine.coefficients(images), case.runs)
    matte_ms = _times_ms(lambda: matter(photo).alpha_as(np.uint8), case.runs)
    median_ms = float(np.median(network_ms))
    return Timing(
        weights=case.path.stem,
        preset=contract.preset,
        precision="bf16" if getattr(engine, "precision", "") == "bfloat16" else contract.precision,
        engine=engine.name,
        provider=engine.provider,
        working_size=working_size,
        batch_size=case.batch_size,
        network_ms=median_ms,
        network_p95_ms=sorted(network_ms)[math.ceil(0.95 * len(network_ms)) - 1],
        photos_per_second=1000 * case.batch_size / median_ms,
        matte_ms=float(np.median(matte_ms)),
        first_ms=first_ms,
        memory_bytes=_greatest_resident_bytes(),
        card_bytes=_gpu_bytes(os.getpid()),
    )


def measure_apart(case: Case) -> Timing:
    """Time a case in a separate process, which isolates its memory and crashes.

    Raises:
        StyleMatteError: See `measure`.
        EngineError: The process died.
    """
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked copy would share this process's threads and memory
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_measured, args=(case, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise EngineError(
            f"{case.path}: the measuring process ended with exit code {process.exitcode}",
            "A smaller --size or --batch-size needs less memory",
        ) from None
    finally:
        if process.is_alive() and sys.exc_info()[0] is KeyboardInterrupt:
            process.terminate()
        process.join()
    if isinstance(result, StyleMatteError):
        raise result
    assert isinstance(result, Timing)
    return result


def machine() -> dict[str, Any]:
    """Describe the machine: processor, usable cores, GPUs, system, and relevant package versions."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "cards": _nvidia_smi("--query-gpu=name,driver_version,memory.total"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {
            name: _version(name)
            for name in ("stylematte", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "numpy")
        },
    }


def drawn_photo(height: int, width: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) to time with: a gradient, since only its size affects the time."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 90)], axis=2)
    return image.astype(np.uint8)


def _send_measured(case: Case, sender: Any) -> None:
    try:
        sender.send(measure(case))
    except StyleMatteError as error:
        sender.send(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _times_ms(call: Callable[[], Any], runs: int) -> list[float]:
    for _ in range(WARM_UPS):
        call()
    times_ms = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times_ms.append(1000 * (time.perf_counter() - started))
    return times_ms


def _greatest_resident_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gpu_bytes(process: int) -> int | None:
    for line in _nvidia_smi("--query-compute-apps=pid,used_memory", ",nounits"):
        pid, _, mebibytes = line.partition(",")
        if pid.strip() == str(process) and mebibytes.strip().isdigit():
            return int(mebibytes) << 20
    return None


def _nvidia_smi(query: str, more_format: str = "") -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, query, f"--format=csv,noheader{more_format}"],
            capture_output=True,
            text=True,
            timeout=SECONDS_FOR_NVIDIA_SMI,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # an empty list means no usable GPU
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
