"""The guided filter as two ONNX local functions in the domain `matte`, and files with and without them.

The functions' bodies are standard operators. Files for general use contain the bodies inline, because
OpenVINO, OpenCV, pnnx and browsers do not read local functions. TensorRT's parser replaces functions by
plug-ins, so for TensorRT the functions are restored. This module needs no torch: a test, or the build script
of a C++ project, can make a contract file from these functions and any graph that computes logits.
"""

import itertools
import re
from typing import Any

import onnx
from onnx import TensorProto, helper, inliner

DOMAIN = "matte"
OPSET = 18
TO_THE_END = 2**63 - 1
_COPY = re.compile(r"__\d+$")  # suffix that the inliner adds to names; each function is used once per file


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    """Return the opsets that a model with these functions has to import."""
    return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inline the functions.

    Returns:
        A copy without functions. Inlined nodes and tensors are named `<function>/<name in the body>`.
    """
    result = inliner.inline_local_functions(model)
    functions = tuple(f"{function.name}/" for function in model.functions)
    renamed: dict[str, str] = {}
    for node in result.graph.node:
        if node.name.startswith(functions):
            function = node.name.partition("/")[0]
            inner = [name for name in node.output if _COPY.search(name)]
            renamed |= {name: f"{function}/{_COPY.sub('', name)}" for name in inner}
            node.name = _COPY.sub("", node.name)
    for node in result.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    del result.opset_import[:]
    result.opset_import.extend(o for o in model.opset_import if o.domain != DOMAIN)
    return result


def with_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Restore the guided filter's functions in a plain contract file, for a runtime with plug-ins.

    Args:
        model: Contract file of any precision; a file with functions is returned unchanged.
    """
    if model.functions:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    values = {entry.key: entry.value for entry in model.metadata_props}
    radius_px, eps = int(values["stylematte.radius_px"]), float(values["stylematte.eps"])
    known = [fgf_coefficients(radius_px, eps, averaged) for averaged in (True, False)] + [fgf_apply()]
    nodes: list[onnx.NodeProto] = []
    by_name = {node.name: node for node in model.graph.node}
    for node in model.graph.node:
        function = next((f for f in known if node.name.startswith(f"{f.name}/")), None)
        if function is None:
            nodes.append(node)
        elif node.output[0] == function.output[0]:  # the last node of a body replaces the whole body
            inputs = [_source(function, name, by_name) for name in function.input]
            outputs = [function.output[0]]
            nodes.append(helper.make_node(function.name, inputs, outputs, name=function.name, domain=DOMAIN))
            result.functions.append(function)
    for function in result.functions:  # bodies use the opset of their file, which is later for bfloat16
        function.opset_import[0].version = model.opset_import[0].version
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return result


def _source(function: onnx.FunctionProto, name: str, by_name: dict[str, onnx.NodeProto]) -> str:
    """Return the graph's tensor for a function's input, taken from the node that reads it."""
    reader = next(node for node in function.node if name in node.input)
    return by_name[reader.name].input[list(reader.input).index(name)]


def fgf_coefficients(radius_px: int, eps: float, averaged: bool = True) -> onnx.FunctionProto:
    """Compute the local linear model `logits ≈ A · guide + b` around every coarse pixel.

    The function maps `guide` (N,1,h,w), the grey low-resolution guide, and `logits` (N,1,h,w) to
    `coefficients` (N,2,h,w): A, then b. Its name is `fgf_coefficients`, or `fgf_local_coefficients` if A and
    b are not averaged, so that a plug-in cannot replace the wrong one.

    The means are subtracted before variance and covariance are computed; `models.upsamplers.window_moments`
    explains why.

    Args:
        radius_px: Box radius in coarse pixels; windows are cropped at the border and renormalised.
        eps: Regulariser, in squared units of the guide.
        averaged: Average A and b over the window.

    Reference:
        He, Sun, "Fast Guided Filter", 2015, algorithm 2, steps 2-4.
    """
    node = helper.make_node
    name = "fgf_coefficients" if averaged else "fgf_local_coefficients"
    body = [
        *_near_pixels(radius_px),
        node("Constant", [], ["axis"], value_ints=[1]),
        node("ReduceSum", ["inside", "axis"], ["count"]),
        node("Div", ["inside", "count"], ["share"]),
        *_weighted_sum("near_guide", "mean_guide"),
        *_weighted_sum("near_logits", "mean_logits"),
        node("Sub", ["near_guide", "mean_guide"], ["off_guide"]),
        node("Sub", ["near_logits", "mean_logits"], ["off_logits"]),
        node("Mul", ["off_guide", "off_guide"], ["squares"]),
        node("Mul", ["off_guide", "off_logits"], ["products"]),
        *_weighted_sum("squares", "variance"),
        *_weighted_sum("products", "covariance"),
        node("Constant", [], ["eps"], value_float=eps),
        node("Add", ["variance", "eps"], ["regularised"]),
        node("Div", ["covariance", "regularised"], ["A"]),
        node("Mul", ["A", "mean_guide"], ["A_mean_guide"]),
        node("Sub", ["mean_logits", "A_mean_guide"], ["b"]),
        node("Concat", ["A", "b"], ["local" if averaged else "coefficients"], axis=1),
    ]
    if averaged:
        window: dict[str, Any] = {
            "kernel_shape": [2 * radius_px + 1] * 2,
            "pads": [radius_px] * 4,
            "count_include_pad": 0,
        }
        body.append(node("AveragePool", ["local"], ["coefficients"], **window))
    return _function(name, ["guide", "logits"], ["coefficients"], body)


