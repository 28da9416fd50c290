"""The TensorRT engine on a stand-in for GPU and runtime: what it computes, and every refusal."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from stylematte.engines import cuda as cuda_module
from stylematte.engines import open_engine, tensorrt
from stylematte.errors import EngineError, InputError, MissingError, UsageError
from stylematte.matter import Matter
from tests.conftest import red_detector
from tests.runtime.fake_gpu import Code, FakeCuda, fake_tensorrt

HERE = {"gpu": "Drawn GPU 9000", "compute_capability": "9.0", "driver": "580.1", "tensorrt": "11.4.0.106"}
SIZES = [[64, 64], [64, 96]]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    gpu = FakeCuda()
    monkeypatch.setattr(cuda_module, "_import_runtime", lambda: gpu)
    monkeypatch.setattr(cuda_module, "_driver_version", lambda: HERE["driver"])
    monkeypatch.setattr(tensorrt, "tensorrt_version", lambda: HERE["tensorrt"])
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(gpu))
    return gpu


def write(folder: Path, stem: str = "red", model: onnx.ModelProto | None = None, **changes: object) -> Path:
    """An ONNX file, an engine of it and its sidecar; returns the engine's path."""
    model = model or red_detector()
    sizes = model.metadata_props.add()
    sizes.key, sizes.value = "stylematte.working_sizes", "64x64,64x96"
    source = folder / f"{stem}.onnx"
    onnx.save(model, source)
    path = folder / f"{stem}.0123abcd.engine"
    data = changes.pop("data", None) or model.SerializeToString()
    path.write_bytes(data)
    facts = {
        "sidecar": 1,
        "contract": {entry.key: entry.value for entry in model.metadata_props},
        "built_for": HERE,
        "engine_sha256": hashlib.sha256(data).hexdigest(),
        "onnx_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "sizes": SIZES,
        "largest_batch": 2,
    }
    tensorrt.sidecar_path(path).write_text(json.dumps(facts | changes))
    return path


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    return write(tmp_path)


def test_coefficients_are_those_of_onnx_at_every_size_and_batch(gpu, engine_file, rng) -> None:
    engine = open_engine(engine_file, "tensorrt")
    reference = open_engine(engine_file.with_name("red.onnx"), "onnx", "cpu")
    assert (engine.name, engine.provider, engine.lanes) == ("tensorrt", "TensorRT", 2)
    for shape in ((1, 64, 64), (1, 64, 64), (1, 64, 64), (5, 64, 96), (2, 64, 64), (1, 64, 96)):
        images = rng.random((shape[0], 3, *shape[1:]), np.float32)
        np.testing.assert_allclose(engine.coefficients(images), reference.coefficients(images), atol=1e-5)


def with_finer_coefficients(model: onnx.ModelProto, factor: float = 2) -> onnx.ModelProto:
    """The same, with A and b at half of working size, or what the factor says."""
    twice = onnx.numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "twice")
    model.graph.initializer.append(twice)
    (index,) = (i for i, n in enumerate(model.graph.node) if n.output[0] == "coefficients")
    model.graph.node[index].output[0] = "coarse"
    finer = onnx.helper.make_node("Resize", ["coarse", "", "twice"], ["coefficients"], mode="linear")
    model.graph.node.insert(index + 1, finer)
    return model


@pytest.mark.parametrize(
    ("factor", "grid"), [(2, (32, 48)), (6, (96, 144)), (0.7, (11, 16))]
)  # at half of working size, above it, and at no whole part of it
def test_coefficients_may_be_on_any_grid(gpu, tmp_path, rng, factor, grid) -> None:
    path = write(tmp_path, model=with_finer_coefficients(red_detector(), factor))
    engine = open_engine(path, "tensorrt")
    images = rng.random((2, 3, 64, 96), np.float32)
    got = engine.coefficients(images)
    assert got.shape == (2, 2, *grid)
    wanted = open_engine(path.with_name("red.onnx"), "onnx", "cpu").coefficients(images)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_prior_is_seen_and_forgotten(gpu, tmp_path, rng) -> None:
    path = write(tmp_path, model=red_detector(prior=True))
    engine = open_engine(path, "tensorrt", lanes=1)
    reference = open_engine(path.with_name("red.onnx"), "onnx", "cpu")
    assert engine.takes_prior
    images = rng.random((3, 3, 64, 96), np.float32)  # more than a pass takes
    priors = rng.random((3, 1, 64, 96), np.float32)
    for given in (None, priors, priors, None, None):
        for _ in range(engine.lanes):
            wanted = reference.coefficients(images, given)
            np.testing.assert_allclose(engine.coefficients(images, given), wanted, atol=1e-4)
    assert np.abs(reference.coefficients(images, priors) - reference.coefficients(images)).max() > 1


