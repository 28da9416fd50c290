"""The ONNX functions of the guided filter against the float64 NumPy version."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.functions import DOMAIN, fgf_apply, fgf_coefficients, opset_imports
from tests.models.references import guided_coefficients, sigmoid, upsample


def run(function: onnx.FunctionProto, **inputs: np.ndarray) -> np.ndarray:
    """Call one function as the only node of a model."""
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(function.name, list(inputs), ["result"], domain=DOMAIN)],
        "one_function",
        [tensor(name, TensorProto.FLOAT, [None] * 4) for name in inputs],
        [tensor("result", TensorProto.FLOAT, [None] * 4)],
    )
    model = helper.make_model(graph, functions=[function], opset_imports=opset_imports(), ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize("radius_px", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 13), (3, 2), (1, 1)])  # radius 4 reaches over the last two
@pytest.mark.parametrize("averaged", [True, False])
def test_coefficients(rng, radius_px, size, averaged):
    guide, logits = rng.normal(0, 1, (2, 2, 1, *size)).astype(np.float32)
    got = run(fgf_coefficients(radius_px, 1e-2, averaged), guide=guide, logits=logits)
    assert got.shape == (2, 2, *size)
    for image in range(2):
        arrays = (x[image, 0].astype(np.float64) for x in (guide, logits))
        wanted = guided_coefficients(*arrays, radius_px, 1e-2, averaged)
        np.testing.assert_allclose(got[image], wanted, atol=1e-5, rtol=1e-5)


def test_a_nearly_flat_guide_loses_no_digits(rng):
    guide = (2.2 + 1e-3 * rng.normal(0, 1, (1, 1, 40, 40))).astype(np.float32)
    logits = rng.normal(0, 50, (1, 1, 40, 40)).astype(np.float32)
    a, b = run(fgf_coefficients(1, 1e-4), guide=guide, logits=logits)[0]
    wanted_a, wanted_b = guided_coefficients(*(x[0, 0].astype(np.float64) for x in (guide, logits)), 1, 1e-4)
    np.testing.assert_allclose(a * guide[0, 0] + b, wanted_a * guide[0, 0] + wanted_b, atol=1e-3)


def test_the_two_filters_have_names_of_their_own():
    assert fgf_coefficients(1, 1e-4).name == "fgf_coefficients"
    assert fgf_coefficients(1, 1e-4, averaged=False).name == "fgf_local_coefficients"


@pytest.mark.parametrize("fine", [(32, 32), (29, 51), (7, 13), (3, 5), (1, 9), (1, 1)])
def test_apply(rng, fine):
    coefficients = rng.normal(0, 3, (2, 2, 7, 13)).astype(np.float32)
    guide = rng.normal(0, 1, (2, 1, *fine)).astype(np.float32)
    got = run(fgf_apply(), coefficients=coefficients, guide=guide)
    assert got.shape == (2, 1, *fine)
    for image in range(2):
        a, b = (upsample(plane.astype(np.float64), fine) for plane in coefficients[image])
        np.testing.assert_allclose(got[image, 0], sigmoid(a * guide[image, 0] + b), atol=1e-5)


def test_apply_of_a_single_coarse_pixel(rng):
    coefficients = np.array([2, -1], np.float32).reshape(1, 2, 1, 1)
    guide = rng.normal(0, 1, (1, 1, 5, 4)).astype(np.float32)
    got = run(fgf_apply(), coefficients=coefficients, guide=guide)
    np.testing.assert_allclose(got, sigmoid(2.0 * guide - 1), atol=1e-6)
