"""The guided filter as two ONNX local functions in our own domain `matte`.

ONNX Runtime inlines the bodies, which use standard operators only; another runtime may put a plug-in of
the same name in their place. No torch here: a test, or a C++ project's build script, can make a contract
file from these and any graph that yields logits.
"""

from typing import Any

import onnx
from onnx import helper

DOMAIN = "matte"
OPSET = 18


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    """Opsets that a model using the functions has to import."""
    return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]


def fgf_coefficients(radius_px: int, eps: float) -> onnx.FunctionProto:
    """Local linear model `logits ≈ A · guide + b` around every coarse pixel.

    The function maps `guide` (N,1,h,w), the grey low-resolution guide, and `logits` (N,1,h,w) to
    `coefficients` (N,2,h,w): A, then b, both averaged over the window.

    Args:
        radius_px: Box radius in coarse pixels; windows are cut at the border and divided by what is left.
        eps: Regulariser, in squared units of the guide.

    Reference:
        He, Sun, "Fast Guided Filter", 2015, algorithm 2, steps 2-4.
    """
    window: dict[str, Any] = {
        "kernel_shape": [2 * radius_px + 1] * 2,
        "pads": [radius_px] * 4,
        "count_include_pad": 0,
    }
    node = helper.make_node

    def mean(x: str, y: str) -> onnx.NodeProto:
        return node("AveragePool", [x], [y], **window)

    body = [
        mean("guide", "mean_guide"),
        mean("logits", "mean_logits"),
        node("Mul", ["guide", "guide"], ["guide_squared"]),
        mean("guide_squared", "mean_guide_squared"),
        node("Mul", ["guide", "logits"], ["guide_logits"]),
        mean("guide_logits", "mean_guide_logits"),
        node("Mul", ["mean_guide", "mean_guide"], ["squared_mean_guide"]),
        node("Sub", ["mean_guide_squared", "squared_mean_guide"], ["variance"]),
        node("Mul", ["mean_guide", "mean_logits"], ["product_of_means"]),
        node("Sub", ["mean_guide_logits", "product_of_means"], ["covariance"]),
        node("Constant", [], ["eps"], value_float=eps),
        node("Add", ["variance", "eps"], ["regularised"]),
        node("Div", ["covariance", "regularised"], ["A"]),
        node("Mul", ["A", "mean_guide"], ["A_mean_guide"]),
        node("Sub", ["mean_logits", "A_mean_guide"], ["b"]),
        mean("A", "mean_A"),
        mean("b", "mean_b"),
        node("Concat", ["mean_A", "mean_b"], ["coefficients"], axis=1),
    ]
    return helper.make_function(
        DOMAIN, "fgf_coefficients", ["guide", "logits"], ["coefficients"], body, opset_imports()[:1]
    )


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
    return helper.make_function(
        DOMAIN, "fgf_apply", ["coefficients", "guide"], ["alpha"], body, opset_imports()[:1]
    )
