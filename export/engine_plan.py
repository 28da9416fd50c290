"""Plan a TensorRT engine, and name its file after everything it depends on.

An engine only works with the GPU, driver and TensorRT version that built it. The key in its file name covers
all of them and the hashes of its inputs, so any change gives a different name and triggers a rebuild.
"""

import hashlib
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.contract import READABLE_VERSIONS
from export.functions import with_functions
from export.parity import LIMITS
from export.precision import Precision
from stylematte.engines.guided_filter.kernels import ApplyKernel, CoefficientsKernel, Kernel
from stylematte.engines.guided_filter.nvrtc import compile_ptx
from stylematte.errors import InputError
from stylematte.files import sha256_of, write_text

SIDECAR_VERSION = 1
ASPECTS = (1, 3 / 2, 2 / 3, 4 / 3, 3 / 4, 16 / 9, 9 / 16)  # width / height of common photos
LARGEST_GUIDE_PX = 4096  # largest side of a full-size image that the engine itself computes alpha for


@dataclass(frozen=True)
class EnginePlan:
    """An engine to build.

    Attributes:
        name: Stem of the file names.
        model: Contract file, float32 or half precision, with the guided filter as functions.
        sizes: Working (height, width), with one optimisation profile each.
        largest_batch: Largest batch size.
    """

    name: str
    model: onnx.ModelProto
    sizes: tuple[tuple[int, int], ...]
    largest_batch: int

    @property
    def metadata(self) -> dict[str, str]:
        """The contract's metadata, and the sizes that the engine takes."""
        contract = {entry.key: entry.value for entry in self.model.metadata_props}
        sizes = ",".join(f"{height}x{width}" for height, width in self.sizes)
        return contract | {"stylematte.working_sizes": sizes}

    @property
    def precision(self) -> Precision:
        """Precision of the model."""
        found = self.metadata.get("stylematte.precision", "fp32")
        return next(precision for precision in LIMITS if precision == found)

    def kernels(self) -> list[Kernel]:
        """Return the kernels that replace the model's functions; functions without one keep their bodies."""
        metadata, names = self.metadata, {function.name for function in self.model.functions}
        radius_px, eps = int(metadata["stylematte.radius_px"]), float(metadata["stylematte.eps"])
        kernels: list[Kernel] = [CoefficientsKernel(radius_px, eps), ApplyKernel()]
        return [kernel for kernel in kernels if kernel.name in names]

    def profiles(self) -> list[dict[str, list[tuple[int, ...]]]]:
        """Return the minimum, optimum and maximum shape of every input, for every size."""
        batch, side = self.largest_batch, LARGEST_GUIDE_PX
        names = {port.name for port in self.model.graph.input}
        profiles = []
        for h, w in self.sizes:
            shapes: dict[str, list[tuple[int, ...]]] = {
                "image": [(1, 3, h, w), (1, 3, h, w), (batch, 3, h, w)],
                "guide": [(1, 3, 1, 1), (1, 3, 4 * h, 4 * w), (batch, 3, side, side)],
                "prior": [(1, 1, h, w), (1, 1, h, w), (batch, 1, h, w)],
            }
            profiles.append({name: shape for name, shape in shapes.items() if name in names})
        return profiles


