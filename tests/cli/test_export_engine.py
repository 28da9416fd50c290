"""`stylematte export --format tensorrt`, on a stand-in for TensorRT and the GPU."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import tensorrt as export_tensorrt
from models.checkpoints import save_weights
from stylematte.engines import cuda as cuda_module
from stylematte.engines import open_engine, tensorrt
from stylematte_cli.app import main
from stylematte_cli.commands import export_engine
from tests.conftest import red_detector
from tests.models.networks import lively
from tests.runtime.fake_gpu import FakeCuda, fake_tensorrt

pytest.importorskip("cuda.bindings.nvrtc")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A GPU, its TensorRT, and builds in this process."""
    gpu = FakeCuda()
    trt = fake_tensorrt(gpu)
    monkeypatch.setattr(cuda_module, "_import_runtime", lambda: gpu)
    monkeypatch.setattr(cuda_module, "_driver_version", lambda: "580.1")
    monkeypatch.setattr(tensorrt, "tensorrt_version", lambda: "11.4.0.106")
    monkeypatch.setattr(export_engine, "find_spec", lambda name: name)
    monkeypatch.setattr(
        export_tensorrt, "build_in_process", lambda plan, say: export_tensorrt.build_plan(trt, plan, say)
    )
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return gpu


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    onnx.save(red_detector(), tmp_path / "red.onnx")
    return tmp_path / "red.onnx"


def run(model: Path, out: Path, *more: object) -> int:
    settings = ("--size", 64, "--batch-size", 2)
    words = ["export", "--format", "tensorrt", "--weights", model, "--out", out, *settings, *more]
    return main([str(word) for word in words])


def test_an_engine_is_built_proven_and_found_by_the_runtime(gpu, model_file, tmp_path, capsys, rng) -> None:
    out = tmp_path / "out"
    assert run(model_file, out) == 0
    (engine,) = out.glob("red.*.engine")
    names = {path.name for path in out.iterdir()}
    assert names == {"red.onnx", engine.name, f"{engine.name}.json"}
    line = capsys.readouterr().out
    assert line.startswith(f"{engine}: ")
    assert "differs from ONNX Runtime's by at most 0.0e+00" in line
    facts = json.loads((out / f"{engine.name}.json").read_text())
    assert facts["built_for"]["gpu"] == "Drawn GPU 9000"
    images = rng.random((2, 3, 64, 64), np.float32)
    taken = open_engine(out / "red.onnx", "auto")
    assert taken.name == "tensorrt"
    wanted = open_engine(out / "red.onnx", "onnx").coefficients(images)
    np.testing.assert_allclose(taken.coefficients(images), wanted, atol=1e-5)


def test_a_finished_engine_is_kept_until_something_changes(
    gpu, model_file, tmp_path, capsys, monkeypatch
) -> None:
    assert run(model_file, tmp_path) == 0
    (engine,) = tmp_path.glob("red.*.engine")
    assert run(model_file, tmp_path) == 0
    assert "already built for this GPU" in capsys.readouterr().out
    assert len(sys.modules["tensorrt"].configs) == 1
    assert run(model_file, tmp_path, "--overwrite") == 0
    assert len(sys.modules["tensorrt"].configs) == 2
    monkeypatch.setattr(cuda_module, "_driver_version", lambda: "590.1")
    assert run(model_file, tmp_path) == 0
    assert len(list(tmp_path.glob("red.*.engine"))) == 2
    engine.write_bytes(b"damaged")
    monkeypatch.setattr(cuda_module, "_driver_version", lambda: "580.1")
    capsys.readouterr()
    assert run(model_file, tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["built"] is True


def refused(capsys: pytest.CaptureFixture[str], code: int, wanted: int) -> str:
    assert code == wanted
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != "red.onnx"]


