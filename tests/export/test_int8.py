"""Which layers are too coarse for 8 bits, against the known noise of uniform values."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.int8 import coarse_layers, to_int8
from export.parity import run_onnx

UNIFORM_DB = 20 * np.log10(255)  # variance 1/12 over (1/255)² / 12


def with_outliers(images):
    """One pixel in a thousand is 1, the others are a thousandth of what they were."""
    spread = [image / 1000 for image in images]
    for image in spread:
        image[:, ::32, ::32] = 1
    return spread


def chain(*weights: np.ndarray) -> onnx.ModelProto:
    """1×1 convolutions after one another, named conv_0, conv_1 …"""
    nodes, source = [], "image"
    for index in range(len(weights)):
        nodes.append(helper.make_node("Conv", [source, f"w{index}"], [f"y{index}"], f"conv_{index}"))
        source = f"y{index}"
    nodes.append(helper.make_node("Identity", [source], ["alpha"], "out"))
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("alpha", TensorProto.FLOAT, ["n", len(weights[-1]), "h", "w"]),
    ]
    kernels = [numpy_helper.from_array(w[..., None, None], f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], kernels)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_uniform_values_have_48_db(images):
    model = chain(np.eye(3, dtype=np.float32))
    assert coarse_layers(model, images, UNIFORM_DB - 0.1) == set()
    assert coarse_layers(model, images, UNIFORM_DB + 0.1) == {"conv_0"}


def test_the_layers_around_a_tensor_with_few_large_values_are_found(images):
    eye = np.eye(3, dtype=np.float32)
    assert coarse_layers(chain(eye, eye, eye), with_outliers(images)) == {"conv_0", "conv_1", "conv_2"}
    assert coarse_layers(chain(eye, eye, eye), images) == set()


def activated(weights: np.ndarray) -> onnx.ModelProto:
    """A 1×1 convolution `conv_0`, a Relu `relu` and a twofold enlargement `resize`."""
    model = chain(weights)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    relu = helper.make_node("Relu", ["y0"], ["positive"], "relu")
    resize = helper.make_node("Resize", ["positive", "", "scales"], ["large"], "resize", mode="nearest")
    model.graph.node[-1].input[0] = "large"
    nodes = [model.graph.node[0], relu, resize, model.graph.node[-1]]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return model


def test_what_follows_a_coarse_layer_stays_float32_too(images):
    """IS-Net's alphas changed by .005 to .02 on average while only its convolutions did."""
    model, spread = activated(np.eye(3, dtype=np.float32)), with_outliers(images)
    assert coarse_layers(model, spread) == {"conv_0", "relu", "resize"}
    assert coarse_layers(model, images) == set()
    assert not any(node.op_type == "QuantizeLinear" for node in to_int8(model, spread).graph.node)


def test_what_an_activation_removes_does_not_count(images):
    """The quantiser fuses Relu with the layer before, whose negative outliers are never stored."""
    sparse = [image.copy() for image in images]
    for image in sparse:
        image[2] = 0
        image[2, ::32, ::32] = 1
    assert coarse_layers(activated(np.array([[0.001, 0, -1]], np.float32)), sparse) == set()


def test_sums_of_sizes_are_no_layers(images):
    model = chain(np.eye(3, dtype=np.float32))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    size = helper.make_node("Shape", ["image"], ["size"], "shape")
    model.graph.node.extend([size, helper.make_node("Add", ["size", "one"], ["more"], "sum")])
    assert coarse_layers(model, images) == set()


def test_an_int8_file_keeps_coarse_layers_in_float32(images):
    first = np.eye(3, dtype=np.float32)
    second = np.array([[1, 1, 1]], np.float32)
    model = chain(first, second)
    spread = with_outliers(images)
    converted = to_int8(model, spread)
    assert not any(node.op_type == "QuantizeLinear" for node in converted.graph.node)
    quantised = to_int8(model, images)
    assert any(node.op_type == "QuantizeLinear" for node in quantised.graph.node)
    image = images[0][None]
    np.testing.assert_allclose(run_onnx(quantised)(image, image), image.sum(1, keepdims=True), atol=0.03)
