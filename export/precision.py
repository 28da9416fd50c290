"""Convert to float16 and bfloat16: which nodes run in half precision, and which always stay float32."""

import re
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.branches import branches, reads, rename_reads
from stylematte.errors import EngineError

Precision = Literal["fp32", "fp16", "bf16", "int8"]
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_NUMPY = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}

# Operators that gain from half precision: products, which tensor cores accumulate in float32, and operators
# between them that only move, clip or add numbers. Everything else stays float32, so that an unexpected
# operator is slow rather than wrong: norms, softmax, means, powers and divisions need float32.
HALF_OPS = frozenset(
    "Conv ConvTranspose MatMul Gemm Add Mul Relu Clip Sigmoid Resize MaxPool "
    "Concat Split Slice Transpose Reshape Flatten Squeeze Unsqueeze Expand Gather Pad Identity".split()
)
# Modules that stay float32 in every file. Keeping the stem and block 0 in float32 reduces the mean and the
# largest difference of alpha from float32 (measured with the first nano on 116 held-out photos): float16 from
# 5e-4 and 0.26 to 9e-5 and 0.019, bfloat16 from 3e-3 and 0.62 to 9e-4 and 0.16, int8 from 8e-3 and 0.92 to
# 2e-3 and 0.28. The head computes the logits, and the guided filter amplifies differences of them. The
# global gates of the context blocks are a few numbers that scale whole maps.
SENSITIVE = re.compile(
    r"^(encoder\.stem|encoder\.blocks\.0|head|grey|upsampler|fpn\.context\.\d+\.whole|fgf_\w+"
    r"|network/ends|(input|output)/|network_alpha|coarse_\w+|exact_gf)\b"  # of imported networks
)
# First versions in which ONNX defines bfloat16 convolution. No operator of our graphs changed since opset 18.
BF16_OPSET, BF16_IR = 22, 10
_SIZES = {"Resize": {1, 2}}  # inputs that the operator defines as float32


def to_half(model: onnx.ModelProto, precision: Literal["fp16", "bf16"]) -> onnx.ModelProto:
    """Convert a float32 contract file to half precision.

    Inputs, outputs, the guided filter and all operators outside `HALF_OPS` stay float32, with casts in
    between. The types are explicit in the file, for strongly typed runtimes (TensorRT 11).

    Args:
        model: Result of `export.onnx.export_onnx`; it is not changed.
        precision: `fp16` or `bf16`.

    Raises:
        EngineError: A weight is too large for the type.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _HalfConverter(result, precision).convert()
    if precision == "bf16":
        result.ir_version = BF16_IR
        for opset in (*result.opset_import, *(o for f in result.functions for o in f.opset_import)):
            opset.version = BF16_OPSET if opset.domain == "" else opset.version
    set_metadata(result, "precision", precision)
    onnx.checker.check_model(result, full_check=True)
    return result


def from_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a float16 contract file to float32; the weights keep their values.

    Args:
        model: Contract file; it is not changed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _widen(result.graph)
    set_metadata(result, "precision", "fp32")
    onnx.checker.check_model(result, full_check=True)
    return result


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        for branch in branches(node):
            _widen(branch)
    for port in (*graph.input, *graph.output):
        if port.type.tensor_type.elem_type == TensorProto.FLOAT16:
            port.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]  # they name the old types


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def rounded_in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Emulate a half-precision file on a CPU: float32 nodes whose results are rounded to their half type.

    ONNX Runtime has no bfloat16 convolution on CPUs, and runs float16 chains in float32 without rounding in
    between. This emulates a GPU that accumulates in float32.

    Args:
        model: Result of `to_half`; it is not changed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    types = _float_types(result)
    halves = {name: kind for name, kind in types.items() if kind in HALF.values()}
    for tensor in graph.initializer:
        if tensor.name in halves:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
            )
    nodes = []
    for node in graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        made = [name for name in node.output if name in halves]
        copy.output[:] = [f"{name}/exact" if name in halves else name for name in node.output]
        if node.op_type == "Cast" and made:
            copy.name += "/exact"
            copy.attribute[0].i = TensorProto.FLOAT  # the two casts below do the rounding
        nodes.append(copy)
        for name in made:
            nodes.append(_cast(f"{name}/exact", f"{name}/rounded", halves[name]))
            nodes.append(_cast(f"{name}/rounded", name, TensorProto.FLOAT, f"{name}/widened"))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return result


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    """Set one entry of the contract's metadata; the key gets the prefix `stylematte.`."""
    for entry in model.metadata_props:
        if entry.key == f"stylematte.{key}":
            entry.value = value
            return
    entry = model.metadata_props.add()
    entry.key, entry.value = f"stylematte.{key}", value


