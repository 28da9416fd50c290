"""Engines run a model file. `open_engine` picks one; each reads the contract from the file it opens."""

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
        engine: `auto`, `onnx`, `openvino` or `tensorrt`. `auto` takes TensorRT for an engine file, and for an
            ONNX file beside which an engine lies that was built from it for this machine; otherwise ONNX
            Runtime, and OpenVINO where that alone is installed.
        device: `auto`, `cpu`, `cuda` or `cuda:i`; with OpenVINO also Intel's `gpu`, `gpu:i`, `npu`. `auto`
            takes CUDA where the session really gets it. What `auto` took, and why, goes to the logger
            `stylematte`.
        threads: CPU threads of one network pass. None takes all cores this process may use.
        lanes: How many threads will call the engine at once; with more than one, each pass has one thread.
        precision: `auto`, `float32` or `bfloat16`: what OpenVINO computes in; `auto` is float32. The others
            compute as their file says.

    Raises:
        UsageError: A value that cannot be meant.
        MissingError: The file, the runtime or a device asked for by name is not here.
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
    """Whether `auto` takes TensorRT; says why not where an engine lies there that looks as if it should."""
    from stylematte.engines.tensorrt import SUFFIX, usable_engine

    if device == "cpu" or not any(path.parent.glob(f"{path.stem}.*{SUFFIX}")):
        return False
    is_usable, reason = usable_engine(path, device)
    if not is_usable:
        log.info("engine tensorrt is not used: %s", reason)
    return is_usable
