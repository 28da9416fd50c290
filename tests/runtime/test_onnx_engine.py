import logging
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from stylematte.engines import open_engine
from stylematte.errors import EngineError, InputError, MissingError, UsageError
from tests.conftest import red_detector

NO_CUDA = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()


def images(rng: np.random.Generator, count: int = 3) -> np.ndarray:
    return rng.random((count, 3, 64, 96), dtype=np.float32)


def test_coefficients_are_those_of_a_run_with_the_whole_guide(
    red_model: Path, rng: np.random.Generator
) -> None:
    batch = images(rng)
    session = onnxruntime.InferenceSession(red_model, providers=["CPUExecutionProvider"])
    guide = rng.random((3, 3, 111, 77), dtype=np.float32)
    (expected,) = session.run(["coefficients"], {"image": batch, "guide": guide})
    found = open_engine(red_model, device="cpu").coefficients(batch)
    assert found.shape == (3, 2, 16, 24)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_no_prior_is_zeros_of_every_size_out_of_one_array(tmp_path: Path, rng: np.random.Generator) -> None:
    onnx.save(red_detector(prior=True), tmp_path / "believer.onnx")
    engine = open_engine(tmp_path / "believer.onnx", device="cpu")
    assert engine.takes_prior
    arrays = set()
    for shape in ((2, 64, 96), (1, 64, 64), (3, 32, 32), (2, 96, 64)):
        images = rng.random((shape[0], 3, *shape[1:]), dtype=np.float32)
        priors = np.zeros((shape[0], 1, *shape[1:]), np.float32)
        np.testing.assert_array_equal(engine.coefficients(images), engine.coefficients(images, priors))
        arrays.add(id(engine._zeros))  # type: ignore[attr-defined]
    assert len(arrays) == 1


def test_a_prior_moves_the_logits(tmp_path: Path, red_model: Path, rng: np.random.Generator) -> None:
    onnx.save(red_detector(prior=True), tmp_path / "believer.onnx")
    engine = open_engine(tmp_path / "believer.onnx", device="cpu")
    batch, priors = images(rng), np.full((3, 1, 64, 96), 0.5, np.float32)
    plain = open_engine(red_model, device="cpu")
    assert not plain.takes_prior
    moved = engine.coefficients(batch, priors) - plain.coefficients(batch)
    np.testing.assert_allclose(moved[:, 1], 10, atol=1e-2)  # b, by 20 · 0.5
    np.testing.assert_allclose(moved[:, 0], 0, atol=1e-2)
    with pytest.raises(EngineError, match="ONNX Runtime failed on 3x3x64x96"):
        engine.coefficients(batch, priors[..., :64])


