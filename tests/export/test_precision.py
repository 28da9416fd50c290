"""Half types and int8: what is rounded is rounded rightly, what must stay float32 does, and limits bite."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.functions import with_functions
from export.int8 import FEWEST_PHOTOS, to_int8
from export.onnx import export_onnx
from export.parity import LIMITS, Limits, ParityError, at_working_size, check_converted
from export.precision import HALF, SENSITIVE, rounded_in_float32, to_half
from models.presets import PRESETS
from stylematte.engines.base import Contract
from stylematte.errors import EngineError, InputError
from tests.export.conftest import ORIGIN
from tests.models.networks import lively
from tests.training import drawn

NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    images = (drawn.sample_image(np.random.default_rng(number))[0] for number in range(FEWEST_PHOTOS))
    return {
        f"{i}": np.ascontiguousarray(p.transpose(2, 0, 1), np.float32) / 255 for i, p in enumerate(images)
    }


@pytest.fixture(scope="module")
def halves(exported) -> dict[str, onnx.ModelProto]:
    return {precision: to_half(exported.model, precision) for precision in HALF}


@pytest.fixture(scope="module")
def int8(exported, photos) -> onnx.ModelProto:
    before = exported.model.SerializeToString()
    model = to_int8(exported.model, [at_working_size(photo, 128, 32) for photo in photos.values()])
    assert exported.model.SerializeToString() == before
    return model


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in graph.value_info} | {
        t.name: t.data_type for t in graph.initializer
    }


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_are_half_and_the_sensitive_part_is_not(exported, halves, precision):
    model = halves[precision]
    types = types_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in exported.model.graph.node)
    for node in convolutions:
        wanted = TensorProto.FLOAT if SENSITIVE.search(node.name) else HALF[precision]
        assert {types[name] for name in node.input if name in types} <= {wanted}, node.name
    assert sum(SENSITIVE.search(node.name) is None for node in convolutions) > 10
    for node in model.graph.node:
        if node.op_type == "ReduceMean" or node.name.startswith("fgf_"):
            assert all(types.get(name) != HALF[precision] for name in node.input)
    ports = (*model.graph.input, *model.graph.output)
    assert {port.type.tensor_type.elem_type for port in ports} == {TensorProto.FLOAT}
    assert Contract.from_metadata(metadata(model), "x").precision == precision
    assert [f.name for f in with_functions(model).functions] == ["fgf_coefficients", "fgf_apply"]
    assert model.ByteSize() < 0.75 * exported.model.ByteSize()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_are_rounded_once_and_to_the_nearest(exported, halves, precision):
    original = {t.name: numpy_helper.to_array(t) for t in exported.model.graph.initializer}
    half = [t for t in halves[precision].graph.initializer if t.data_type == HALF[precision]]
    assert len(half) > 10
    for tensor in half:
        name = tensor.name.rpartition("/")[0]
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor), original[name].astype(NUMPY[precision]), err_msg=name
        )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_cpu_form_rounds_after_every_node(precision):
    """Three products in a row, against NumPy; what each gives falls between two numbers of the type."""
    weights = [np.float32(w) for w in (1.001, 0.777, 3.3)]
    names = ["image", "a/Mul", "b/Mul", "c/Mul"]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], name=names[i + 1]) for i in range(3)
    ]
    nodes.append(helper.make_node("Neg", ["c/Mul"], ["alpha"], name="out/Neg"))
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "products",
        [port("image", TensorProto.FLOAT, [1, 1, 5, 7])],
        [port("alpha", TensorProto.FLOAT, [1, 1, 5, 7])],
        [numpy_helper.from_array(w.reshape(1, 1, 1, 1), f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = np.random.default_rng(0).random((1, 1, 5, 7), np.float32)
    kind = NUMPY[precision]
    expected = x.astype(kind)
    for weight in weights:
        expected = (expected.astype(np.float32) * weight.astype(kind).astype(np.float32)).astype(kind)
    (got,) = run(rounded_in_float32(to_half(model, precision)), image=x)
    np.testing.assert_array_equal(got, -expected.astype(np.float32))
    assert np.abs(got + x * np.prod(weights)).max() > 1e-4


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_half_file_is_near_the_float_file(exported, halves, photos, precision):
    size = exported.network.preset.working_size, exported.network.preset.stride
    parity = check_converted(exported.model, halves[precision], precision, photos, size)
    assert parity.reference == "fp32"
    assert 0 < parity.mean_difference < parity.thousandth_difference < parity.max_difference


def test_a_float16_file_runs_on_a_cpu(exported, halves, photos):
    photo = at_working_size(photos["0"], 128, 32)[None]
    wanted, got = (run(m, image=photo, guide=photo)[0] for m in (exported.model, halves["fp16"]))
    assert got.dtype == np.float32
    assert 0 < np.abs(got - wanted).max() < 0.03


def test_a_weight_too_large_for_float16_is_named(exported):
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    tensor = next(t for t in model.graph.initializer if t.name == "encoder.blocks.2.project.conv.weight")
    array = numpy_helper.to_array(tensor) + np.float32(7e4)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(EngineError, match=r"encoder\.blocks\.2\.project\.conv\.weight: 7e\+04 is too large"):
        to_half(model, "fp16")
    to_half(model, "bf16")


def test_int8_weights_are_within_half_a_step_of_their_channel(exported, int8):
    original = {t.name: numpy_helper.to_array(t) for t in exported.model.graph.initializer}
    arrays = {t.name: numpy_helper.to_array(t) for t in int8.graph.initializer}
    seen = 0
    for node in int8.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        weight = node.input[0].removesuffix("_quantized")
        if not weight.endswith(".weight"):
            continue
        values, scales, zeros = (arrays[name] for name in node.input)
        assert values.dtype == np.int8
        assert scales.shape == (len(values),)  # one a channel
        assert not zeros.any()
        error = np.abs(values * scales.reshape(-1, 1, 1, 1) - original[weight])
        assert (error.reshape(len(values), -1).max(1) <= scales * 0.501).all(), weight
        seen += 1
    assert seen > 10


def test_int8_leaves_the_sensitive_part_and_the_filter_alone(int8, exported):
    made_by = {name: node for node in int8.graph.node for name in node.output}
    for node in int8.graph.node:
        if node.op_type == "Conv" and SENSITIVE.search(node.name):
            assert node.input[1] not in made_by, node.name  # a plain float weight
        if node.op_type == "Conv" and not SENSITIVE.search(node.name):
            assert made_by[node.input[1]].op_type == "DequantizeLinear"
            assert made_by[node.input[0]].op_type == "DequantizeLinear"
        if node.name.startswith("fgf_"):
            kinds = {made_by[name].op_type for name in node.input if name in made_by}
            assert kinds.isdisjoint(("DequantizeLinear", "Clip")), node.name
    assert made_by["coarse_logits"].op_type == "Conv"
    assert {(o.domain, o.version) for o in int8.opset_import} == {("", 18)}
    assert {node.domain for node in int8.graph.node} == {""}
    assert metadata(int8) == metadata(exported.model) | {"stylematte.precision": "int8"}
    assert not int8.functions


def test_int8_leaves_a_learned_filter_alone(photos):
    network = lively(dataclasses.replace(PRESETS["test"], upsampler="fine_gf"))
    images = [at_working_size(photo, 128, 32) for photo in photos.values()]
    int8 = to_int8(export_onnx(network, ORIGIN), images)
    rounded = {node.input[0] for node in int8.graph.node if node.op_type == "QuantizeLinear"}
    filter_nodes = [node for node in int8.graph.node if node.name.startswith(("head", "upsampler"))]
    assert {"Conv", "Resize", "Add", "Mul", "Sub", "Concat"} <= {node.op_type for node in filter_nodes}
    assert not rounded.intersection(name for node in filter_nodes for name in node.output)


def test_int8_is_near_the_float_file(exported, int8, photos, monkeypatch):
    # A network of random weights is undecided everywhere, so its alpha moves more than a trained one's.
    monkeypatch.setitem(LIMITS, "int8", Limits(0.5, 0.4, 0.05))
    size = exported.network.preset.working_size, exported.network.preset.stride
    parity = check_converted(exported.model, int8, "int8", photos, size)
    assert 1e-5 < parity.mean_difference


def test_int8_wants_enough_photos(exported, photos):
    few = list(photos.values())[: FEWEST_PHOTOS - 1]
    with pytest.raises(InputError, match=r"15 photos are too few .* at least 16"):
        to_int8(exported.model, few)


def test_a_layer_that_went_wrong_is_named(exported, halves, photos):
    model = onnx.ModelProto()
    model.CopyFrom(halves["fp16"])
    name = "encoder.blocks.3.project.conv.weight/fp16"
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float16(1.5), name))
    size = exported.network.preset.working_size, exported.network.preset.stride
    with pytest.raises(ParityError, match=r"; encoder\.blocks\.3\.project\.conv/Conv is the first layer"):
        check_converted(exported.model, model, "fp16", photos, size)
