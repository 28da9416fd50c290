"""What a TensorRT engine is to be, and the name that changes with everything it depends on.

An engine is tied to the card, the driver and the TensorRT that built it. All of them, and the hashes of what
went in, make the key in its name, so whatever changed gives another name and is built anew.
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
ASPECTS = (1, 3 / 2, 2 / 3, 4 / 3, 3 / 4, 16 / 9, 9 / 16)  # width by height of the photos that people take
LARGEST_GUIDE_PX = 4096  # a side of the full-size picture that the engine itself can take to alpha


@dataclass(frozen=True)
class Plan:
    """What an engine is to be.

    Attributes:
        name: Stem of the files.
        model: Contract file, float32 or a half type, its guided filter in functions.
        sizes: Working (height, width), one optimisation profile each.
        largest_batch: Photos in one pass.
    """

    name: str
    model: onnx.ModelProto
    sizes: tuple[tuple[int, int], ...]
    largest_batch: int

    @property
    def metadata(self) -> dict[str, str]:
        """The contract, and the sizes that the engine takes."""
        contract = {entry.key: entry.value for entry in self.model.metadata_props}
        sizes = ",".join(f"{height}x{width}" for height, width in self.sizes)
        return contract | {"stylematte.working_sizes": sizes}

    @property
    def precision(self) -> Precision:
        """Number type of the products."""
        found = self.metadata.get("stylematte.precision", "fp32")
        return next(precision for precision in LIMITS if precision == found)

    def kernels(self) -> list[Kernel]:
        """Kernels that stand for the model's functions; a function without one is what its body says."""
        metadata, names = self.metadata, {function.name for function in self.model.functions}
        radius_px, eps = int(metadata["stylematte.radius_px"]), float(metadata["stylematte.eps"])
        kernels: list[Kernel] = [CoefficientsKernel(radius_px, eps), ApplyKernel()]
        return [kernel for kernel in kernels if kernel.name in names]

    def profiles(self) -> list[dict[str, list[tuple[int, ...]]]]:
        """Least, usual and greatest shape of the inputs, for every size."""
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


def plan_for(name: str, model: onnx.ModelProto, side: int | None, largest_batch: int) -> Plan:
    """Plan an engine for the shapes of photos that people take.

    Args:
        name: Stem of the files.
        model: Contract file.
        side: Side of the square with as many pixels as the network sees; None takes the model's own.
        largest_batch: Photos in one pass.

    Raises:
        InputError: Not a contract file, or an int8 one.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get("stylematte.contract") not in READABLE_VERSIONS:
        raise InputError(
            f"{name}: not a StyleMatte model of contract version {' or '.join(READABLE_VERSIONS)}"
        )
    if metadata.get("stylematte.precision") == "int8":
        raise InputError(f"{name}: TensorRT does not read int8 files made for CPUs; take --fp16 or --bf16")
    model = with_functions(model)  # plug-ins stand for functions
    if fixed := metadata.get("stylematte.working_sizes"):
        height, width = (int(part) for part in fixed.split(",")[0].split("x"))
        return Plan(name, model, ((height, width),), largest_batch)
    stride = int(metadata["stylematte.stride"])
    side = side or int(metadata["stylematte.working_size"])
    if side < stride:
        raise InputError(f"{name}: size {side} is below the network's stride of {stride}")
    aspects = (1.0,) if metadata.get("stylematte.fit") == "stretch" else ASPECTS
    sizes = [
        tuple(max(1, round(s / stride)) * stride for s in (side / math.sqrt(a), side * math.sqrt(a)))
        for a in aspects
    ]
    return Plan(name, model, tuple(dict.fromkeys((h, w) for h, w in sizes)), largest_batch)


def write_plan(plan: Plan, onnx_path: Path, folder: Path) -> list[Path]:
    """Write what can be made without a card: the kernels' PTX, and a script that builds where there is one.

    Args:
        plan: What is to be built.
        onnx_path: The model file, in `folder` already.
        folder: Where the files go.

    Returns:
        The files.
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


def _script(plan: Plan, onnx_name: str) -> str:
    shapes = []
    for which, index in (("min", 0), ("opt", 1), ("max", 2)):
        first = plan.profiles()[0]
        text = ",".join(f"{name}:{'x'.join(map(str, s[index]))}" for name, s in first.items())
        shapes.append(f"--{which}Shapes={text}")
    options = f"--batch-size {plan.largest_batch}"
    if len(plan.sizes) > 1:
        options += f" --size {plan.sizes[0][0]}"
    # A name may hold anything but a slash; `./` keeps one that begins with a dash from being an option.
    model, engine = (shlex.quote(f"./{name}") for name in (onnx_name, f"{plan.name}.trtexec.engine"))
    return f"""#!/bin/sh
# Builds a TensorRT engine on the machine with the card.
set -eu
cd "$(dirname "$0")"
if command -v stylematte > /dev/null; then
    # All shapes of photos, the kernels inside the engine, a sidecar, and proof against ONNX Runtime.
    exec stylematte export --format tensorrt --weights {model} {options} --out .
fi
# TensorRT alone: square photos, the guided filter in standard operators, no sidecar, no proof.
exec trtexec --onnx={model} --saveEngine={engine} \\
    {" ".join(shapes)}
"""


@dataclass(frozen=True)
class Identity:
    """What an engine depends on beside its plan.

    Attributes:
        built_for: `gpu`, `compute_capability`, `driver` and `tensorrt`, as the runtime will compare them.
        onnx_sha256: Of the model file.
        ptx_sha256: Of the kernels' PTX, one after another.
    """

    built_for: dict[str, str]
    onnx_sha256: str
    ptx_sha256: str

    def key(self, plan: Plan) -> str:
        """Twelve digits that change with anything that the engine depends on."""
        parts = [self.built_for, self.onnx_sha256, self.ptx_sha256, plan.profiles(), SIDECAR_VERSION]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def identify(plan: Plan, onnx_path: Path, built_for: dict[str, str]) -> Identity:
    """Hash what goes into an engine."""
    ptx = hashlib.sha256()
    for kernel in plan.kernels():
        ptx.update(compile_ptx(kernel).encode())
    return Identity(built_for, sha256_of(onnx_path), ptx.hexdigest())


def engine_path(plan: Plan, identity: Identity, folder: Path) -> Path:
    """Where the engine of a plan and a machine lies."""
    return folder / f"{plan.name}.{identity.key(plan)}.engine"


def is_built(path: Path) -> bool:
    """Whether an engine and its sidecar lie there, whole."""
    sidecar = path.with_name(path.name + ".json")
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        return bool(facts["engine_sha256"] == sha256_of(path))
    except (OSError, ValueError, KeyError, TypeError):  # nothing there, or not whole: it is built
        return False