def test_outputs_that_nobody_asks_for_have_memory(gpu, tmp_path, rng) -> None:
    model = red_detector()
    model.graph.node.append(onnx.helper.make_node("Identity", ["fine_logits"], ["context"]))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("context", onnx.TensorProto.FLOAT, ["n", 1, "gh", "gw"])
    )
    path = write(tmp_path, model=model)
    images = rng.random((2, 3, 64, 96), np.float32)
    wanted = open_engine(path.with_name("red.onnx"), "onnx", "cpu").coefficients(images)
    np.testing.assert_allclose(open_engine(path, "tensorrt").coefficients(images), wanted, atol=1e-5)


def test_a_graph_is_captured_at_the_second_pass_in_a_row_and_dropped_with_the_shape(
    gpu, engine_file, rng
) -> None:
    engine = open_engine(engine_file, "tensorrt", lanes=1)
    plan = sys.modules["tensorrt"].plans[0]
    square, wide = (rng.random((1, 3, 64, w), np.float32) for w in (64, 96))
    counts = []
    for images in (square, square, square, square, square, wide, wide, square, square):
        engine.coefficients(images)
        engine.coefficients(images)  # the other lane
        counts.append((gpu.captures, gpu.launches))
    assert counts[:5] == [(0, 0), (2, 2), (2, 4), (2, 6), (2, 8)]
    assert counts[5:] == [(2, 8), (4, 10), (4, 10), (6, 12)]
    # First each profile in turn, to learn what memory it takes; then as the images come.
    assert [context.profiles for context in plan.contexts] == [[1, 0, 1, 0]] * 2


def test_a_photo_becomes_a_matte(gpu, engine_file) -> None:
    photo = np.zeros((300, 400, 3), np.uint8)
    photo[:, 200:, 0] = 255
    alpha = Matter(open_engine(engine_file))(photo).alpha
    assert alpha.shape == (300, 400)
    assert alpha[:, :150].max() < 0.05
    assert alpha[:, 250:].min() > 0.95


def test_auto_takes_the_engine_beside_the_onnx_file_and_says_so(gpu, engine_file, caplog) -> None:
    with caplog.at_level("INFO", logger="stylematte"):
        assert open_engine(engine_file.with_name("red.onnx")).name == "tensorrt"
    assert "engine tensorrt, red.0123abcd.engine on Drawn GPU 9000, fp32" in caplog.text


@pytest.mark.parametrize("change", [{"built_for": HERE | {"driver": "570.9"}}, {"onnx_sha256": "0" * 64}])
def test_auto_says_why_it_does_not_take_an_engine(gpu, tmp_path, caplog, change) -> None:
    source = write(tmp_path, **change).with_name("red.onnx")
    with caplog.at_level("INFO", logger="stylematte"):
        assert open_engine(source).name == "onnx"
    assert "engine tensorrt is not used: red.0123abcd.engine was built f" in caplog.text


def test_auto_is_silent_where_there_is_no_engine(red_model, caplog) -> None:
    with caplog.at_level("INFO", logger="stylematte"):
        assert open_engine(red_model).name == "onnx"
    assert "tensorrt" not in caplog.text


