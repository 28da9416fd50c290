"""Build a TensorRT engine from a contract file, check it and write it with its sidecar (docs/export.md)."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx

from export.contract import Float, feed
from export.engine_plan import SIDECAR_VERSION, EnginePlan, Identity
from export.parity import (
    LIMITS,
    NOISE,
    Case,
    Parity,
    Run,
    compare,
    run_onnx,
    takes_prior,
    with_prior,
)
from export.plugin import register, with_plugin_nodes
from export.precision import rounded_in_float32
from stylematte.engines.guided_filter.nvrtc import ARCHITECTURE
from stylematte.errors import EngineError, StyleMatteError
from stylematte.files import write_text, writing

WORKSPACE_BYTES = 4 << 30
Report = Callable[[str, int, int], None]  # phase, steps done, total steps


def build_plan(trt: Any, plan: EnginePlan, report: Report) -> bytes:
    """Build an engine with TensorRT.

    Args:
        trt: The module `tensorrt`.
        plan: What to build.
        report: Called with the progress, possibly from another thread.

    Returns:
        The serialised engine.

    Raises:
        EngineError: The build failed; the message quotes TensorRT.
    """
    model, flags = plan.model, 0
    prefers_aot = getattr(trt.NetworkDefinitionCreationFlag, "PREFER_AOT_PYTHON_PLUGINS", None)
    if prefers_aot is not None:
        metadata = plan.metadata
        register(
            int(metadata["stylematte.radius_px"]),
            float(metadata["stylematte.eps"]),
            architecture=ARCHITECTURE,
        )
        model, flags = with_plugin_nodes(model), 1 << int(prefers_aot)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        words = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EngineError(f"TensorRT does not read {plan.name}: {_single_line(words)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if plan.precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # TF32's 10-bit mantissa is not float32
    for shapes in plan.profiles():
        profile = builder.create_optimization_profile()
        for name, (minimum, optimum, maximum) in shapes.items():
            profile.set_shape(name, minimum, optimum, maximum)
        config.add_optimization_profile(profile)
    config.progress_monitor = _monitor(trt, report)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        words = logger.errors[-1] if logger.errors else "no reason given"
        raise EngineError(f"TensorRT did not build {plan.name}: {_single_line(words)}")
    return bytes(engine)


def build_in_process(plan: EnginePlan, report: Report) -> bytes:
    """Build an engine in a separate process, which can be interrupted and whose crash does no harm.

    Args:
        plan: What to build.
        report: Called with the progress.

    Raises:
        EngineError: The build failed, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    settings = (plan.name, plan.model.SerializeToString(), plan.sizes, plan.largest_batch)
    process = context.Process(target=_build_and_send, args=(settings, sender), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "engine":
                assert isinstance(value, bytes)
                return value
            if kind == "error":
                raise EngineError(value)
            report(*value)
    except EOFError:
        process.join()
        raise EngineError(f"{plan.name}: the process that built it died with {process.exitcode}") from None
    finally:
        process.terminate()
        process.join()


def _build_and_send(settings: tuple[Any, ...], sender: Any) -> None:
    import tensorrt

    name, model, sizes, largest_batch = settings
    plan = EnginePlan(name, onnx.ModelProto.FromString(model), sizes, largest_batch)
    try:
        engine = build_plan(tensorrt, plan, lambda *progress: sender.send(("progress", progress)))
    except (StyleMatteError, RuntimeError, ValueError) as error:
        sender.send(("error", str(error)))
    else:
        sender.send(("engine", engine))


def run_engine(trt: Any, engine: bytes, plan: EnginePlan, cuda: Any) -> Run:
    """Open an engine for its parity check: image and guide in, alpha out; every pass allocates its memory.

    Args:
        trt: The module `tensorrt`.
        engine: Result of `build_plan`.
        plan: Plan of the engine.
        cuda: Memory and streams, see `stylematte.engines.cuda.Cuda`.

    Raises:
        EngineError: TensorRT cannot open the engine, or a pass fails.
    """
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    opened = runtime.deserialize_cuda_engine(engine)
    context = opened.create_execution_context() if opened is not None else None
    if context is None:
        raise EngineError(f"TensorRT cannot open the engine that it built for {plan.name}")
    stream = cuda.stream()
    ports = plan.model.graph

    def run(image: Float, guide: Float, prior: Float | None = None) -> Float:
        arrays = feed([port.name for port in ports.input], image, guide, prior)
        failure = EngineError(f"the engine of {plan.name} fails on {image.shape} and {guide.shape}")
        addresses = {}
        try:
            is_done = context.set_optimization_profile_async(plan.sizes.index(image.shape[2:]), stream)
            cuda.wait(stream)
            for name, array in arrays.items():
                addresses[name] = cuda.allocate(array.nbytes)
                cuda.upload(np.ascontiguousarray(array), addresses[name], stream)
                is_done = context.set_input_shape(name, array.shape) and is_done
            if not is_done:
                raise failure
            for name in (port.name for port in ports.output):  # TensorRT infers their shapes
                arrays[name] = np.empty(tuple(context.get_tensor_shape(name)), np.float32)
                addresses[name] = cuda.allocate(arrays[name].nbytes)
            for name, address in addresses.items():
                is_done = context.set_tensor_address(name, address) and is_done
            if not (is_done and context.execute_async_v3(stream)):
                raise failure
            cuda.download(addresses["alpha"], arrays["alpha"], stream)
        finally:
            for address in addresses.values():
                cuda.free(address)
        return arrays["alpha"]

    return run


def check_engine(plan: EnginePlan, run: Run, photos: dict[str, Float]) -> Parity:
    """Compare an engine with its ONNX file on a CPU, at every size and every batch size.

    Args:
        plan: Plan of the engine.
        run: Computes alpha of (image, guide) with the engine.
        photos: (3, H, W) float32 RGB in [0, 1] by name; noise is added.

    Raises:
        ParityError: See `export.parity.compare`.
    """
    half = plan.precision != "fp32"
    reference = run_onnx(rounded_in_float32(plan.model) if half else plan.model)
    cases = _cases(plan, photos)
    if takes_prior(plan.model):
        cases |= with_prior(cases, reference)
    return compare(cases, reference, run, LIMITS[plan.precision], "onnx")


def write_engine(
    path: Path,
    engine: bytes,
    plan: EnginePlan,
    identity: Identity,
    parity: Parity,
    build: dict[str, Any],
) -> None:
    """Write an engine and its sidecar, each atomically; an engine without a sidecar is never opened.

    Args:
        path: Result of `engine_path`.
        engine: Result of `build_plan`.
        plan: Plan of the engine.
        identity: What the engine was built for.
        parity: Result of `check_engine`.
        build: Information for readers: seconds, versions, memory.
    """
    facts = {
        "sidecar": SIDECAR_VERSION,
        "contract": plan.metadata,
        "built_for": identity.built_for,
        "onnx_sha256": identity.onnx_sha256,
        "ptx_sha256": identity.ptx_sha256,
        "engine_sha256": hashlib.sha256(engine).hexdigest(),
        "sizes": plan.sizes,
        "largest_batch": plan.largest_batch,
        "profiles": plan.profiles(),
        "inputs": {port.name: "float32" for port in plan.model.graph.input},
        "outputs": {port.name: "float32" for port in plan.model.graph.output},
        "parity": parity.as_dict(),
        "build": build,
    }
    with writing(path) as temporary:
        temporary.write_bytes(engine)
    write_text(path.with_name(path.name + ".json"), json.dumps(facts, indent=2) + "\n")


def _cases(plan: EnginePlan, photos: dict[str, Float]) -> dict[str, Case]:
    """Return (image, guide) by name: photos and noise, the largest batch at all sizes, all batch sizes."""
    noise = np.random.default_rng(0).random((3, 333, 251), np.float32)
    guides = photos | {NOISE: noise}
    cases: dict[str, Case] = {}
    for index, (name, guide) in enumerate(guides.items()):
        cases[name] = _case([guide], plan.sizes[index % len(plan.sizes)])
    several = [*photos.values()] * plan.largest_batch
    for height, width in plan.sizes:
        cases[f"{plan.largest_batch} at {height}x{width}"] = _case(
            several[: plan.largest_batch], (height, width)
        )
    for count in range(1, plan.largest_batch):
        cases[f"batch of {count}"] = _case(several[:count], plan.sizes[0])
    return cases


def _case(guides: list[Float], size: tuple[int, int]) -> Case:
    """Return the images at working size, and at the full size of the first one."""
    height, width = guides[0].shape[1:]
    return np.stack([_resized(g, size) for g in guides]), np.stack(
        [_resized(g, (height, width)) for g in guides]
    )


def _resized(photo: Float, size: tuple[int, int]) -> Float:
    planes = cv2.resize(photo.transpose(1, 2, 0), size[::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def _logger(trt: Any) -> Any:
    """Return a silent logger that records errors."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _monitor(trt: Any, report: Report) -> Any:
    """Return a monitor that reports TensorRT's build phases."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            report(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            report(phase, step + 1, self.steps.get(phase, step + 1))
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


def _single_line(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else line[:297] + "..."