def test_batch_gives_what_single_images_give(red_model: Path, rng: np.random.Generator) -> None:
    engine = open_engine(red_model, device="cpu")
    batch = images(rng)
    single = np.concatenate([engine.coefficients(batch[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(engine.coefficients(batch), single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("threads", "lanes", "intra_op"), [(3, 1, 3), (1, 1, 1), (3, 2, 1), (None, 2, 1)])
def test_thread_control(red_model: Path, threads: int | None, lanes: int, intra_op: int) -> None:
    engine = open_engine(red_model, device="cpu", threads=threads, lanes=lanes)
    assert engine.lanes == lanes
    assert engine._session.get_session_options().intra_op_num_threads == intra_op  # type: ignore[attr-defined]


def test_auto_says_what_it_took_and_why(red_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stylematte"):
        engine = open_engine(red_model)
    assert engine.provider in caplog.text
    assert "CUDA" in caplog.text


@pytest.mark.parametrize("content", [b"", b"hello, this is text", bytes(range(256)) * 40])
def test_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.onnx") as error:
        open_engine(path)
    assert "\n" not in str(error.value)


def test_truncated_model_is_refused(red_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(red_model.read_bytes()[:1500])
    with pytest.raises(InputError, match=r"half\.onnx"):
        open_engine(path)


def test_model_for_gpus_alone_says_so_on_a_cpu(tmp_path: Path) -> None:
    """bfloat16 has no convolution on a CPU; the file is not damaged, it is in the wrong place."""
    model = red_detector()
    model.opset_import[0].version, model.ir_version = 22, 10
    for function in model.functions:
        function.opset_import[0].version = 22
    weights = next(t for t in model.graph.initializer if t.name == "redness_weights")
    bias = next(t for t in model.graph.initializer if t.name == "redness_bias")
    for tensor in (weights, bias):
        half = onnx.numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    cast, back = (
        onnx.helper.make_node("Cast", [source], [target], to=kind)
        for source, target, kind in (
            ("image", "image_half", onnx.TensorProto.BFLOAT16),
            ("fine_half", "fine_logits", onnx.TensorProto.FLOAT),
        )
    )
    conv = model.graph.node[0]
    conv.input[0], conv.output[0] = "image_half", "fine_half"
    nodes = [cast, conv, back, *model.graph.node[1:]]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(EngineError, match=r"half\.onnx: ONNX Runtime .* cannot compute it on a CPU") as error:
        open_engine(tmp_path / "half.onnx", device="cpu")
    assert "--bf16" in error.value.hint


def test_float16_on_a_cpu_is_said_to_be_slow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = red_detector()
    entry = model.metadata_props.add()
    entry.key, entry.value = "stylematte.precision", "fp16"
    onnx.save(model, tmp_path / "half.onnx")
    with caplog.at_level("WARNING", logger="stylematte"):
        assert open_engine(tmp_path / "half.onnx", device="cpu").contract.precision == "fp16"
    assert "on a CPU, a float16 file is slower" in caplog.text


def test_model_of_another_tool_is_refused(tmp_path: Path) -> None:
    model = red_detector()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="not a StyleMatte model"):
        open_engine(tmp_path / "foreign.onnx")


def test_model_without_coefficients_is_refused(tmp_path: Path) -> None:
    model = red_detector()
    del model.graph.output[1]
    onnx.save(model, tmp_path / "alpha_only.onnx")
    with pytest.raises(InputError, match="lacks coefficients"):
        open_engine(tmp_path / "alpha_only.onnx")


def test_failing_run_names_file_and_shape(red_model: Path) -> None:
    with pytest.raises(EngineError, match=r"red\.onnx: ONNX Runtime failed on 1x4x64x64"):
        open_engine(red_model).coefficients(np.zeros((1, 4, 64, 64), np.float32))


@pytest.mark.skipif(not NO_CUDA, reason="this ONNX Runtime has CUDA")
def test_cuda_by_name_without_cuda_in_the_runtime(red_model: Path) -> None:
    with pytest.raises(MissingError, match="device cuda:0: this ONNX Runtime") as error:
        open_engine(red_model, device="cuda:0")
    assert 'pip install "stylematte[gpu]"' in error.value.hint


@pytest.mark.skipif(not NO_CUDA, reason="this ONNX Runtime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_promised_but_not_in_the_session(
    red_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A GPU build whose CUDA libraries are missing lists the provider and then runs on the CPU."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(MissingError, match="device cuda: the session does not use it") as error:
        open_engine(red_model, device="cuda")
    assert "onnxruntime-gpu[cuda,cudnn]" in error.value.hint
    assert open_engine(red_model, device="auto").provider == "CPUExecutionProvider"
    assert capfd.readouterr().out == ""


@pytest.mark.gpu
@pytest.mark.skipif(NO_CUDA, reason="this ONNX Runtime has no CUDA")
def test_cuda_gives_what_the_cpu_gives(red_model: Path, rng: np.random.Generator) -> None:
    batch = images(rng)
    engine = open_engine(red_model, device="cuda")
    assert engine.provider == "CUDAExecutionProvider"
    expected = open_engine(red_model, device="cpu").coefficients(batch)
    np.testing.assert_allclose(engine.coefficients(batch), expected, rtol=1e-2, atol=1e-2)


def test_no_runtime_names_the_line_that_installs_one(
    red_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingError, match="ONNX Runtime is not installed") as error:
        open_engine(red_model)
    assert 'pip install "stylematte[cpu]"' in error.value.hint


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"engine": "tensorrt", "device": "cpu"}, UsageError, "needs a GPU"),
        ({"engine": "coreml"}, UsageError, "engine 'coreml'"),
        ({"device": "gpu"}, UsageError, "device gpu is only for Intel's hardware"),
        ({"device": "cuda:x"}, UsageError, "device 'cuda:x'"),
        ({"threads": 0}, UsageError, "threads 0"),
        ({"lanes": 0}, UsageError, "lanes 0"),
    ],
)
def test_what_cannot_be_meant(red_model: Path, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_engine(red_model, **options)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(MissingError, match="no such weights file"):
            open_engine(path)