def test_of_several_engines_the_one_for_this_machine_is_taken(gpu, tmp_path) -> None:
    here = write(tmp_path)
    other = here.with_name("red.00000000.engine")
    other.write_bytes(here.read_bytes())
    facts = json.loads(tensorrt.sidecar_path(here).read_text())
    facts["built_for"] = HERE | {"gpu": "Another GPU"}
    tensorrt.sidecar_path(other).write_text(json.dumps(facts))
    assert open_engine(tmp_path / "red.onnx", "tensorrt").name == "tensorrt"
    here.unlink()
    with pytest.raises(MissingError, match="built for gpu Another GPU, here Drawn GPU 9000") as error:
        open_engine(tmp_path / "red.onnx", "tensorrt")
    assert "stylematte export --format tensorrt" in error.value.hint


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gpu", "Another GPU", "gpu Another GPU, here Drawn GPU 9000"),
        ("compute_capability", "8.9", "compute capability 8.9, here 9.0"),
        ("driver", "570.0", "driver 570.0, here 580.1"),
        ("tensorrt", "11.3.0.1", "tensorrt 11.3.0.1, here 11.4.0.106"),
    ],
)
def test_an_engine_of_another_machine_is_refused(gpu, tmp_path, key, value, message) -> None:
    path = write(tmp_path, built_for=HERE | {key: value})
    with pytest.raises(InputError, match=f"built for {message}"):
        open_engine(path)
    assert sys.modules["tensorrt"].plans == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sidecar": 2}, "sidecar version 2, this tool reads version 1"),
        ({"engine_sha256": "0" * 64}, "SHA-256 differs from its sidecar's"),
        ({"contract": {"stylematte.contract": "9"}}, "contract version 9"),
        ({"contract": {}}, "not a StyleMatte model"),
        ({"sizes": [[64]]}, "damaged: ValueError"),
        ({"built_for": 5}, "damaged: AttributeError"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(gpu, tmp_path, change, message) -> None:
    with pytest.raises(InputError, match=message):
        open_engine(write(tmp_path, **change))


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_sidecar_that_is_missing_or_no_table(gpu, engine_file, text) -> None:
    tensorrt.sidecar_path(engine_file).unlink()
    if text is not None:
        tensorrt.sidecar_path(engine_file).write_text(text)
    with pytest.raises(InputError, match=r"red\.0123abcd\.engine"):
        open_engine(engine_file)


def test_a_file_that_tensorrt_refuses(gpu, tmp_path) -> None:
    with pytest.raises(EngineError, match=r"TensorRT 11\.4\.0\.106 cannot open the engine"):
        open_engine(write(tmp_path, data=b"refused"))


def test_a_size_it_was_not_built_for(gpu, engine_file, rng) -> None:
    with pytest.raises(EngineError, match="built for 64x64, 64x96, not for 32x32"):
        open_engine(engine_file).coefficients(rng.random((1, 3, 32, 32), np.float32))


def test_a_pass_that_fails_names_the_file(gpu, engine_file, rng) -> None:
    engine = open_engine(engine_file)
    images = rng.random((1, 3, 64, 64), np.float32)
    engine.coefficients(images)
    gpu.failing["cudaMemcpyAsync"] = Code.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match=r"\.engine: cudaMemcpyAsync failed: cudaErrorMemoryAllocation"):
        engine.coefficients(images)
    gpu.failing.clear()
    sys.modules["tensorrt"].plans[0].broken = True
    with pytest.raises(EngineError, match="the pass failed"):
        engine.coefficients(rng.random((2, 3, 64, 64), np.float32))


def test_no_gpu_no_second_gpu_no_tensorrt(gpu, engine_file, monkeypatch) -> None:
    with pytest.raises(MissingError, match="device cuda:1: there are 1 CUDA GPUs"):
        open_engine(engine_file, device="cuda:1")
    gpu.gpus = 0
    with pytest.raises(
        MissingError, match="no CUDA GPU can be used: cudaGetDeviceCount failed: cudaErrorNoDevice"
    ):
        open_engine(engine_file)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingError, match="TensorRT is not installed") as error:
        open_engine(engine_file)
    assert 'pip install "stylematte[tensorrt]"' in error.value.hint


def test_no_bindings(engine_file, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(FakeCuda()))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingError, match="cuda-bindings is not installed"):
        open_engine(engine_file)


def test_what_cannot_be_meant(gpu, engine_file) -> None:
    with pytest.raises(UsageError, match="a TensorRT engine"):
        open_engine(engine_file, "onnx")
    with pytest.raises(UsageError, match="needs a GPU"):
        open_engine(engine_file, device="cpu")