def _float_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of all float32 and half-precision tensors."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    floats = {TensorProto.FLOAT, *HALF.values()}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return {name: kind for name, kind in types.items() if kind in floats}


def _cast(source: str, target: str, kind: int, name: str = "") -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=name or target, to=kind)


class _HalfConverter:
    """One conversion: visits the nodes in order and casts inputs of the wrong type."""

    def __init__(self, model: onnx.ModelProto, precision: Literal["fp16", "bf16"]) -> None:
        self.graph = model.graph
        self.precision = precision
        self.kind = HALF[precision]
        self.floats = set(_float_types(model))
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.made: dict[str, int] = {}  # type of every float tensor so far
        self.nodes: list[onnx.NodeProto] = []
        self.half_weights: dict[str, TensorProto] = {}

    def convert(self) -> None:
        outputs = {output.name for output in self.graph.output}
        for node in self.graph.node:
            is_half = self._is_half(node) and outputs.isdisjoint(node.output)
            inputs = [self._input(node, i, is_half) for i in range(len(node.input))]
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = inputs
            if branches(node):  # they stay float32
                outside = sorted(reads(node) - set(node.input))
                rename_reads(copy, {name: self._as(name, TensorProto.FLOAT) for name in outside})
            self.nodes.append(copy)
            kind = self.kind if is_half else TensorProto.FLOAT
            self.made |= {name: kind for name in node.output if name in self.floats}
        used = {name for node in self.nodes for name in reads(node)}
        kept = [tensor for tensor in self.weights.values() if tensor.name in used]
        kept = [*kept, *self.half_weights.values()]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(copies)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        return (
            node.domain == ""
            and node.op_type in HALF_OPS
            and not SENSITIVE.search(node.name)
            and any(name in self.floats for name in node.output)
            # A chain without a product gains nothing: the grey guide stays float32.
            and self._reaches_half(node)
        )

    def _reaches_half(self, node: onnx.NodeProto) -> bool:
        if any(name in self.weights for name in node.input) and node.op_type in ("Conv", "MatMul", "Gemm"):
            return True
        return any(self.made.get(name) == self.kind for name in node.input)

    def _input(self, node: onnx.NodeProto, index: int, is_half: bool) -> str:
        name = node.input[index]
        if name not in self.floats:
            return name
        wants_half = is_half and index not in _SIZES.get(node.op_type, ())
        if name in self.weights:
            return self._weight(name) if wants_half else name
        return self._as(name, self.kind if wants_half else TensorProto.FLOAT)

    def _as(self, name: str, kind: int) -> str:
        """Return a tensor of the given type that equals a computed tensor; add a cast if needed."""
        if self.made.get(name, TensorProto.FLOAT) == kind:
            return name
        cast = f"{name}/{'fp32' if kind == TensorProto.FLOAT else self.precision}"
        if cast not in self.made:
            self.nodes.append(_cast(name, cast, kind))
            self.made[cast] = kind
        return cast

    def _weight(self, name: str) -> str:
        half = f"{name}/{self.precision}"
        if half not in self.half_weights:
            array = numpy_helper.to_array(self.weights[name])
            with np.errstate(over="ignore"):
                rounded = array.astype(_NUMPY[self.precision])
            if not np.isfinite(rounded.astype(np.float32)).all():
                raise EngineError(
                    f"{name}: {np.abs(array).max():.3g} is too large for {self.precision}; try --bf16"
                )
            self.half_weights[half] = numpy_helper.from_array(rounded, half)
        return half
