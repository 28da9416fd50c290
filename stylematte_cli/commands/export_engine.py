"""The part of `stylematte export` that makes TensorRT engines."""

import logging
import platform
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stylematte.errors import InputError, MissingError, UsageError
from stylematte_cli.commands.toolkit import require

SECONDS_BETWEEN_LINES = 5

log = logging.getLogger("stylematte")


def check(precision: str, unusable: Sequence[str], plan_only: bool, device: str) -> None:
    """Reject early what would only fail after minutes.

    Args:
        precision: Precision of the model file.
        unusable: Given options that cannot be applied to an existing model file.
        plan_only: Whether nothing is built on this machine.
        device: The option --device.

    Raises:
        UsageError: The options cannot be combined.
        MissingError: TensorRT is not installed.
    """
    if precision == "int8":
        raise UsageError(
            "TensorRT does not read int8 files made for CPUs, with int32 biases and uint8 activations",
            "Use --fp16 or --bf16",
        )
    if unusable:
        raise UsageError(
            f"{unusable[0]} cannot be applied to an existing .onnx file", "Omit it, or give trained weights"
        )
    if device == "cpu":
        raise UsageError("--format tensorrt needs a GPU, not --device cpu", "Use --device cuda")
    if not plan_only and find_spec("tensorrt") is None:
        raise MissingError(
            "TensorRT is not installed",
            'Run pip install "stylematte[tensorrt]" on the machine with the GPU; without one, --plan-only '
            "writes the files that need no GPU",
        )
    require("onnx", extra="train")
    require("onnxruntime", extra="cpu")
    require("cuda", extra="cuda")


def read_model(path: Path) -> Any:
    """Read a self-contained ONNX file.

    Raises:
        InputError: The file is damaged, or keeps its weights in other files.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # onnx raises no specific exception for a damaged file
        raise InputError(f"{path}: not a readable ONNX file: {error}") from None
    constants = (entry.t for node in model.graph.node for entry in node.attribute)
    if any(tensor.external_data for tensor in (*model.graph.initializer, *constants)):
        raise InputError(
            f"{path}: keeps its weights in other files, but a model must be one file",
            "Export one with `stylematte export`",
        )
    return model


def given_model(path: Path, out: Path, overwrite: bool) -> Path:
    """Copy an existing ONNX file and its refiner to the output folder.

    Raises:
        MissingError: The file does not exist.
        InputError: Not a StyleMatte model, or the folder has another file of this name.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such model file", "Give an .onnx file made by `stylematte export`")
    metadata = {entry.key: entry.value for entry in read_model(path).metadata_props}
    if "stylematte.contract" not in metadata:
        raise InputError(f"{path}: not a StyleMatte model", "Give an .onnx file made by `stylematte export`")
    names = [metadata.get("stylematte.refiner", ""), path.name]
    files = [path.with_name(Path(name).name) for name in names if name]
    for file in (file for file in files if file.is_file()):
        _copy(file, out / file.name, overwrite)
    return out / path.name


def _copy(file: Path, target: Path, overwrite: bool) -> None:
    if target.exists() and (target.samefile(file) or target.read_bytes() == file.read_bytes()):
        return
    if target.exists() and not overwrite:
        raise InputError(
            f"{target} already exists and differs from {file}", "Give --overwrite, or another --out"
        )
    from stylematte.files import write_bytes

    write_bytes(target, file.read_bytes())


def make(
    onnx_path: Path,
    size: int | None,
    batch_size: int,
    device: str,
    photos: Path | None,
    plan_only: bool,
    overwrite: bool,
    lines: list[str],
) -> dict[str, Any]:
    """Build an engine from a model file, check it, and write it with its sidecar beside the file.

    Returns:
        Facts for --json; adds output to `lines`.
    """
    from export import engine_plan
    from export.parity import PHOTOS, read_photos

    plan = engine_plan.plan_for(onnx_path.stem, read_model(onnx_path), size, batch_size)
    if plan_only:
        files = [str(path) for path in engine_plan.write_plan(plan, onnx_path, onnx_path.parent)]
        lines += [f"build the engine of {onnx_path} on the machine with the GPU, with:", *files]
        return {"plan": files}
    check_photos = read_photos(photos or PHOTOS, 4)
    gpu, built_for = _gpu(device)
    identity = engine_plan.identify(plan, onnx_path, built_for)
    path = engine_plan.engine_path(plan, identity, onnx_path.parent)
    if engine_plan.is_built(path) and not overwrite:
        lines.append(f"{path}: already built for this GPU, driver and TensorRT; --overwrite builds it again")
        return {"engine": str(path), "built": False}
    parity, seconds = _build(plan, identity, path, check_photos, gpu)
    lines.append(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB in {seconds:.0f} s; alpha differs from ONNX Runtime's "
        f"by at most {parity.max_difference:.1e}, on average by {parity.mean_difference:.1e}"
    )
    return {"engine": str(path), "built": True, "engine_parity": parity.as_dict()}


def _gpu(device: str) -> tuple[Any, dict[str, str]]:
    from stylematte.engines.cuda import Cuda
    from stylematte.engines.tensorrt import machine_identity

    gpu = Cuda(int(device.partition(":")[2] or 0))
    return gpu, machine_identity(gpu)


def _build(plan: Any, identity: Any, path: Path, check_photos: Any, gpu: Any) -> tuple[Any, float]:
    """Build, check and write an engine; returns the parity and the build time in seconds."""
    import tensorrt

    from export import tensorrt as export_tensorrt
    from stylematte import __version__
    from stylematte.engines.guided_filter import nvrtc

    log.info(
        "building %s for %s; this takes minutes, and the GPU should be idle otherwise", path.name, plan.sizes
    )
    started = time.perf_counter()
    engine = export_tensorrt.build_in_process(plan, _teller())
    seconds = time.perf_counter() - started
    run = export_tensorrt.run_engine(tensorrt, engine, plan, gpu)
    parity = export_tensorrt.check_engine(plan, run, check_photos)
    facts = {
        "tool_version": __version__,
        "seconds": round(seconds, 1),
        "nvrtc": nvrtc.version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    export_tensorrt.write_engine(path, engine, plan, identity, parity, facts)
    return parity, seconds


def _teller() -> Any:
    """Return a function that logs TensorRT's progress every few seconds."""
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def tell(phase: str, done: int, steps: int) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            log.info("TensorRT: %s, %d of %d", phase, done, steps)
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    return tell
