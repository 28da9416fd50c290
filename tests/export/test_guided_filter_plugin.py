"""The TensorRT plug-ins through a stand-in for TensorRT, whose launches run on this CPU."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from export import plugin
from export.functions import with_functions
from stylematte.engines.guided_filter.kernels import ApplyKernel, CoefficientsKernel
from stylematte.engines.guided_filter.nvrtc import ARCHITECTURE
from stylematte.errors import InputError
from tests.conftest import red_detector
from tests.export.fakes import FakeTensorDesc, fake_tensorrt
from tests.export.host_kernels import HostKernels, pack, require_compiler


@pytest.fixture
def trtp(monkeypatch):
    """`tensorrt.plugin`, with nothing registered yet."""
    modules = fake_tensorrt()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(plugin, "_settings", None)
    monkeypatch.setattr(plugin, "version", lambda: "13.0")
    monkeypatch.setattr(plugin, "compile_ptx", lambda kernel, *_: repr(kernel))
    return modules["tensorrt.plugin"]


def build_and_run(trtp, host: HostKernels, name: str, *inputs: np.ndarray) -> np.ndarray:
    """One plug-in node as TensorRT would run it: describe, compile, evaluate the expressions, launch."""
    descriptions = [FakeTensorDesc(x.shape, str(x.dtype)) for x in inputs]
    described = trtp.described[name](*descriptions)
    kernel_name, ptx, parameters, integers = trtp.launched[name](*descriptions, (described,), 0)
    (kernel,) = (kernel for kernel in host.kernels if repr(kernel) == ptx)
    assert kernel.name == kernel_name
    assert parameters.shared_mem == 0
    grid, block = (
        tuple(
            int(
                getattr(getattr(parameters, f"{kind}_{axis}"), "value", getattr(parameters, f"{kind}_{axis}"))
            )
            for axis in "xyz"
        )
        for kind in ("grid", "block")
    )
    out = np.full(described.sizes, np.nan, described.dtype)
    host.run(kernel, grid, block, pack(*inputs, *(integer.value for integer in integers), out))
    return out


def test_two_nodes_give_what_the_onnx_functions_give(trtp, rng, tmp_path):
    require_compiler()
    host = HostKernels([CoefficientsKernel(1, 1e-4), ApplyKernel()], tmp_path)
    plugin.register(1, 1e-4)
    assert list(trtp.described) == list(trtp.launched) == ["matte::fgf_coefficients", "matte::fgf_apply"]
    # Intermediate tensors of a contract file become its outputs, so both nodes get what they get there.
    model = red_detector()
    for name in ("coarse_guide", "logits", "fine_guide", "coefficients"):
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4)
        )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.kron(rng.random((2, 3, 8, 12)), np.ones((8, 8))).astype(np.float32)
    guide = rng.random((2, 3, 131, 203), np.float32)
    names = [output.name for output in session.get_outputs()]
    tensors = dict(zip(names, session.run(None, {"image": image, "guide": guide}), strict=True))

    coefficients = build_and_run(
        trtp, host, "matte::fgf_coefficients", tensors["coarse_guide"], tensors["logits"]
    )
    alpha = build_and_run(trtp, host, "matte::fgf_apply", coefficients, tensors["fine_guide"])

    assert coefficients.shape == tensors["coefficients"].shape
    assert np.ptp(alpha) > 0.5
    # ONNX Runtime computes E[x²] − E[x]²: see export/parity.py for what that costs.
    np.testing.assert_allclose(alpha, tensors["alpha"], atol=1 / 255)
    assert np.abs(alpha - tensors["alpha"]).mean() < 1e-5


def test_a_second_call_changes_the_numbers(trtp):
    plugin.register(1, 1e-4)
    plugin.register(5, 1e-2, "compute_80")
    tensors = FakeTensorDesc((1, 1, 8, 8), "float16"), FakeTensorDesc((1, 1, 8, 8), "float16")
    outputs = (FakeTensorDesc((1, 2, 8, 8), "float16"),)
    _, ptx, _, _ = trtp.launched["matte::fgf_coefficients"](*tensors, outputs, 0)
    assert ptx == repr(CoefficientsKernel(5, 1e-2, "float16", "float16"))
    assert plugin._settings.architecture == "compute_80" != ARCHITECTURE


@pytest.mark.parametrize("kinds", [("float32", "float16"), ("int8", "int8")])
def test_types_that_the_nodes_do_not_take(trtp, kinds):
    plugin.register(1, 1e-4)
    tensors = FakeTensorDesc((1, 2, 8, 8), kinds[0]), FakeTensorDesc((1, 1, 9, 9), kinds[1])
    with pytest.raises(InputError, match=r"fgf_apply: tensors of .*all float32 or all float16"):
        trtp.launched["matte::fgf_apply"](*tensors, (tensors[1].like(),), 0)


def test_numbers_that_the_kernels_do_not_have_are_refused_before_anything_is_registered(trtp):
    with pytest.raises(InputError, match="radius 40 px"):
        plugin.register(40, 1e-4)
    assert trtp.described == {}


def test_nodes_ask_for_plugins_and_keep_their_bodies(rng):
    model = with_functions(red_detector())
    before = model.SerializeToString()
    marked = plugin.with_plugin_nodes(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(marked, full_check=True)
    nodes = [node for node in marked.graph.node if node.domain == "matte"]
    assert [node.op_type for node in nodes] == list(plugin.NODES)
    for node in nodes:
        attributes = {
            attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute
        }
        assert attributes == {"plugin_namespace": b"matte", "plugin_version": b"1", "aot": 1}
    feed = {"image": rng.random((1, 3, 32, 32), np.float32), "guide": rng.random((1, 3, 40, 50), np.float32)}
    results = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["alpha"], feed
        )[0]
        for m in (model, marked)
    ]
    np.testing.assert_array_equal(*results)