def test_an_engine_that_differs_is_not_kept(gpu, model_file, tmp_path, capsys, monkeypatch) -> None:
    trt = sys.modules["tensorrt"]

    def other(plan, say):
        model = onnx.ModelProto.FromString(export_tensorrt.build_plan(trt, plan, say))
        tensor = next(t for t in model.graph.initializer if t.name == "redness_bias")
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([-5], np.float32), tensor.name))
        return model.SerializeToString()

    monkeypatch.setattr(export_tensorrt, "build_in_process", other)
    line = refused(capsys, run(model_file, tmp_path), 5)
    assert "alpha of the file differs from the onnx file's" in line
    assert left_over(tmp_path) == []


def test_a_build_that_fails_or_is_interrupted_leaves_nothing(
    gpu, model_file, tmp_path, capsys, monkeypatch
) -> None:
    sys.modules["tensorrt"].failure = "out of memory"
    assert "TensorRT did not build red: out of memory" in refused(capsys, run(model_file, tmp_path), 5)

    def interrupt(plan, say):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_tensorrt, "build_in_process", interrupt)
    assert run(model_file, tmp_path) == 130
    assert left_over(tmp_path) == []


def test_a_full_disk(gpu, model_file, tmp_path, capsys, monkeypatch) -> None:
    def full_disk(self, data):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    line = refused(capsys, run(model_file, tmp_path), 3)
    assert "No space left on device" in line
    assert left_over(tmp_path) == []


