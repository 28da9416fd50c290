"""Fixtures: seeded numbers, and a model whose answer is known without running it."""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.functions import OPSET, fgf_apply, fgf_coefficients, opset_imports, plain

# Before torch and numba start, which read them once, and for the processes that tests start. The networks of
# tests are so small that a second thread costs more than it does, and waiting for it several times as much.
# numba is named as well: once it is there, torch has as many threads as numba wants.
for _name, _value in {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
    os.environ.setdefault(_name, _value)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first: begun last, one would keep a single process busy at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _a_run_of_its_own() -> Iterator[None]:
    """Let a test train in another precision than the one before: accelerate keeps it for a whole process."""
    yield
    if accelerate := sys.modules.get("accelerate.state"):
        accelerate.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let torch trace a network once, for all tests that export it: that takes up to half a minute.

    All that comes after the trace is done anew. Networks of other weights are others.
    """
    import export.onnx

    trace = export.onnx._trace
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def kept(model):
        digest = hashlib.sha256(repr(dataclasses.replace(model.preset, working_size=0)).encode())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        path = folder / f"{digest.hexdigest()}.traced.onnx"
        if not path.exists():
            mine = path.with_suffix(f".{os.getpid()}")
            onnx.save(trace(model), mine)
            mine.replace(path)
        return onnx.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.onnx, "_trace", kept)
        yield


def red_detector(version: str = "2", prior: bool = False) -> onnx.ModelProto:
    """A contract file whose "network" is arithmetic: logits = 40 · (mean of red − green over 4×4) − 10.

    So pure red is foreground (alpha ≈ 1), and grey, black, white, blue and green are background (alpha ≈ 0).

    Args:
        version: Of the contract; 1 has local functions.
        prior: Takes a prior, and adds 20 times its mean over 4×4 to the logits.
    """
    node = helper.make_node
    grey_weights = np.array([1 / (3 * s) for s in STD], np.float32).reshape(1, 3, 1, 1)
    grey_offset = np.float32(-np.mean([m / s for m, s in zip(MEAN, STD, strict=True)]))
    constants = {
        "redness_weights": np.array([40, -40, 0], np.float32).reshape(1, 3, 1, 1),
        "redness_bias": np.array([-10], np.float32),
        "grey_weights": grey_weights,
        "grey_bias": np.array([grey_offset], np.float32),
        "quarter": np.array([1, 1, 0.25, 0.25], np.float32),
    }
    believed = [
        node("Mul", ["prior", "twenty"], ["prior_logits"]),
        node("Add", ["red_logits", "prior_logits"], ["fine_logits"]),
    ]
    if prior:
        constants["twenty"] = np.array([20], np.float32)
    seen = "red_logits" if prior else "fine_logits"
    graph = helper.make_graph(
        [
            node("Conv", ["image", "redness_weights", "redness_bias"], [seen]),
            *(believed if prior else []),
            node("AveragePool", ["fine_logits"], ["logits"], kernel_shape=[4, 4], strides=[4, 4]),
            node("Conv", ["image", "grey_weights", "grey_bias"], ["grey_image"]),
            node(
                "Resize",
                ["grey_image", "", "quarter"],
                ["coarse_guide"],
                mode="cubic",
                coordinate_transformation_mode="align_corners",
                cubic_coeff_a=-0.75,
            ),
            node("fgf_coefficients", ["coarse_guide", "logits"], ["coefficients"], domain="matte"),
            node("Conv", ["guide", "grey_weights", "grey_bias"], ["fine_guide"]),
            node("fgf_apply", ["coefficients", "fine_guide"], ["alpha"], domain="matte"),
        ],
        "red_detector",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"]),
            helper.make_tensor_value_info("guide", TensorProto.FLOAT, ["n", 3, "H", "W"]),
            *(
                [helper.make_tensor_value_info("prior", TensorProto.FLOAT, ["n", 1, "h", "w"])]
                if prior
                else []
            ),
        ],
        [
            helper.make_tensor_value_info("alpha", TensorProto.FLOAT, ["n", 1, "H", "W"]),
            helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, ["n", 2, "gh", "gw"]),
        ],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(
        graph, functions=[fgf_coefficients(1, 1e-4), fgf_apply()], opset_imports=opset_imports(), ir_version=9
    )
    helper.set_model_props(
        model,
        {
            "stylematte.contract": version,
            "stylematte.preset": "red-detector",
            "stylematte.working_size": "128",
            "stylematte.stride": "32",
            "stylematte.mean": ",".join(map(str, MEAN)),
            "stylematte.std": ",".join(map(str, STD)),
            "stylematte.upsampler": "fast_gf",
            "stylematte.radius_px": "1",
            "stylematte.eps": "0.0001",
            "stylematte.weights_sha256": "0" * 64,
            "stylematte.tool_version": "test",
            "stylematte.licence": "CC0-1.0",
            "stylematte.provenance": "{}",
            "stylematte.parity": "{}",
        },
    )
    if version == "2":
        added = {"good_sizes": "64,256", "fit": "keep", "refiner": "", "refiner_sha256": ""}
        for key, value in added.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = f"stylematte.{key}", value
        model = plain(model)
    onnx.checker.check_model(model)
    assert OPSET == 18
    return model


def bolder_red_detector() -> onnx.ModelProto:
    """Another file of the same weights, as int8 or another working size is: less red is foreground to it."""
    model = red_detector()
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "redness_bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([-2], np.float32), bias.name))
    return model


@pytest.fixture(scope="session")
def red_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the red detector as an ONNX file."""
    path = tmp_path_factory.mktemp("models") / "red.onnx"
    onnx.save(red_detector(), path)
    return path
