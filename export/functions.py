"""The guided filter as two ONNX local functions in our own domain `matte`.

ONNX Runtime inlines the bodies, which use standard operators only; another runtime may put a plug-in of
the same name in their place. No torch here: a test, or a C++ project's build script, can make a contract
file from these and any graph that yields logits.
"""

import itertools
from typing import Any

import onnx
from onnx import TensorProto, helper

DOMAIN = "matte"
OPSET = 18
TO_THE_END = 2**63 - 1


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    """Opsets that a model using the functions has to import."""
    return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]


def fgf_coefficients(radius_px: int, eps: float, averaged: bool = True) -> onnx.FunctionProto:
    """Local linear model `logits ≈ A · guide + b` around every coarse pixel.

    The function maps `guide` (N,1,h,w), the grey low-resolution guide, and `logits` (N,1,h,w) to
    `coefficients` (N,2,h,w): A, then b. Its name is `fgf_coefficients`, or `fgf_local_coefficients` where A
    and b are not averaged, so that a plug-in cannot stand for the other one by mistake.

    Variance and covariance are sums over what is left in a window after its mean is taken off, and no
    differences of means of products: `models.upsamplers.window_moments` says why.

    Args:
        radius_px: Box radius in coarse pixels; windows are cut at the border and divided by what is left.
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
    """`near_guide`, `near_logits`, `inside`, (N,n²,h,w) each: the window's pixels, and which are of the map.

    Slices and no convolution, which a runtime may round to TF32.
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
    """Carry the coefficients to full size and take alpha from them.

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
    """Make a function whose nodes are called after it and what they make."""
    for node in body:
        node.name = f"{name}/{node.output[0]}"
    return helper.make_function(DOMAIN, name, inputs, outputs, body, opset_imports()[:1])