def test_plan_only_needs_no_gpu(model_file, tmp_path, capsys) -> None:
    out = tmp_path / "plan"
    assert run(model_file, out, "--plan-only") == 0
    names = {"red.onnx", "red.fgf_coefficients.ptx", "red.fgf_apply.ptx", "red.build.sh"}
    assert {path.name for path in out.iterdir()} == names
    assert str(out / "red.build.sh") in capsys.readouterr().out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Trained weights, and a model file of them with a size of its own."""
    folder = tmp_path_factory.mktemp("made")
    weights = folder / "mine.safetensors"
    save_weights(lively("test"), weights, {})
    words = ["export", "--weights", weights, "--size", 64, "--licence", "MIT", "--out", folder / "out", "-q"]
    assert main([str(word) for word in words]) == 0
    return weights, folder / "out"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "size 64, not 128"),
        (["--size", "96"], "size 64, not 96"),
        (["--size", "64", "--fp16"], "precision fp32, not fp16"),
        (["--size", "64", "--fixed-size", "64x64"], "fixed size any, not 64x64"),
        (["--size", "64", "--licence", "CC0-1.0"], "licence MIT, not CC0-1.0"),
    ],
)
def test_a_model_file_made_otherwise_is_not_taken_in_silence(made, capsys, tmp_path, more, message) -> None:
    weights, folder = made
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    shutil.copy(out / "mine.onnx", out / "mine_fp16.onnx")  # a float32 file under another's name
    words = ["export", "--format", "tensorrt", "--plan-only", "--weights", weights, "--out", out, *more]
    line = refused(capsys, main([str(word) for word in words]), 3)
    assert f"already exists and is another model: {message}. Give --overwrite" in line
    assert not list(out.glob("*.sh"))


def test_a_model_file_of_other_weights_is_not_taken(made, capsys, tmp_path) -> None:
    weights, folder = made
    shutil.copytree(folder, tmp_path / "out")
    other = tmp_path / weights.name
    save_weights(lively("test"), other, {"other": 1})
    words = ["export", "--format", "tensorrt", "--plan-only", "--weights", other, "--size", 64]
    words += ["--out", tmp_path / "out"]
    line = refused(capsys, main([str(word) for word in words]), 3)
    assert "already exists and is another model: weights " in line


def test_the_model_file_that_would_be_made_is_taken(made, capsys, tmp_path) -> None:
    weights, folder = made
    shutil.copytree(folder, tmp_path / "out")
    before = (tmp_path / "out" / "mine.onnx").read_bytes()
    words = ["export", "--format", "tensorrt", "--plan-only", "--weights", weights, "--size", 64]
    assert main([str(word) for word in [*words, "--out", tmp_path / "out"]]) == 0
    assert "--overwrite exports it again" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.onnx").read_bytes() == before
    assert "--size 64" in (tmp_path / "out" / "mine.build.sh").read_text()


def test_a_given_model_overwrites_no_other(model_file, capsys, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "red.onnx").write_bytes(b"another")
    line = refused(capsys, run(model_file, out, "--plan-only"), 3)
    assert "out/red.onnx already exists and differs from" in line
    assert (out / "red.onnx").read_bytes() == b"another"
    assert run(model_file, out, "--plan-only", "--overwrite") == 0
    assert (out / "red.onnx").read_bytes() == model_file.read_bytes()


def test_the_refiner_comes_along(tmp_path) -> None:
    model = red_detector("2")
    entry = next(entry for entry in model.metadata_props if entry.key == "stylematte.refiner")
    entry.value = "red_refiner.onnx"
    onnx.save(model, tmp_path / "red.onnx")
    (tmp_path / "red_refiner.onnx").write_bytes(b"tiles")
    assert run(tmp_path / "red.onnx", tmp_path / "out", "--plan-only") == 0
    assert (tmp_path / "out" / "red_refiner.onnx").read_bytes() == b"tiles"


def test_a_model_in_several_files_is_refused(capsys, tmp_path) -> None:
    """Whoever made it chose which file of this machine is read, and how much of it."""
    model = red_detector()
    path = tmp_path / "red.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    line = refused(capsys, run(path, tmp_path / "out", "--plan-only"), 3)
    assert "red.onnx: keeps its weights in other files" in line
    assert not (tmp_path / "out").exists()


def test_without_tensorrt_one_line_says_what_to_install(model_file, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(export_engine, "find_spec", lambda name: None)
    line = refused(capsys, run(model_file, tmp_path / "out"), 4)
    assert line.startswith("stylematte: error: TensorRT is not installed. Run pip install")
    assert "--plan-only" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--fp16"], 2, "--fp16 cannot be applied to an existing .onnx file"),
        (["--fixed-size", "64x64"], 2, "--fixed-size cannot be applied to an existing .onnx file"),
        (["--name", "mine"], 2, "--name cannot be applied to an existing .onnx file"),
        (["--licence", "MIT"], 2, "--licence cannot be applied to an existing .onnx file"),
        (["--int8", "--photos", "."], 2, "int8 files made for CPUs"),
        (["--device", "cpu"], 2, "needs a GPU"),
        (["--fp16", "--bf16"], 2, "exclude each other"),
        (["--fixed-size", "64"], 2, "--fixed-size '64' is not a size"),
    ],
)
def test_what_cannot_be_meant(gpu, model_file, tmp_path, capsys, more, code, message) -> None:
    assert message in refused(capsys, run(model_file, tmp_path, *more), code)


def test_models_that_are_missing_damaged_or_of_another_tool(gpu, tmp_path, capsys) -> None:
    assert "gone.onnx: no such model file" in refused(capsys, run(tmp_path / "gone.onnx", tmp_path), 4)
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff\xff")
    assert "bad.onnx: not a readable ONNX file" in refused(capsys, run(tmp_path / "bad.onnx", tmp_path), 3)
    model = red_detector()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    assert "not a StyleMatte model" in refused(capsys, run(tmp_path / "foreign.onnx", tmp_path / "out"), 3)
    assert not (tmp_path / "out").exists()


def test_no_gpu(gpu, model_file, tmp_path, capsys) -> None:
    gpu.gpus = 0
    assert "no CUDA GPU can be used" in refused(capsys, run(model_file, tmp_path), 4)


def test_plan_only_belongs_to_tensorrt(tmp_path, capsys) -> None:
    assert "--plan-only needs" in refused(capsys, main(["export", "--plan-only", "--out", str(tmp_path)]), 2)