def _near_pixels(radius_px: int) -> list[onnx.NodeProto]:
    """Compute `near_guide`, `near_logits`, `inside`, (N,n²,h,w) each: the window's pixels, and a border mask.

    Slices instead of a convolution, which a runtime may round to TF32.
    """
    node, size = helper.make_node, 2 * radius_px + 1
    border = [0, 0, radius_px, radius_px]
    nodes = [
        node("Shape", ["guide"], ["shape"]),
        node(
            "ConstantOfShape",
            ["shape"],
            ["ones"],
            value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1]),
        ),
        node("Concat", ["guide", "logits", "ones"], ["planes"], axis=1),
        node("Constant", [], ["pads"], value_ints=border + border),
        node("Pad", ["planes", "pads"], ["padded"]),
        node("Constant", [], ["axes"], value_ints=[2, 3]),
    ]
    shifted = []
    for row, column in itertools.product(range(size), repeat=2):
        key = f"{row}_{column}"
        ends = [at - size + 1 or TO_THE_END for at in (row, column)]
        nodes += [
            node("Constant", [], [f"start_{key}"], value_ints=[row, column]),
            node("Constant", [], [f"end_{key}"], value_ints=ends),
            node("Slice", ["padded", f"start_{key}", f"end_{key}", "axes"], [f"shifted_{key}"]),
        ]
        shifted.append(f"shifted_{key}")
    nodes += [
        node("Concat", shifted, ["near"], axis=1),
        node("Constant", [], ["end"], value_ints=[TO_THE_END]),
        node("Constant", [], ["channels"], value_ints=[1]),
        node("Constant", [], ["step"], value_ints=[3]),
    ]
    for plane, name in enumerate(("near_guide", "near_logits", "inside")):
        nodes += [
            node("Constant", [], [f"start_{name}"], value_ints=[plane]),
            node("Slice", ["near", f"start_{name}", "end", "channels", "step"], [name]),
        ]
    return nodes


def _weighted_sum(x: str, y: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [node("Mul", ["share", x], [f"share_{x}"]), node("ReduceSum", [f"share_{x}", "axis"], [y])]


def fgf_apply() -> onnx.FunctionProto:
    """Upsample the coefficients to full size and compute alpha.

    The function maps `coefficients` (N,2,h,w) and `guide` (N,1,H,W), the grey full-resolution guide, to
    `alpha` (N,1,H,W) = sigmoid(A↑ · guide + b↑), ↑ bilinear with corner pixels aligned.

    Reference:
        He, Sun, "Fast Guided Filter", 2015, algorithm 2, steps 5-6; the sigmoid as published with StyleMatte.
    """
    node = helper.make_node
    body = [
        node("Shape", ["guide"], ["fine_size"], start=2, end=4),
        node("Shape", ["coefficients"], ["planes"], start=0, end=2),
        node("Concat", ["planes", "fine_size"], ["fine_shape"], axis=0),
        node(
            "Resize",
            ["coefficients", "", "", "fine_shape"],
            ["fine_coefficients"],
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
        node("Split", ["fine_coefficients"], ["A", "b"], axis=1, num_outputs=2),
        node("Mul", ["A", "guide"], ["A_guide"]),
        node("Add", ["A_guide", "b"], ["fine_logits"]),
        node("Sigmoid", ["fine_logits"], ["alpha"]),
    ]
    return _function("fgf_apply", ["coefficients", "guide"], ["alpha"], body)


def _function(
    name: str, inputs: list[str], outputs: list[str], body: list[onnx.NodeProto]
) -> onnx.FunctionProto:
    """Build a function whose nodes are named after it and their outputs."""
    for node in body:
        node.name = f"{name}/{node.output[0]}"
    return helper.make_function(DOMAIN, name, inputs, outputs, body, opset_imports()[:1])
