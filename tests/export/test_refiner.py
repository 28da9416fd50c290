"""A refiner's file does what its weights do, and the model names it."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import stylematte
from export.onnx import Origin
from export.parity import ParityError
from export.refiner import _check_parity, export_refiner, save_beside
from models.checkpoints import write_tensors
from models.refiner import REFINERS, Refiner
from stylematte.engines import open_engine
from stylematte.engines.refiner import open_refiner
from tests.conftest import red_detector

ORIGIN = Origin("b" * 64, "9.8.7", "CC0-1.0", {"steps": 12})


@pytest.fixture(scope="module")
def lively() -> Refiner:
    torch.manual_seed(0)
    model = Refiner(REFINERS["test_refiner"])
    nn.init.normal_(model.head.weight, std=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def exported(lively: Refiner) -> onnx.ModelProto:
    return export_refiner(lively, ORIGIN, tiles=2)


def test_shapes_are_static_and_operators_plain(exported: onnx.ModelProto) -> None:
    shapes = {
        port.name: [d.dim_value for d in port.type.tensor_type.shape.dim]
        for port in (*exported.graph.input, *exported.graph.output)
    }
    assert shapes == {"image": [2, 3, 64, 64], "coarse": [2, 1, 64, 64], "alpha": [2, 1, 64, 64]}
    assert not exported.functions
    assert {entry.domain for entry in exported.opset_import} == {""}


def test_nothing_of_the_machine_is_in_the_file(exported: onnx.ModelProto) -> None:
    """Torch writes stack traces, with the paths of its own and our files, into every node."""
    data = exported.SerializeToString()
    assert str(Path(torch.__file__).parent).encode() not in data
    assert b".py" not in data
    assert "down.0.0.0/Conv" in {node.name for node in exported.graph.node}


def test_what_ships_has_nothing_of_the_machine_in_it() -> None:
    for path in Path(stylematte.__file__).with_name("assets").glob("*.onnx"):
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")  # any bytes
        assert b".py" not in model.SerializeToString(), path


def test_another_network_is_noticed(lively: Refiner, exported: onnx.ModelProto) -> None:
    other = Refiner(lively.shape).eval()
    with pytest.raises(ParityError, match="differs from torch"):
        _check_parity(other, exported)


def test_the_model_names_the_file_and_the_runtime_opens_it(lively: Refiner, tmp_path: Path) -> None:
    weights = tmp_path / "red_refiner.safetensors"
    write_tensors(weights, lively.state_dict(), {"refiner": lively.shape.name})
    model, target = red_detector("2"), tmp_path / "out" / "red.onnx"
    path = save_beside(model, weights, tmp_path / "out" / "red_refiner.onnx", ORIGIN)
    onnx.save(model, target)
    contract = open_engine(target, device="cpu").contract
    assert contract.refiner == "red_refiner.onnx"
    assert contract.refiner_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    refiner = open_refiner(target, contract, "cpu")
    assert refiner is not None
    assert refiner.tiles == (4, 64)
    assert refiner.metadata["stylematte.weights_sha256"] == "b" * 64
    image, coarse = (np.random.default_rng(c).random((4, c, 64, 64), np.float32) for c in (3, 1))
    with torch.inference_mode():
        expected = lively(torch.from_numpy(image), torch.from_numpy(coarse)).numpy()
    np.testing.assert_allclose(refiner(image, coarse), expected, atol=1e-4)
