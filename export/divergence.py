"""Find the first layer at which two versions of a network diverge."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.contract import feed

# A layer has diverged when its RMS error exceeds this fraction of its standard deviation; rounding to 8 bits
# alone gives about 0.01.
DIVERGED = 0.05
LayerOutputs = dict[str, NDArray[Any]]


def layer_outputs(
    model: onnx.ModelProto,
    image: NDArray[np.float32],
    names: Collection[str] | None = None,
    prior: NDArray[np.float32] | None = None,
) -> LayerOutputs:
    """Run a file on the CPU and return the outputs of its layers.

    Args:
        model: A contract file.
        image: (N, 3, h, w) float32 RGB in [0, 1].
        names: Names of tensors or modules; those that the file lacks are left out. None means all tensors.
        prior: (N, 1, h, w), if the file takes one.
    """
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = [name for node in copy.graph.node for name in node.output if name]
    kinds = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    # In an int8 file the following layers use the value after rounding and clipping.
    rounded = {name: f"{name}_DequantizeLinear_Output" for name in made}
    sources = {
        name: rounded[tensor] if rounded[tensor] in rounded else tensor
        for name, tensor in _sources(made, names).items()
        if name != "alpha" and not name.startswith("fgf_apply/")  # computed from a guide of one pixel
    }
    outputs = {output.name for output in copy.graph.output}
    for name in dict.fromkeys(sources.values()):
        if name not in outputs:
            copy.graph.output.append(
                helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None)
            )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Turn fusion off: otherwise requesting a tensor would change what is computed.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    tensors = list(dict.fromkeys(sources.values()))
    inputs = feed([port.name for port in model.graph.input], image, prior=prior)
    values = dict(zip(tensors, session.run(tensors, inputs), strict=True))
    return {name: values[tensor] for name, tensor in sources.items()}


def first_divergence(expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> str:
    """Describe the first layer, in the order of `expected`, that diverges.

    Layers that only one side has, layers of different shapes (unrelated layers of the same name) and
    constant layers are skipped.
    """
    worst_name, worst = "", 0.0
    for name, reference in expected.items():
        other = found.get(name)
        if other is None or other.shape != reference.shape or reference.dtype.kind != "f":
            continue
        if reference.std() == 0:
            continue
        if not np.isfinite(other).all():
            return f"{name} is the first layer with a value that is not finite"
        error = _relative_error(reference, other)
        if error > DIVERGED:
            return f"{name} is the first layer that differs, by {error:.0%} of its standard deviation"
        if error > worst:
            worst_name, worst = name, error
    if not worst:
        return ""
    return f"no layer differs by more than {DIVERGED:.0%} of its standard deviation, {worst_name} by most"


def _relative_error(reference: NDArray[Any], other: NDArray[Any]) -> float:
    difference = np.asarray(other, np.float64) - reference
    spread = np.asarray(reference, np.float64).std()
    return float(np.sqrt(np.mean(difference**2)) / spread)


def _sources(made: list[str], names: Collection[str] | None) -> dict[str, str]:
    """Map names to tensors: a tensor to itself, a module to the last tensor computed inside it."""
    if names is None:
        return {name: name for name in made}
    last: dict[str, str] = {}
    for name in made:
        last[name] = name
        path = name.split("/")[0].split(".")
        for depth in range(1, len(path) + 1):
            last[".".join(path[:depth])] = name
    return {name: last[name] for name in names if name in last}
