"""Read a third-party network: inspect the file, reject what cannot be wrapped, and recognise the family."""

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from stylematte.errors import InputError

MOST_BYTES = (1 << 31) - 1  # size limit of a protobuf message
_STANDARD = ("", "ai.onnx")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_OPS_OF_INT8 = frozenset("ConvInteger MatMulInteger QLinearConv QLinearMatMul QuantizeLinear".split())
_WRITTEN_WITH_TEXT = (b"version https://git-lfs", b"<!DOCTYPE", b"<html", b"{")


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: Name in the file.
        kind: Number type, `float`, `float16`, `uint8` ...
        shape: A number for each static side, None for each dynamic one; None if even the rank is unknown.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.kind} of any shape"
        sides = "x".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name}: {self.kind} {sides}"


@dataclass(frozen=True)
class Seen:
    """Contents of a file.

    Attributes:
        model: The model, with its functions inlined.
        inputs: Inputs, without weights.
        outputs: Outputs, in the file's order.
        precision: `int8` if it has integer operators, `fp16` if most weights are float16, else `fp32`.
    """

    model: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    precision: str

    def lines(self) -> list[str]:
        """Describe the file for users, one fact per line."""
        ops = Counter(node.op_type for node in self.model.graph.node)
        most = ", ".join(f"{count} {name}" for name, count in ops.most_common(6))
        return [
            *(f"input  {port}" for port in self.inputs),
            *(f"output {port}" for port in self.outputs[:8]),
            *([f"and {len(self.outputs) - 8} outputs more"] if len(self.outputs) > 8 else []),
            f"{len(self.model.graph.node)} nodes: {most}",
        ]


def read_foreign(path: Path) -> Seen:
    """Read a file, and reject what cannot be wrapped.

    Raises:
        InputError: The file is not ONNX, is damaged, or is a StyleMatte model; or it has external weights,
            custom operators, or inputs other than one image.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(
            f"{path}: {size / 1e9:.1f} GB, but an ONNX file holds at most 2 GB",
            "Use the float16 file of this network, or a smaller network",
        )
    model = load_model(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if "stylematte.contract" in metadata:
        raise InputError(f"{path}: already a StyleMatte model", f"Use it as it is: --weights {path}")
    beside = _external_files(model)
    if beside:
        raise InputError(
            f"{path}: its weights are in other files: {', '.join(beside[:3])}",
            "Make one file: python -c \"import onnx; onnx.save(onnx.load('FILE.onnx'), 'whole.onnx')\"",
        )
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    custom = sorted({f"{n.domain}.{n.op_type}" for n in _all_nodes(model.graph) if n.domain not in _STANDARD})
    if custom:
        raise InputError(
            f"{path}: custom operators: {', '.join(custom[:5])}",
            "Use the file that its authors exported, not one optimised for a runtime",
        )
    _sort(model.graph)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InputError(
            f"{path}: damaged: {_first_line(error)}", "Download it again: it may be truncated"
        ) from None
    weights = {tensor.name for tensor in model.graph.initializer}
    seen = Seen(
        model,
        tuple(_port(value) for value in model.graph.input if value.name not in weights),
        tuple(_port(value) for value in model.graph.output),
        _precision(model),
    )
    _check_input(path, seen)
    return seen


def recognise(seen: Seen) -> str:
    """Return the family that a graph's architecture indicates; empty if none.

    U²-Net and IS-Net have 119 convolutions and 33 poolings each. U²-Net computes its first output from its
    six others with a 1×1 convolution. IS-Net begins with a convolution of stride 2, and six of its
    convolutions have one output channel. IMG.LY's file is IS-Net with ports named `input` and `output`.
    """
    graph = seen.model.graph
    kernels = [tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 4]
    pools = sum(node.op_type == "MaxPool" for node in graph.node)
    if len(kernels) != 119 or pools != 33:
        return ""
    if (1, 6, 1, 1) in kernels:
        return "u2net"
    if sum(kernel[0] == 1 for kernel in kernels) != 6:
        return ""
    return "imgly" if (seen.inputs[0].name, seen.outputs[0].name) == ("input", "output") else "isnet"


def ends_in_sigmoid(model: onnx.ModelProto, output: str) -> bool:
    """Tell whether an output is a sigmoid's, ignoring later casts, reshapes, clips and slices."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    keeps_values = ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Clip", "Slice")
    node = made_by.get(output)
    while node is not None and node.op_type in keeps_values:
        node = made_by.get(node.input[0])
    return node is not None and node.op_type == "Sigmoid"


