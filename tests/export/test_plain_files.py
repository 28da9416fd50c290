"""Files for everybody: plain ONNX, with a prior or without; and functions put back for plug-ins."""

import dataclasses

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.branches import branches, reads
from export.build import build_onnx, fix_size
from export.contract import feed
from export.divergence import first_divergence, layer_outputs
from export.engine_plan import plan_for
from export.functions import plain, with_functions
from export.int8 import to_int8
from export.network_parity import check_parity, module_outputs
from export.onnx import export_onnx
from export.parity import ParityError, cases_of, check_converted, run_onnx, with_prior
from export.precision import set_metadata, to_half
from models.presets import PRESETS
from stylematte.engines.base import Contract
from tests.conftest import red_detector
from tests.export.conftest import ORIGIN
from tests.models.networks import lively


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["alpha", "coefficients"], inputs)


def inputs_of(model: onnx.ModelProto, rng, batch: int = 2, prior: bool = False) -> dict[str, np.ndarray]:
    image, guide = rng.random((batch, 3, 64, 96), np.float32), rng.random((batch, 3, 101, 75), np.float32)
    given = rng.random((batch, 1, 64, 96), np.float32) if prior else None
    return feed([port.name for port in model.graph.input], image, guide, given)


@pytest.mark.parametrize("fixture", ["exported", "shipped"])
def test_functions_and_their_bodies_say_the_same(request, rng, fixture):
    model = request.getfixturevalue(fixture).model
    back = with_functions(model)
    onnx.checker.check_model(back, full_check=True)
    names = ["fgf_coefficients", "fgf_apply"] if fixture == "exported" else ["fgf_apply"]
    assert [f.name for f in back.functions] == names
    assert [n.op_type for n in back.graph.node if n.domain == "matte"] == names
    assert not any(n.name.startswith("fgf_") and n.domain == "" for n in back.graph.node)
    inputs = inputs_of(model, rng)
    for one, other in zip(run(model, inputs), run(back, inputs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert plain(back).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert with_functions(back) is back


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("fixture", ["exported", "shipped"])
def test_half_files_get_their_functions_back(request, fixture, precision):
    half = to_half(request.getfixturevalue(fixture).model, precision)
    onnx.checker.check_model(with_functions(half), full_check=True)
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(half, strict_mode=True).graph.value_info
    }
    inside = {name for n in half.graph.node if n.name.startswith("fgf_") for name in n.output}
    kinds = {types[name] for name in inside if name in types}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_filter_without_averages_has_its_own_name(rng):
    network = lively(dataclasses.replace(PRESETS["test"], averaged=False))
    model = export_onnx(network, ORIGIN)
    assert any(n.name.startswith("fgf_local_coefficients/") for n in model.graph.node)
    back = with_functions(model)
    assert [f.name for f in back.functions] == ["fgf_local_coefficients", "fgf_apply"]
    inputs = inputs_of(model, rng)
    np.testing.assert_allclose(run(model, inputs)[0], run(back, inputs)[0], atol=1e-6)


def test_version_1_files_give_engines_too():
    old, new = plan_for("red", red_detector("1"), None, 1), plan_for("red", red_detector(), None, 1)
    assert (
        [k.name for k in old.kernels()]
        == [k.name for k in new.kernels()]
        == ["fgf_coefficients", "fgf_apply"]
    )


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize(
    ("working", "full"), [((128, 128), (90, 170)), ((32, 96), (1, 1)), ((96, 64), (7, 9))]
)
def test_the_shipped_kind_of_file_is_the_network(shipped, rng, prior, working, full):
    arrays = [
        rng.random((2, channels, *size), np.float32)
        for channels, size in ((3, working), (3, full), (1, working))
    ]
    given = arrays if prior else [*arrays[:2], np.zeros_like(arrays[2])]
    with torch.inference_mode():
        wanted = shipped.network(*map(torch.from_numpy, arrays if prior else arrays[:2])).alpha.numpy()
    alpha, coefficients = run(shipped.model, dict(zip(("image", "guide", "prior"), given, strict=True)))
    assert coefficients.shape == (2, 2, working[0] // 2, working[1] // 2)
    np.testing.assert_allclose(alpha, wanted, atol=1e-4)


def test_a_file_says_what_sizes_its_network_is_good_at(shipped, exported):
    contracts = [
        Contract.from_metadata({e.key: e.value for e in model.metadata_props}, "x")
        for _, model in (shipped, exported)
    ]
    preset = shipped.network.preset
    assert contracts[0].good_sizes == (preset.least_size, preset.most_size) == (64, 192)
    assert contracts[1].good_sizes is None  # nobody has said
    assert [(c.fit, c.refiner, c.refiner_sha256) for c in contracts] == [("keep", "", "")] * 2


def test_every_layer_of_the_shipped_kind_is_found(shipped, rng):
    image, prior = rng.random((1, 3, 64, 96), np.float32), rng.random((1, 1, 64, 96), np.float32)
    modules = module_outputs(shipped.network, image, prior)
    taps = layer_outputs(shipped.model, image, modules, prior)
    assert {"encoder.stem", "encoder.blocks.2", "fpn.smooth.0"} <= set(taps)
    assert first_divergence(modules, taps).startswith("no layer differs by more than 5%")
    without = layer_outputs(shipped.model, image, modules)
    assert first_divergence(modules, without).startswith("selection")


def test_parity_looks_at_the_prior(shipped, rng):
    photos = {"a": rng.random((3, 90, 120), np.float32)}
    assert check_parity(shipped.network, shipped.model, photos).pictures == 5
    deaf = onnx.ModelProto()
    deaf.CopyFrom(shipped.model)
    (last,) = (t for t in deaf.graph.initializer if t.name == "selection.last.weight")
    kernel = np.zeros_like(onnx.numpy_helper.to_array(last))
    last.CopyFrom(onnx.numpy_helper.from_array(kernel, last.name))
    with pytest.raises(ParityError, match="a, with its alpha as prior: alpha of the file differs"):
        check_parity(shipped.network, deaf, photos)
    size = shipped.network.preset.working_size, shipped.network.preset.stride
    assert check_converted(shipped.model, to_half(shipped.model, "fp16"), "fp16", photos, size).pictures == 5
    with pytest.raises(ParityError, match="with its alpha as prior"):
        check_converted(shipped.model, to_half(deaf, "fp16"), "fp16", photos, size)


def test_the_prior_of_a_case_is_what_was_said_of_it(shipped, rng):
    cases = cases_of({"a": rng.random((3, 90, 120), np.float32)}, 128, 32)
    believed = with_prior(cases, run_onnx(shipped.model))
    assert list(believed) == ["a, with its alpha as prior", "batch of two, with its alpha as prior"]
    image, guide, prior = believed["batch of two, with its alpha as prior"]
    assert prior.shape == (2, 1, *image.shape[2:])
    assert guide is cases["batch of two"][1]
    with torch.inference_mode():
        wanted = shipped.network(torch.from_numpy(image), torch.from_numpy(image)).alpha.numpy()
    np.testing.assert_allclose(prior, wanted, atol=1e-4)


def test_calibration_needs_no_prior_as_nothing_quantised_depends_on_one(shipped, images):
    converted = to_int8(shipped.model, images)
    behind, quantised = {"prior"}, 0
    for node in converted.graph.node:
        quantised += node.op_type == "QuantizeLinear"
        if behind & reads(node):
            assert node.op_type not in ("QuantizeLinear", "DequantizeLinear"), node.name
            behind |= set(node.output)
    assert quantised > 10
    assert {"alpha", "coefficients"} <= behind


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16", "int8"])
def test_what_follows_a_prior_runs_only_if_there_is_one(shipped, images, kind):
    model = shipped.model
    if kind == "int8":
        model = to_int8(model, images)
    elif kind != "fp32":
        model = to_half(model, kind)
    (choice,) = (node for node in model.graph.node if node.op_type == "If")
    given, not_given = sorted(branches(choice), key=lambda branch: branch.name)
    assert [node.op_type for node in not_given.node] == ["Identity"]
    assert not any(node.name.startswith(("encoder", "fpn", "head", "upsampler")) for node in given.node)
    assert not any(node.name.startswith("selection.") for node in model.graph.node)
    assert sum(node.op_type == "Conv" for node in given.node) > 20


def test_an_engine_of_a_stretching_network_sees_squares_alone(exported):
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    set_metadata(model, "fit", "stretch")
    assert plan_for("test", model, 320, 1).sizes == ((320, 320),)


def test_an_engine_has_a_profile_for_the_prior(shipped, exported):
    profile = plan_for("test", shipped.model, 64, 3).profiles()[0]
    assert list(profile) == ["image", "guide", "prior"]
    assert profile["prior"] == [(1, 1, 64, 64), (1, 1, 64, 64), (3, 1, 64, 64)]
    assert list(plan_for("test", exported.model, 64, 3).profiles()[0]) == ["image", "guide"]


@pytest.mark.parametrize(("fixture", "stride"), [("exported", 4), ("shipped", 2)])
def test_a_fixed_size_is_that_of_all_tensors(request, rng, fixture, stride):
    model = onnx.ModelProto()
    model.CopyFrom(request.getfixturevalue(fixture).model)
    fix_size(model, (64, 96))
    sizes = {
        port.name: [d.dim_value or d.dim_param for d in port.type.tensor_type.shape.dim]
        for port in (*model.graph.input, *model.graph.output)
    }
    assert sizes["image"][1:] == [3, 64, 96]
    assert sizes["coefficients"][1:] == [2, 64 // stride, 96 // stride]
    assert sizes["alpha"][2:] == ["H", "W"]
    if "prior" in sizes:
        assert sizes["prior"][1:] == [1, 64, 96]
    run(model, inputs_of(model, rng))


@pytest.mark.parametrize("preset", ["test", "test_nano"])
def test_opencv_reads_and_runs_a_file_of_one_size(rng, tmp_path, preset):
    """Without a prior: OpenCV 5.0.0 computes what follows an `If` wrongly from the second run on."""
    built = build_onnx(lively(preset), ORIGIN, "fp32", None, fixed_size=(64, 96), prior=False)
    model = built.model
    assert [port.name for port in model.graph.input] == ["image", "guide"]
    assert not any(node.op_type == "If" for node in model.graph.node)
    onnx.save(model, tmp_path / "fixed.onnx")
    network = cv2.dnn.readNetFromONNX(str(tmp_path / "fixed.onnx"))
    for _ in range(2):
        inputs = inputs_of(model, rng, batch=1)
        for name, array in inputs.items():
            network.setInput(array, name)
        alpha, coefficients = network.forward(["alpha", "coefficients"])
        for got, wanted in zip((alpha, coefficients), run(model, inputs), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-3)
