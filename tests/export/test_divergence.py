"""Naming the first layer that parts."""

import copy

import numpy as np
import onnx
import pytest

from export.divergence import first_divergence, layer_outputs
from export.network_parity import module_outputs


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).random((1, 3, 64, 96), np.float32)


def test_every_module_with_modules_inside_is_found_in_the_file(exported, image):
    modules = module_outputs(exported.network, image)
    assert {"encoder.stem", "encoder.blocks.2", "fpn.smooth.0", "coarse_logits"} <= set(modules)
    taps = layer_outputs(exported.model, image, modules)
    assert set(taps) == set(modules)
    for name, wanted in modules.items():
        np.testing.assert_allclose(taps[name], wanted, atol=1e-3 * np.abs(wanted).max(), err_msg=name)
    assert first_divergence(modules, taps).startswith("no layer differs by more than 5%")


@pytest.mark.parametrize(
    ("factor", "message"),
    [(1.5, "fpn.laterals.2 is the first layer that differs, by "), (np.nan, "a value that is not finite")],
)
def test_the_first_is_named_and_not_what_follows(exported, image, factor, message):
    model = copy.deepcopy(exported.model)
    tensor = next(t for t in model.graph.initializer if t.name == "fpn.laterals.2.conv.weight")
    array = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    modules = module_outputs(exported.network, image)
    found = first_divergence(modules, layer_outputs(model, image, modules))
    assert found.startswith("fpn.laterals.2 ")
    assert message in found


def test_layers_of_another_shape_are_passed_over():
    wanted = {"a": np.arange(4.0), "b": np.arange(4.0), "c": np.ones(4), "d": np.arange(4.0)}
    got = {"b": np.arange(5.0), "c": np.zeros(4), "d": np.array([0, 1, 2, 3.6])}
    assert (
        first_divergence(wanted, got) == "d is the first layer that differs, by 27% of its standard deviation"
    )
