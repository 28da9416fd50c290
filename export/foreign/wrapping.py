"""Wrap a third-party network's graph: normalisation before it, alpha and the guided filter after it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, version_converter

from export.contract import CONTRACT_VERSION
from export.foreign.families import Processing
from export.foreign.reading import Seen
from export.functions import OPSET, fgf_apply
from stylematte.errors import InputError

PREFIX = "network/"
ENDS = "network/ends/"
UPSAMPLER = "exact_gf"
# Chosen by measurement, see docs/networks.md. The network's value at each pixel is kept, and the filter only
# sets how alpha changes towards the next pixel. Averaging over windows, as for logits of stride 4, blurs.
RADIUS_PX = 1
EPS = 0.3  # for a guide whose colours are divided by `EPS_STD`
EPS_STD = 0.226
# Alpha is kept this far from 0 and 1, so that its logit is finite: about 1/4000 of an 8-bit level.
CLIP = 1e-6


@dataclass(frozen=True)
class Facts:
    """Values for the file's metadata.

    Attributes:
        name: Name of the network.
        sha256: Hash of the original file.
        tool_version: Version of this program.
        licence: Licence of the weights; empty if unknown.
        provenance: Origin of the weights.
    """

    name: str
    sha256: str
    tool_version: str
    licence: str
    provenance: dict[str, Any]


def wrap(
    seen: Seen,
    output: str,
    processing: Processing,
    side: tuple[int, int] | None,
    free_batch: bool,
    facts: Facts,
) -> onnx.ModelProto:
    """Wrap a network under the model contract.

    Args:
        seen: Contents of the original file.
        output: Name of the output that is alpha, or becomes alpha.
        processing: The authors' processing, without a sigmoid that the network already has.
        side: Fixed (height, width) of the input; None if its sides are dynamic.
        free_batch: Make the batch size dynamic, whatever the file declares.
        facts: Values for the metadata.

    Returns:
        A model that passes `onnx.checker`.

    Raises:
        InputError: The graph cannot be converted to opset 18, or the result is not valid ONNX.
    """
    (port,) = seen.inputs
    model = _at_our_opset(seen.model)
    graph = _pruned(model.graph, output)
    graph = compose.add_prefix_graph(graph, PREFIX)
    _name_nodes(graph)
    build = _Builder()
    scaled = _normalised(build, processing)
    if port.kind == "float16":
        scaled = build("Cast", [scaled], "input/half", to=TensorProto.FLOAT16)
    for node in graph.node:
        node.input[:] = [scaled if name == PREFIX + port.name else name for name in node.input]
    before = build.nodes
    build.nodes = []
    _alpha_to_contract(build, PREFIX + output, _rank(seen, output), processing)
    result = helper.make_graph(
        [*before, *graph.node, *build.nodes],
        f"stylematte_{facts.name}",
        _ports("n" if free_batch else 1, side, ("image", 3, "h w"), ("guide", 3, "H W")),
        _ports("n" if free_batch else 1, None, ("alpha", 1, "H W"), ("coefficients", 2, "gh gw")),
        [*graph.initializer, *build.constants],
    )
    opset = max(OPSET, next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))
    wrapped = helper.make_model(
        result,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=max(9, model.ir_version),
        producer_name="stylematte",
        producer_version=facts.tool_version,
    )
    helper.set_model_props(wrapped, _metadata(processing, side, seen.precision, facts))
    try:
        onnx.checker.check_model(wrapped)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InputError(f"{facts.name}: the imported network is not valid ONNX: {error}") from None
    return wrapped


def filter_eps(processing: Processing) -> float:
    """Return the filter's regulariser, in squared units of a guide normalised like the network's input."""
    return float(EPS * (EPS_STD / np.mean(processing.std)) ** 2)


class _Builder:
    """Collector of nodes, each named after the tensor that it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def __call__(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name


def _normalised(build: _Builder, processing: Processing) -> str:
    """Add the normalisation of `image`; returns the name of the result."""
    image = "image"
    if processing.divides_by_max:
        axes = build.constant("input/axes", [1, 2, 3], np.int64)
        greatest = build("ReduceMax", [image, axes], "input/greatest", keepdims=1)
        least = build.constant("input/least", 1e-6)
        image = build("Div", [image, build("Max", [greatest, least], "input/divisor")], "input/scaled")
    mean = build.constant("input/mean", np.reshape(processing.mean, (1, 3, 1, 1)))
    std = build.constant("input/std", np.reshape(processing.std, (1, 3, 1, 1)))
    return build("Div", [build("Sub", [image, mean], "input/centred"), std], "input/normalised")


def _alpha_to_contract(build: _Builder, answer: str, rank: int, processing: Processing) -> None:
    """Compute `coefficients` and `alpha` from the network's output."""
    answer = build("Cast", [answer], "output/float", to=TensorProto.FLOAT)
    if rank == 3:
        answer = build(
            "Unsqueeze", [answer, build.constant("output/channel", [1], np.int64)], "output/planes"
        )
    if processing.activation.startswith("sigmoid"):
        answer = build("Sigmoid", [answer], "output/sigmoid")
    if processing.activation.endswith("minmax"):
        axes = build.constant("output/axes", [1, 2, 3], np.int64)
        least = build("ReduceMin", [answer, axes], "output/least", keepdims=1)
        greatest = build("ReduceMax", [answer, axes], "output/greatest", keepdims=1)
        span = build("Sub", [greatest, least], "output/span")
        span = build("Max", [span, build.constant("output/tiny", 1e-6)], "output/divisor")
        answer = build("Div", [build("Sub", [answer, least], "output/from_least"), span], "output/stretched")
    low, high = build.constant("output/low", CLIP), build.constant("output/high", 1 - CLIP)
    alpha = build("Clip", [answer, low, high], "network_alpha")
    rest = build("Sub", [build.constant("output/one", 1), alpha], "output/rest")
    build("Log", [build("Div", [alpha, rest], "output/odds")], "coarse_logits")
    weights = build.constant("grey_weights", np.reshape([1 / (3 * s) for s in processing.std], (1, 3, 1, 1)))
    offset = -np.mean([m / s for m, s in zip(processing.mean, processing.std, strict=True)])
    grey = [weights, build.constant("grey_offset", [offset])]
    build("Conv", ["image", *grey], "coarse_guide")
    build("Conv", ["guide", *grey], "fine_guide")
    _exact_filter(build, filter_eps(processing))
    _inlined(build, fgf_apply(), {"coefficients": "coefficients", "guide": "fine_guide", "alpha": "alpha"})


def _exact_filter(build: _Builder, eps: float) -> None:
    """Compute `coefficients` that reproduce every pixel's logit; the window only sets the slope."""
    name = "exact_gf/{}".format
    guide, logits = "coarse_guide", "coarse_logits"
    products = build("Mul", [guide, logits], name("products"))
    squares = build("Mul", [guide, guide], name("squares"))
    planes = build("Concat", [guide, logits, products, squares], name("planes"), axis=1)
    window = {"kernel_shape": [2 * RADIUS_PX + 1] * 2, "pads": [RADIUS_PX] * 4, "count_include_pad": 0}
    build("AveragePool", [planes], name("means"), **window)
    names = [name(part) for part in ("mean_guide", "mean_logits", "mean_products", "mean_squares")]
    build.nodes.append(
        helper.make_node("Split", [name("means")], names, name("split"), axis=1, num_outputs=4)
    )
    mean_guide, mean_logits, mean_products, mean_squares = names
    product = build("Mul", [mean_guide, mean_logits], name("product_of_means"))
    covariance = build("Sub", [mean_products, product], name("covariance"))
    square = build("Mul", [mean_guide, mean_guide], name("square_of_mean"))
    variance = build("Sub", [mean_squares, square], name("variance"))
    regularised = build("Add", [variance, build.constant(name("eps"), eps)], name("regularised"))
    slope = build("Div", [covariance, regularised], name("A"))
    rise = build("Mul", [slope, guide], name("A_guide"))
    build("Concat", [slope, build("Sub", [logits, rise], name("b"))], "coefficients", axis=1)


def _inlined(build: _Builder, function: onnx.FunctionProto, ports: dict[str, str]) -> None:
    """Add the body of one of our functions, with the names that `export.functions.plain` gives."""

    def renamed(names: Sequence[str]) -> list[str]:
        return [name and ports.get(name, f"{function.name}/{name}") for name in names]

    for node in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = renamed(node.input)
        copy.output[:] = renamed(node.output)
        build.nodes.append(copy)


def _at_our_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the network to opset 18; a later opset is kept."""
    own = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    if own >= OPSET:
        return result
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", own))
    try:
        return version_converter.convert_version(result, OPSET)
    except Exception as error:  # the converter raises whatever its adapters raise
        message = " ".join(str(error).split())[:200]
        raise InputError(
            f"its operators are from opset {own} and cannot be brought to {OPSET}: {message}",
            f"Export the network with opset {OPSET}",
        ) from None


def _pruned(graph: onnx.GraphProto, output: str) -> onnx.GraphProto:
    """Return the part of a graph that one output depends on; ports keep their names."""
    wanted = {output}
    nodes = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
            for inner in _inner_graphs(node):
                wanted.update(_read_inside(inner))
    result = onnx.GraphProto()
    result.name = graph.name
    result.node.extend(reversed(nodes))
    result.initializer.extend(tensor for tensor in graph.initializer if tensor.name in wanted)
    weights = {tensor.name for tensor in graph.initializer}
    result.input.extend(port for port in graph.input if port.name not in weights)
    result.output.extend(port for port in graph.output if port.name == output)
    return result


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name every node; convolutions from three channels or to one get the prefix `ENDS`, to stay float32."""
    kernels = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 4}
    for node in graph.node:
        shapes = [kernels[name] for name in node.input if name in kernels]
        is_end = any(shape[0] == 1 or shape[1] == 3 for shape in shapes)
        own = (node.name or node.output[0]).removeprefix(PREFIX)
        node.name = f"{ENDS if is_end else PREFIX}{own}"


