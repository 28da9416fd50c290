"""Engines run a model file. `open_engine` picks one; each reads the contract from the file it opens."""

import re
from pathlib import Path

from stylematte_cli.engines.base import Contract, Engine
from stylematte_cli.errors import MissingError, UsageError

__all__ = ["Contract", "Engine", "open_engine"]


def open_engine(
    path: Path, engine: str = "auto", device: str = "auto", threads: int | None = None, lanes: int = 1
) -> Engine:
    """Open a model file.

    Args:
        path: An ONNX file made by `stylematte export`.
        engine: `auto` or `onnx`.
        device: `auto`, `cpu`, `cuda` or `cuda:i`. `auto` takes CUDA where the session really gets it and logs
            its choice to the logger `stylematte`.
        threads: CPU threads of one network pass. None takes all cores this process may use.
        lanes: How many threads will call the engine at once; with more than one, each pass has one thread.

    Raises:
        UsageError: A value that cannot be meant.
        MissingError: The file, the runtime or a device asked for by name is not here.
        InputError: The file is damaged or not a model of this tool.
    """
    if engine == "tensorrt":
        raise MissingError(
            "engine tensorrt: this version has the ONNX engine only", "Use --engine onnx --device cuda"
        )
    if engine not in ("auto", "onnx"):
        raise UsageError(f"engine {engine!r} is not known", "Choose auto or onnx")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"device {device!r} is not known", "Choose auto, cpu, cuda or cuda:0, cuda:1 ...")
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: at least 1 is needed")
    if lanes < 1:
        raise UsageError(f"lanes {lanes}: at least 1 is needed")
    if not path.is_file():
        raise MissingError(f"{path}: no such weights file", "`stylematte models` lists the known names")

    from stylematte_cli.engines.onnx import open_onnx  # ONNX Runtime is an extra

    return open_onnx(path, device, threads, lanes)
