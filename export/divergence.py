"""Where two ways through a network part: the first layer whose result is another."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.contract import feed

# A layer has parted when its error is this share of its spread, and greater than that of the layers before:
# rounding to 8 bits alone gives about a hundredth.
PARTED = 0.05
Taps = dict[str, NDArray[Any]]


def tapped(
    model: onnx.ModelProto,
    image: NDArray[np.float32],
    wanted: Collection[str] | None = None,
    prior: NDArray[np.float32] | None = None,
) -> Taps:
    """Run a file on the CPU and return what its layers say.

    Args:
        model: A contract file.
        image: (N, 3, h, w) float32 RGB in [0, 1].
        wanted: Names of tensors or modules; what the file lacks is left out. None takes every tensor.
        prior: (N, 1, h, w), where the file takes one.
    """
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = [name for node in copy.graph.node for name in node.output if name]
    kinds = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    # What an int8 file goes on with is the value after rounding and clipping.
    rounded = {name: f"{name}_DequantizeLinear_Output" for name in made}
    sources = {
        wish: rounded[name] if rounded[name] in rounded else name
        for wish, name in _sources(made, wanted).items()
        if wish != "alpha" and not wish.startswith("fgf_apply/")  # of a guide of one pixel
    }
    outputs = {output.name for output in copy.graph.output}
    for name in dict.fromkeys(sources.values()):
        if name not in outputs:
            copy.graph.output.append(
                helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None)
            )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without fusion, or the very tensors that are asked for would change what is computed.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = list(dict.fromkeys(sources.values()))
    inputs = feed([port.name for port in model.graph.input], image, prior=prior)
    values = dict(zip(names, session.run(names, inputs), strict=True))
    return {wish: values[name] for wish, name in sources.items()}


def first_divergence(wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> str:
    """Name the first layer, in the order of `wanted`, whose result is another.

    Passed over are layers that one side alone has, layers of another shape, which are others of the same
    name, and constant ones.
    """
    worst_name, worst = "", 0.0
    for name, reference in wanted.items():
        other = got.get(name)
        if other is None or other.shape != reference.shape or reference.dtype.kind != "f":
            continue
        if reference.std() == 0:
            continue
        if not np.isfinite(other).all():
            return f"{name} is the first layer with a value that is no number"
        error = _relative_error(reference, other)
        if error > PARTED:
            return f"{name} is the first layer that differs, by {error:.0%} of its spread"
        if error > worst:
            worst_name, worst = name, error
    return f"no layer differs by more than {PARTED:.0%} of its spread, {worst_name} by most" if worst else ""


def _relative_error(reference: NDArray[Any], other: NDArray[Any]) -> float:
    difference = np.asarray(other, np.float64) - reference
    spread = np.asarray(reference, np.float64).std()
    return float(np.sqrt(np.mean(difference**2)) / spread)


def _sources(made: list[str], wanted: Collection[str] | None) -> dict[str, str]:
    """Map what is wanted to tensors: itself, or the last one that was made inside the module of that name."""
    if wanted is None:
        return {name: name for name in made}
    last: dict[str, str] = {}
    for name in made:
        last[name] = name
        path = name.split("/")[0].split(".")
        for depth in range(1, len(path) + 1):
            last[".".join(path[:depth])] = name
    return {name: last[name] for name in wanted if name in last}