def _inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [inner for a in node.attribute for inner in (a.g, *a.graphs) if inner.node]


def _read_inside(graph: onnx.GraphProto) -> set[str]:
    names = {port.name for port in graph.output}
    for node in graph.node:
        names.update(node.input)
        for inner in _inner_graphs(node):
            names |= _read_inside(inner)
    return names


def _rank(seen: Seen, output: str) -> int:
    shape = next(port.shape for port in seen.outputs if port.name == output)
    return 4 if shape is None else len(shape)


def _ports(
    batch: int | str, side: tuple[int, int] | None, *ports: tuple[str, int, str]
) -> list[onnx.ValueInfoProto]:
    made = []
    for name, channels, sides in ports:
        shape = [batch, channels, *(side if side and name == "image" else sides.split())]
        made.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return made


def _metadata(
    processing: Processing, side: tuple[int, int] | None, precision: str, facts: Facts
) -> dict[str, str]:
    join: Callable[[Sequence[float]], str] = lambda values: ",".join(map(repr, values))  # noqa: E731
    height, width = side or (processing.size, processing.size)
    is_square = height == width
    values = {
        "contract": CONTRACT_VERSION,
        "preset": facts.name,
        "working_size": str(height if is_square else round((height * width) ** 0.5)),
        "good_sizes": f"{processing.size},{processing.size}" if is_square else "",
        "stride": str(
            processing.stride if side is None else height if is_square else int(np.gcd(height, width))
        ),
        "fit": processing.fit if side is None or processing.fit == "stretch" else "stretch",
        "mean": join(processing.mean),
        "std": join(processing.std),
        "upsampler": UPSAMPLER,
        "radius_px": str(RADIUS_PX),
        "eps": repr(filter_eps(processing)),
        "weights_sha256": facts.sha256,
        "tool_version": facts.tool_version,
        "licence": facts.licence,
        "provenance": json.dumps(facts.provenance),
        "refiner": "",
        "refiner_sha256": "",
        "precision": precision,
        "parity": "{}",
    }
    if side is not None:
        values["working_sizes"] = f"{height}x{width}"
    return {f"stylematte.{key}": value for key, value in values.items()}