def plan_for(name: str, model: onnx.ModelProto, side: int | None, largest_batch: int) -> EnginePlan:
    """Plan an engine for common photo shapes.

    Args:
        name: Stem of the file names.
        model: Contract file.
        side: Side of a square with as many pixels as the working size; None uses the model's own.
        largest_batch: Largest batch size.

    Raises:
        InputError: Not a contract file, or an int8 file.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get("stylematte.contract") not in READABLE_VERSIONS:
        raise InputError(
            f"{name}: not a StyleMatte model of contract version {' or '.join(READABLE_VERSIONS)}"
        )
    if metadata.get("stylematte.precision") == "int8":
        raise InputError(f"{name}: TensorRT does not read int8 files made for CPUs; use --fp16 or --bf16")
    model = with_functions(model)  # plug-ins replace functions
    if fixed := metadata.get("stylematte.working_sizes"):
        height, width = (int(part) for part in fixed.split(",")[0].split("x"))
        return EnginePlan(name, model, ((height, width),), largest_batch)
    stride = int(metadata["stylematte.stride"])
    side = side or int(metadata["stylematte.working_size"])
    if side < stride:
        raise InputError(f"{name}: size {side} is below the network's stride of {stride}")
    aspects = (1.0,) if metadata.get("stylematte.fit") == "stretch" else ASPECTS
    sizes = [
        tuple(max(1, round(s / stride)) * stride for s in (side / math.sqrt(a), side * math.sqrt(a)))
        for a in aspects
    ]
    return EnginePlan(name, model, tuple(dict.fromkeys((h, w) for h, w in sizes)), largest_batch)


def write_plan(plan: EnginePlan, onnx_path: Path, folder: Path) -> list[Path]:
    """Write what needs no GPU: the kernels' PTX, and a script that builds the engine on a machine with one.

    Args:
        plan: What to build.
        onnx_path: The model file, already in `folder`.
        folder: Target folder.

    Returns:
        Paths of the files.
    """
    written = []
    for kernel in plan.kernels():
        path = folder / f"{plan.name}.{kernel.name}.ptx"
        write_text(path, compile_ptx(kernel))
        written.append(path)
    script = folder / f"{plan.name}.build.sh"
    write_text(script, _script(plan, onnx_path.name))
    script.chmod(0o755)
    return [*written, script]


def _script(plan: EnginePlan, onnx_name: str) -> str:
    shapes = []
    for which, index in (("min", 0), ("opt", 1), ("max", 2)):
        first = plan.profiles()[0]
        text = ",".join(f"{name}:{'x'.join(map(str, s[index]))}" for name, s in first.items())
        shapes.append(f"--{which}Shapes={text}")
    options = f"--batch-size {plan.largest_batch}"
    if len(plan.sizes) > 1:
        options += f" --size {plan.sizes[0][0]}"
    # `./` keeps a name that begins with a dash from being read as an option.
    model, engine = (shlex.quote(f"./{name}") for name in (onnx_name, f"{plan.name}.trtexec.engine"))
    return f"""#!/bin/sh
# Builds a TensorRT engine on the machine with the GPU.
set -eu
cd "$(dirname "$0")"
if command -v stylematte > /dev/null; then
    # All photo shapes, the kernels inside the engine, a sidecar, and a parity check against ONNX Runtime.
    exec stylematte export --format tensorrt --weights {model} {options} --out .
fi
# TensorRT alone: square photos, the guided filter in standard operators, no sidecar, no parity check.
exec trtexec --onnx={model} --saveEngine={engine} \\
    {" ".join(shapes)}
"""


@dataclass(frozen=True)
class Identity:
    """What an engine depends on besides its plan.

    Attributes:
        built_for: `gpu`, `compute_capability`, `driver` and `tensorrt`, as the runtime compares them.
        onnx_sha256: Hash of the model file.
        ptx_sha256: Hash of the kernels' concatenated PTX.
    """

    built_for: dict[str, str]
    onnx_sha256: str
    ptx_sha256: str

    def key(self, plan: EnginePlan) -> str:
        """Return twelve hex digits that change with anything that the engine depends on."""
        parts = [self.built_for, self.onnx_sha256, self.ptx_sha256, plan.profiles(), SIDECAR_VERSION]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def identify(plan: EnginePlan, onnx_path: Path, built_for: dict[str, str]) -> Identity:
    """Hash the inputs of an engine."""
    ptx = hashlib.sha256()
    for kernel in plan.kernels():
        ptx.update(compile_ptx(kernel).encode())
    return Identity(built_for, sha256_of(onnx_path), ptx.hexdigest())


def engine_path(plan: EnginePlan, identity: Identity, folder: Path) -> Path:
    """Return the path of the engine of a plan on a machine."""
    return folder / f"{plan.name}.{identity.key(plan)}.engine"


def is_built(path: Path) -> bool:
    """Tell whether an engine and its sidecar exist and are complete."""
    sidecar = path.with_name(path.name + ".json")
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        return bool(facts["engine_sha256"] == sha256_of(path))
    except (OSError, ValueError, KeyError, TypeError):  # missing or incomplete: build it
        return False
