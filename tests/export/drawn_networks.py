"""Networks of others, drawn: the ports and the architecture of the real ones, and almost no weights."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64


def network(
    *,
    side: int | None = SIDE,
    batch: int | str = 1,
    outputs: tuple[str, ...] = ("alpha",),
    ends_in: str = "Sigmoid",
    opset: int = 17,
    half: bool = False,
    more_nodes: tuple[onnx.NodeProto, ...] = (),
    more_weights: tuple[TensorProto, ...] = (),
    input_name: str = "input",
) -> onnx.ModelProto:
    """logits = 3 · (red − green) of the normalised image, averaged over 3×3; the first output is alpha.

    Args:
        side: Of the square that it takes; None for free sides.
        batch: Images at once, or the name of a free number.
        outputs: Names; each is the same.
        ends_in: Last operator; Identity gives logits.
        opset: Of the file.
        half: Weights and products in float16, input and output in float32.
        more_nodes: That nothing depends on.
        more_weights: Likewise.
        input_name: Of the input.
    """
    kernel = np.zeros((1, 3, 3, 3), np.float16 if half else np.float32)
    kernel[0, 0], kernel[0, 1] = 3 / 9, -3 / 9
    node = helper.make_node
    source = input_name
    nodes = []
    if half:
        nodes.append(node("Cast", [input_name], ["half"], to=TensorProto.FLOAT16))
        source = "half"
    nodes.append(node("Conv", [source, "kernel"], ["logits"], pads=[1, 1, 1, 1]))
    logits = "logits"
    if half:
        nodes.append(node("Cast", ["logits"], ["wide"], to=TensorProto.FLOAT))
        logits = "wide"
    nodes += [node(ends_in, [logits], [name]) for name in outputs]
    sides = [side, side] if side else ["height", "width"]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*nodes, *more_nodes],
        "drawn",
        [value(input_name, TensorProto.FLOAT, [batch, 3, *sides])],
        [value(name, TensorProto.FLOAT, [batch, 1, *sides]) for name in outputs],
        [numpy_helper.from_array(kernel, "kernel"), *more_weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def with_architecture(kind: str, side: int = SIDE) -> onnx.ModelProto:
    """A network that is recognised: 119 kernels and 33 poolings, most of them idle.

    Args:
        kind: `u2net`, `isnet` or `imgly`.
        side: Of the square that it takes.
    """
    rest = {"u2net": (1, 6, 1, 1)}.get(kind, (1, 4, 3, 3))
    shapes = [rest] + [(1, 4, 3, 3)] * (0 if kind == "u2net" else 4) + [(2, 2, 1, 1)] * 118
    weights = [numpy_helper.from_array(np.zeros(shapes[i], np.float32), f"w{i}") for i in range(118)]
    # What the first output does not need stands in the graph too, as the side outputs of the real ones do.
    pools = [
        helper.make_node("MaxPool", ["input" if i == 0 else f"p{i - 1}"], [f"p{i}"], kernel_shape=[1, 1])
        for i in range(33)
    ]
    names = {"imgly": ("output", "p32"), "u2net": tuple(f"d{i}" for i in range(7))}.get(kind, ("d0",))
    return network(
        side=side,
        outputs=tuple(name for name in names if name != "p32"),
        more_nodes=tuple(pools),
        more_weights=tuple(weights),
        opset=11,
    )


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path
