"""The exported file: equal to the network, true to docs/model-contract.md, readable by the runtime."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import parity
from export.build import fix_size
from export.network_parity import check_parity
from export.onnx import export_onnx, metadata, save_onnx
from export.parity import ParityError, read_photos
from models.checkpoints import load_weights
from models.presets import PRESETS
from models.stylematte import MEAN, STD
from stylematte.engines import open_engine
from stylematte.engines.base import Contract
from stylematte.errors import EngineError, InputError
from stylematte.imaging.geometry import resize_to_working
from stylematte.matter import Matter
from stylematte.weights import ASSETS
from tests.export.conftest import ORIGIN
from tests.models.networks import lively

CONTRACT_PAGE = Path(__file__).parents[2] / "docs" / "model-contract.md"


@pytest.fixture(scope="session")
def session(exported) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        exported.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="session")
def file(exported, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "deep" / "test.onnx"
    save_onnx(exported.model, path)
    return path


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("working", "full"),
    [
        ((128, 128), (128, 128)),
        ((32, 32), (61, 47)),
        ((96, 160), (301, 500)),
        ((256, 64), (40, 10)),
        ((64, 96), (1, 1)),
        ((64, 64), (3, 200)),
    ],
)
def test_file_and_network_agree(exported, session, rng, batch, working, full):
    image = rng.random((batch, 3, *working), np.float32)
    guide = rng.random((batch, 3, *full), np.float32)
    with torch.inference_mode():
        wanted = exported.network(torch.from_numpy(image), torch.from_numpy(guide)).alpha.numpy()
    alpha, coefficients = session.run(["alpha", "coefficients"], {"image": image, "guide": guide})
    assert alpha.dtype == coefficients.dtype == np.float32
    assert coefficients.shape == (batch, 2, working[0] // 4, working[1] // 4)
    np.testing.assert_allclose(alpha, wanted, atol=1e-4)
    if alpha.size > 200:
        assert np.ptp(alpha) > 0.1  # so that agreeing means something


@pytest.mark.parametrize("upsampler", ["bilinear", "deep_gf", "fine_gf"])
def test_a_filter_without_functions_is_written_as_traced(rng, upsampler):
    network = lively(dataclasses.replace(PRESETS["test"], upsampler=upsampler))
    model = export_onnx(network, ORIGIN)
    assert not model.functions
    measured = check_parity(network, model, {"a": rng.random((3, 90, 120), np.float32)})
    assert measured.max_difference < 1e-4
    values = {entry.key: entry.value for entry in model.metadata_props}
    assert Contract.from_metadata(values, "test.onnx").upsampler == upsampler
    fix_size(model, (64, 96))
    grid = [d.dim_value for d in model.graph.output[1].type.tensor_type.shape.dim[1:]]
    assert grid == [2, 64 // network.upsampler.stride, 96 // network.upsampler.stride]
    image = rng.random((1, 3, 64, 96), np.float32)
    assert parity.run_onnx(model)(image, image).shape == (1, 1, 64, 96)


def test_the_model_that_ships_says_what_its_weights_say(photos):
    network, _ = load_weights(ASSETS / "nano.safetensors")
    measured = check_parity(network, onnx.load(ASSETS / "nano.onnx"), photos)
    assert measured.max_difference < 1e-3


def table_of(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading of the contract page, without its header."""
    section = CONTRACT_PAGE.read_text(encoding="utf-8").split(heading)[1]
    lines = section[section.index("|") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_metadata_are_those_of_the_contract_page(exported):
    keys = [key for row in table_of("## Metadata") for key in re.findall(r"`(stylematte\.\w+)`", row[0])]
    assert len(keys) == 20
    written = {entry.key for entry in exported.model.metadata_props}
    assert set(keys) - written == {"stylematte.working_sizes"}  # of files of fixed size alone
    assert written <= set(keys)


@pytest.mark.parametrize("prior", [False, True])
def test_tensors_are_those_of_the_contract_page(session, shipped, prior):
    if prior:
        session = onnxruntime.InferenceSession(
            shipped.model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    rows = table_of("## Tensors")
    for way, tensors in (("in", session.get_inputs()), ("out", session.get_outputs())):
        kinds = (way, f"{way}, optional") if way == "in" and prior else (way,)
        wanted = [(row[1].strip("`"), row[3]) for row in rows if row[0] in kinds]
        assert [(t.name, t.type.replace("tensor(float)", "float32")) for t in tensors] == wanted
        assert all(isinstance(t.shape[i], str) for t in tensors for i in (0, 2, 3))  # dynamic


def test_the_runtime_reads_the_contract(exported):
    values = {entry.key: entry.value for entry in exported.model.metadata_props}
    contract = Contract.from_metadata(values, "test.onnx")
    preset = exported.network.preset
    assert (contract.preset, contract.working_size, contract.stride) == ("test", 128, 32)
    assert (contract.upsampler, contract.radius_px, contract.eps) == ("fast_gf", preset.radius_px, preset.eps)
    assert contract.mean == MEAN
    assert contract.std == STD
    assert (contract.weights_sha256, contract.tool_version) == ("a" * 64, "9.8.7")
    assert (contract.licence, contract.provenance) == ("CC0-1.0", ORIGIN.provenance)
    assert metadata(exported.network, ORIGIN) == values


def test_the_graph_is_plain(exported):
    nodes = exported.model.graph.node
    kinds = {node.op_type for node in nodes}
    assert not kinds & {"GridSample", "If", "Loop", "Scan", "NonZero"}
    assert "BatchNormalization" not in kinds  # folded
    assert {node.domain for node in nodes} == {""}
    assert not exported.model.functions
    assert not any(i.data_location == onnx.TensorProto.EXTERNAL for i in exported.model.graph.initializer)
    assert exported.model.ir_version == 9
    assert {(o.domain, o.version) for o in exported.model.opset_import} == {("", 18)}


@pytest.mark.parametrize("size", [(200, 310), (97, 96), (64, 400)])
def test_the_tool_and_torch_give_one_alpha(exported, file, rng, size):
    noise = rng.random((size[0] // 8, size[1] // 8, 3), np.float32)
    photo = np.round(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255)
    photo = photo.astype(np.uint8)
    engine = open_engine(file, "onnx", "cpu")
    alpha = Matter(engine)(photo).alpha

    working_size = engine.contract.working_size_for(*size)
    guide = (photo.astype(np.float32) / 255).transpose(2, 0, 1)
    image = resize_to_working(photo, working_size)  # held to OpenCV's in tests/runtime/test_geometry.py
    with torch.inference_mode():
        wanted = (
            exported.network(torch.from_numpy(image)[None], torch.from_numpy(guide)[None]).alpha[0, 0].numpy()
        )
    assert np.ptp(wanted) > 0.3
    np.testing.assert_allclose(alpha, wanted, atol=1e-4)


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    return {name: photo[:, ::3, ::3].copy() for name, photo in read_photos().items()}


def test_parity_is_measured(exported, rng):
    photos = {"a": rng.random((3, 90, 120), np.float32), "b": rng.random((3, 150, 100), np.float32)}
    measured = check_parity(exported.network, exported.model, photos)
    assert measured.pictures == 4  # noise, and a batch
    assert 0 < measured.mean_difference <= measured.max_difference < 1e-3
    assert json.loads(json.dumps(measured.as_dict()))["batch_sizes"] == [1, 2]


def changed(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    """A copy with one initializer changed; the first whose name has `name` in it."""
    model = copy.deepcopy(model)
    tensor = next(t for t in model.graph.initializer if name in t.name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(array).astype(np.float32), tensor.name))
    return model


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head.weight", lambda x: x * 1.02),
        ("head.bias", lambda x: x + 0.01),
        ("grey_weights", lambda x: x * 1.05),
        ("head.bias", lambda x: x * np.nan),
    ],
)
def test_a_file_that_says_something_else_is_found_out(exported, photos, name, change):
    with pytest.raises(ParityError, match="alpha of the file differs"):
        check_parity(exported.network, changed(exported.model, name, change), photos)


def test_parity_needs_photos(tmp_path):
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(InputError, match="no images for the parity check"):
        read_photos(tmp_path)


def test_photos_that_come_along_are_rgb():
    photos = read_photos()
    assert list(photos) == ["astronaut.jpg", "chelsea.jpg"]
    for photo in photos.values():
        assert photo.dtype == np.float32
        assert photo.shape[0] == 3
        assert 0 <= photo.min() <= photo.max() <= 1
    red, _, blue = photos["chelsea.jpg"].mean((1, 2))  # an orange cat
    assert red > blue


def test_a_network_that_cannot_be_traced_is_said_so(monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("no decomposition of aten::new_operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(EngineError, match=r"torch cannot export this network: .*aten::new_operator"):
        export_onnx(lively("test", seed=1), ORIGIN)  # which no other test traces


def test_saving_is_whole_or_not_at_all(exported, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def full_disk(self, data):
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_onnx(exported.model, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_limits_of_parity_are_below_what_an_eye_sees():
    limits = parity.LIMITS["fp32"]
    assert limits.thousandth < 1 / 255
    assert limits.mean <= 1e-5
    assert all(0 < x.mean < x.thousandth <= x.pixel for x in parity.LIMITS.values())


def test_nodes_are_named_after_modules_and_nothing_of_the_machine_is_left(exported):
    modules = dict(exported.network.named_modules())
    graph = exported.model.graph
    assert len({node.name for node in graph.node}) == len(graph.node)
    for node in graph.node:
        path, slash, operator = node.name.partition("/")
        if slash and not path.startswith("fgf_"):
            assert path in modules
            assert operator.split(".")[0] == node.op_type
        assert not node.metadata_props
    assert "encoder.blocks.1.depthwise.conv/Conv" in {node.name for node in graph.node}
    state = exported.network.state_dict()
    assert {"encoder.stem.conv.weight", "head.bias"} <= {t.name for t in graph.initializer} & set(state)
    assert b'File "' not in exported.model.SerializeToString()
    assert str(Path(__file__).parents[2]).encode() not in exported.model.SerializeToString()


def test_a_batch_of_noise_and_photos_is_counted_once(rng):
    photos = {"a": rng.random((3, 128, 192), np.float32)}
    cases = parity.cases_of(photos, 78, 32)
    assert {name: (i.shape, g.shape) for name, (i, g) in cases.items()} == {
        "a": ((1, 3, 64, 96), (1, 3, 128, 192)),
        "noise": ((1, 3, 96, 64), (1, 3, 333, 251)),
        "batch of two": ((2, 3, 64, 96), (2, 3, 128, 192)),
    }

    def zero(image, guide):
        return np.zeros((len(guide), 1, *guide.shape[2:]), np.float32)

    def off(image, guide):
        alpha = zero(image, guide)
        alpha[:, :, 0] = 0.5  # of 128 rows
        return alpha

    wide = parity.Limits(1, 1, 1)
    found = parity.compare(cases, zero, off, wide, "fp32")
    assert found.batch_sizes == (1, 2)
    assert found.max_difference == found.thousandth_difference == 0.5
    assert found.mean_difference == pytest.approx(0.5 / 128)
    assert found.sad_difference == pytest.approx(0.5 * 192 / 1000)
    for limits in (parity.Limits(0.4, 1, 1), parity.Limits(1, 0.4, 1), parity.Limits(1, 1, 1e-4)):
        with pytest.raises(ParityError, match=r"the fp32 file's by up to 0\.5"):
            parity.compare(cases, zero, off, limits, "fp32")
