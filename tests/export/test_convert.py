"""Other precisions of a model file: of an imported network, without the network in torch."""

import cv2
import numpy as np
import onnx
import pytest

from export.convert import convert
from export.foreign.importing import Description, import_network
from export.parity import run_onnx
from stylematte.errors import InputError, UsageError
from stylematte_cli.app import main
from tests.export.drawn_networks import SIDE, network, save


@pytest.fixture
def imported(tmp_path):
    """A network with a middle: its first and last convolution stay float32 in every precision."""
    model = network()
    last = model.graph.node[-1]
    kernels = {"first": (4, 3), "middle": (4, 4), "final": (1, 4)}
    draw = np.random.default_rng(3)
    source = "input"
    nodes = []
    for name, shape in kernels.items():
        values = draw.normal(0, 0.6, (*shape, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        nodes.append(onnx.helper.make_node("Conv", [source, name], [f"of_{name}"], pads=[1, 1, 1, 1]))
        source = f"of_{name}"
    last.input[0] = source
    del model.graph.node[:]
    model.graph.node.extend([*nodes, last])
    said = Description(mean=(0.5,) * 3, std=(0.5,) * 3, activation="none", licence="MIT")
    return import_network(save(model, tmp_path / "bare.onnx"), said, "drawn", "0").model


@pytest.fixture
def photos(tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(22):
        small = rng.integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(
            str(folder / f"{index:02}.png"), cv2.resize(small, (80, 60), interpolation=cv2.INTER_CUBIC)
        )
    return folder


def kinds(model):
    return {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.01), ("bf16", 0.1), ("int8", 0.2)])
def test_alpha_stays_near(imported, photos, rng, precision, bound):
    model, parity = convert(imported, precision, photos, "drawn")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["stylematte.precision"] == precision
    assert parity.reference == "fp32"
    assert parity.max_difference < bound
    image = rng.random((1, 3, SIDE, SIDE), np.float32)
    if precision == "fp16":
        assert {"FLOAT", "FLOAT16"} <= kinds(model)
    if precision == "int8":
        assert "INT8" in kinds(model)
        assert np.abs(run_onnx(model)(image, image) - run_onnx(imported)(image, image)).mean() < bound


def test_a_file_in_its_own_precision_and_int8_are_not_converted(imported, photos):
    half, _ = convert(imported, "fp16", photos, "drawn")
    with pytest.raises(UsageError, match="already a model file in fp16"):
        convert(half, "fp16", photos, "drawn")
    small, _ = convert(imported, "int8", photos, "drawn")
    with pytest.raises(InputError, match="computes in int8"):
        convert(small, "fp16", photos, "drawn")
    with pytest.raises(UsageError, match="already"):
        convert(imported, "fp32", photos, "drawn")


def test_float16_becomes_float32_with_the_same_values(imported, photos, rng):
    half, _ = convert(imported, "fp16", photos, "drawn")
    wide, parity = convert(half, "fp32", photos, "drawn")
    assert parity.reference == "fp16"
    assert {entry.key: entry.value for entry in wide.metadata_props}["stylematte.precision"] == "fp32"
    assert kinds(half) >= {"FLOAT16"}
    assert "FLOAT16" not in kinds(wide)
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (half, wide)
    )
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values.astype(np.float64), after[name].astype(np.float64))
    image = rng.random((1, 3, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(run_onnx(wide)(image, image), run_onnx(half)(image, image), atol=0.01)


def test_float16_becomes_int8(imported, photos):
    half, _ = convert(imported, "fp16", photos, "drawn")
    small, parity = convert(half, "int8", photos, "drawn")
    assert "INT8" in kinds(small)
    assert "FLOAT16" not in kinds(small)
    assert parity.max_difference < 0.2


def test_export_takes_a_model(imported, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    save(imported, tmp_path / "home" / "drawn.onnx")
    command = ["export", "--weights", "drawn", "--out", str(tmp_path / "out")]
    assert main([*command, "--int8", "--photos", str(photos)]) == 0
    assert "drawn_int8.onnx" in capsys.readouterr().out
    assert (tmp_path / "out" / "drawn_int8.json").is_file()
    photo = str(photos / "00.png")
    out = str(tmp_path / "alphas")
    assert main(["matte", photo, "--out", out, "--weights", str(tmp_path / "out" / "drawn_int8.onnx")]) == 0
    assert main([*command, "--int8", "--photos", str(photos)]) == 3
    assert main(command) == 2
    assert "already a model file in fp32" in capsys.readouterr().err
    assert main([*command, "--fp16", "--size", "64"]) == 2
    assert main([*command, "--fp16"]) == 0
    half = str(tmp_path / "out" / "drawn_fp16.onnx")
    assert main(["export", "--weights", half, "--out", str(tmp_path / "out"), "--name", "wide"]) == 0
    assert (tmp_path / "out" / "wide_fp32.onnx").is_file()