def load_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        InputError: It is not an ONNX file, or is truncated.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_WRITTEN_WITH_TEXT) or _is_text(start):
        hint = (
            "It points to a file that Git LFS did not fetch" if b"git-lfs" in start else "Give the .onnx file"
        )
        raise InputError(f"{path}: a text file, not an ONNX file", hint)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exception, from a module without types
        raise InputError(
            f"{path}: not an ONNX file, or truncated: {_first_line(error)}", "Download it again"
        ) from None
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX file, or truncated: it contains no graph", "Download it again")
    return model


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\r\n\t" for letter in text)


def _external_files(model: onnx.ModelProto) -> list[str]:
    found = {
        entry.value
        for tensor in _all_tensors(model.graph)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(found)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, including those in branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _all_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in _all_nodes(graph):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.initializer


def _sort(graph: onnx.GraphProto) -> None:
    """Sort nodes topologically, in place: some converters write them in another order.

    Tensors that no node computes are ignored here; the checker reports those that are missing.
    """
    made = {name for node in graph.node for name in node.output if name}
    known: set[str] = set()
    waiting: dict[str, list[int]] = {}
    lacking: list[int] = []
    ready: list[int] = []
    for index, node in enumerate(graph.node):
        needed = {name for name in _read_by(node) if name in made}
        lacking.append(len(needed))
        for name in needed:
            waiting.setdefault(name, []).append(index)
        if not needed:
            ready.append(index)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for name in graph.node[index].output:
            if name and name not in known:
                known.add(name)
                for reader in waiting.get(name, ()):
                    lacking[reader] -= 1
                    if not lacking[reader]:
                        heapq.heappush(ready, reader)
    if order == sorted(order) or len(order) < len(graph.node):
        return
    nodes = [graph.node[index] for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, including those in its branches and loops."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(port.name for port in inner.output)
            for inside in inner.node:
                names |= _read_by(inside)
    return names


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(side.dim_value if side.dim_value > 0 else None for side in kind.shape.dim)
    name = TensorProto.DataType.Name(kind.elem_type).lower()
    return Port(value.name, name, shape)


def _precision(model: onnx.ModelProto) -> str:
    if any(node.op_type in _OPS_OF_INT8 for node in model.graph.node):
        return "int8"
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        sizes[tensor.data_type] += math.prod(tensor.dims)
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"


def _check_input(path: Path, seen: Seen) -> None:
    ports = "; ".join(map(str, seen.inputs)) or "none"
    if len(seen.inputs) != 1:
        raise InputError(
            f"{path}: {len(seen.inputs)} inputs, but the image must be the only one: {ports}",
            "Networks that need a trimap, a first frame or a background cannot be imported",
        )
    (port,) = seen.inputs
    if port.kind not in ("float", "float16"):
        raise InputError(f"{path}: its input is not a float32 or float16 image: {ports}")
    if port.shape is None or len(port.shape) != 4 or port.shape[1] not in (3, None):
        raise InputError(
            f"{path}: its input is not an image of Nx3xHxW: {ports}",
            "Export the network with channels first",
        )
    if port.shape[0] not in (1, None):
        raise InputError(
            f"{path}: it takes {port.shape[0]} images at once: {ports}", "Export it for single images"
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
