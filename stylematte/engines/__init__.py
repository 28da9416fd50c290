"""Engines run a model file. `open_engine` chooses one; each reads the contract from the file it opens."""

import logging
import re
from importlib.util import find_spec
from pathlib import Path

from stylematte.engines.base import Contract, Engine
from stylematte.errors import MissingError, UsageError

__all__ = ["Contract", "Engine", "open_engine"]

ENGINES = ("auto", "onnx", "openvino", "tensorrt")

log = logging.getLogger("stylematte")


def open_engine(
    path: Path,
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    lanes: int = 1,
    precision: str = "auto",
) -> Engine:
    """Open a model file.

    Args:
        path: An ONNX file or a TensorRT engine made by `stylematte export`.
        engine: `auto`, `onnx`, `openvino` or `tensorrt`. `auto` chooses TensorRT for an engine file, and for
            an ONNX file with an engine beside it that was built from it for this machine; otherwise ONNX
            Runtime, or OpenVINO if only that is installed.
        device: `auto`, `cpu`, `cuda` or `cuda:i`; with OpenVINO also Intel's `gpu`, `gpu:i`, `npu`. `auto`
            chooses CUDA if the session actually gets it. The choice and its reason are logged to
            `stylematte`.
        threads: CPU threads of one network pass. None: all cores that this process may use.
        lanes: Number of threads that call the engine in parallel; above 1, each pass has one thread.
        precision: Precision in which OpenVINO computes: `auto`, `float32` or `bfloat16`; `auto` is float32.
            The other engines use the precision of their file.

    Raises:
        UsageError: An argument is invalid.
        MissingError: The file, the runtime or an explicitly named device is not available.
        InputError: The file is damaged or not a model of this tool.
    """
    if engine not in ENGINES:
        raise UsageError(
            f"engine {engine!r} is not known", f"Choose {', '.join(ENGINES[:-1])} or {ENGINES[-1]}"
        )
    if not re.fullmatch(r"auto|cpu|(cuda|gpu)(:\d+)?|npu", device):
        raise UsageError(f"device {device!r} is not known", "Choose auto, cpu, cuda or cuda:0, cuda:1 ...")
    if device.startswith(("gpu", "npu")) and engine != "openvino":
        raise UsageError(
            f"device {device} is only for Intel's hardware",
            "Add --engine openvino, or choose auto, cpu or cuda",
        )
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: must be at least 1")
    if lanes < 1:
        raise UsageError(f"lanes {lanes}: must be at least 1")
    if not path.is_file():
        raise MissingError(f"{path}: no such weights file", "`stylematte models` lists the known names")

    from stylematte.engines import tensorrt

    is_built = path.suffix == tensorrt.SUFFIX
    if is_built and engine in ("onnx", "openvino"):
        raise UsageError(f"{path}: a TensorRT engine", "Use --engine tensorrt, or give the ONNX file")
    if device == "cpu" and (is_built or engine == "tensorrt"):
        raise UsageError("engine tensorrt needs a GPU, not --device cpu", "Use --device cuda")
    if is_built or engine == "tensorrt" or (engine == "auto" and _has_engine(path, device)):
        _refuse_precision(precision, "tensorrt")
        return tensorrt.open_tensorrt(path, device, lanes)
    if engine == "openvino" or (
        engine == "auto" and not _is_installed("onnxruntime") and _is_installed("openvino")
    ):
        from stylematte.engines.openvino import open_openvino

        return open_openvino(path, device, threads, lanes, precision)
    _refuse_precision(precision, "onnx")
    from stylematte.engines.onnx import open_onnx  # ONNX Runtime is an extra

    return open_onnx(path, device, threads, lanes)


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def _refuse_precision(precision: str, engine: str) -> None:
    if precision == "bfloat16":
        raise UsageError(
            f"precision bfloat16: engine {engine} uses the precision of the model file",
            "Use --engine openvino, or a file made by `stylematte export --bf16`",
        )
    if precision not in ("auto", "float32"):
        raise UsageError(f"precision {precision!r} is not known", "Choose auto, float32 or bfloat16")


def _has_engine(path: Path, device: str) -> bool:
    """Return whether `auto` chooses TensorRT; if there is an engine that cannot be used, log why."""
    from stylematte.engines.tensorrt import SUFFIX, usable_engine

    if device == "cpu" or not any(path.parent.glob(f"{path.stem}.*{SUFFIX}")):
        return False
    is_usable, reason = usable_engine(path, device)
    if not is_usable:
        log.info("engine tensorrt is not used: %s", reason)
    return is_usable
