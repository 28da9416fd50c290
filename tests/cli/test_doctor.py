"""`stylematte doctor`: a healthy machine, and each thing that can be wrong with one."""

import json
import shutil
import sys

import pytest

from stylematte import weights
from stylematte.engines import cuda as cuda_module
from stylematte.engines import tensorrt
from stylematte_cli.app import main
from tests.refiners import save_pair
from tests.runtime.fake_gpu import FakeCuda


@pytest.fixture
def assets(tmp_path, monkeypatch, red_model):
    """Folder of the shipped weights, with the red detector as the default model; no nvidia-smi on PATH."""
    folder = tmp_path / "assets"
    folder.mkdir()
    shutil.copy(red_model, folder / f"{weights.DEFAULT}.onnx")
    monkeypatch.setattr(weights, "ASSETS", folder)
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return folder


def report(capsys, *arguments: str) -> tuple[int, dict[str, dict]]:
    """Run doctor and give its exit code and its findings by name."""
    code = main(["doctor", "--json", *arguments])
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is (code == 0)
    return code, {finding["name"]: finding for finding in answer["findings"]}


def put_nvidia_smi_on_path(assets, script: str) -> None:
    program = assets.parent / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_healthy_machine(assets, capsys):
    code, findings = report(capsys)
    assert code == 0
    assert findings["packages"]["facts"]["numpy"] == sys.modules["numpy"].__version__
    assert "CPUExecutionProvider" in findings["onnxruntime"]["facts"]["providers"]
    assert findings["session"]["facts"]["provider"] in findings["onnxruntime"]["facts"]["providers"]
    assert findings["GPU"]["state"] == "note"
    assert findings["image formats"]["facts"]["png"] is True
    assert findings["matte"]["facts"]["median_ms"] > 0
    assert findings["matte"]["facts"]["first_ms"] > 0


def test_telemetry_is_off_unless_the_environment_has_it_on(assets, capsys, monkeypatch):
    finding = report(capsys)[1]["telemetry"]
    assert (finding["state"], finding["facts"]) == ("ok", {"ORT_DISABLE_TELEMETRY": "1"})
    assert "off" in finding["detail"]
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    finding = report(capsys)[1]["telemetry"]
    assert (finding["state"], finding["fix"]) == ("note", "unset ORT_DISABLE_TELEMETRY to have it off")


def test_the_report_for_people_says_the_same(assets, capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "uses CPUExecutionProvider" in text
    assert text.endswith("stylematte matte works here.\n")


def test_missing_weights(assets, capsys):
    (assets / f"{weights.DEFAULT}.onnx").unlink()
    code, findings = report(capsys)
    assert code == 4
    assert findings["weights"]["state"] == "fail"
    assert f"{weights.DEFAULT}.onnx is missing" in findings["weights"]["detail"]
    assert str(assets) in findings["weights"]["detail"]
    assert findings["weights"]["fix"].startswith("pip install")


def test_weights_that_are_not_what_their_card_says(assets, capsys):
    (assets / f"{weights.DEFAULT}.json").write_text(json.dumps({"sha256": "0" * 64}))
    code, findings = report(capsys)
    assert code == 4
    assert "SHA-256" in findings["weights"]["detail"]


def test_damaged_weights(assets, capsys):
    (assets / f"{weights.DEFAULT}.onnx").write_bytes(b"not a model")
    code, findings = report(capsys)
    assert code == 4
    assert findings["matte"]["state"] == "fail"


def test_no_onnx_runtime(assets, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, findings = report(capsys)
    assert code == 4
    assert 'pip install "stylematte[cpu]"' in findings["onnxruntime"]["fix"]
    assert findings["matte"]["state"] == "fail"


def test_opencv_that_cannot_be_imported(assets, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, findings = report(capsys)
    assert code == 4
    assert findings["image formats"]["state"] == "fail"
    assert "cv2" in findings["image formats"]["detail"]


def test_both_onnxruntime_wheels(assets, capsys, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        metadata = assets / f"{name}-9.9.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(assets)
    code, findings = report(capsys)
    assert code == 0
    assert findings["onnxruntime wheels"]["state"] == "warn"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in findings["onnxruntime wheels"]["fix"]


def test_a_gpu_that_the_session_does_not_use(assets, capsys):
    put_nvidia_smi_on_path(assets, 'echo "NVIDIA T4, 550.1, 15360 MiB"')
    code, findings = report(capsys)
    assert findings["GPU"]["facts"]["cards"] == ["NVIDIA T4, 550.1, 15360 MiB"]
    if findings["session"]["facts"]["provider"] == "CUDAExecutionProvider":
        pytest.skip("this machine's session really runs on CUDA")
    assert code == 0
    assert findings["session"]["state"] == "warn"
    assert "stylematte[gpu]" in findings["session"]["fix"]


def test_a_driver_that_is_broken(assets, capsys):
    put_nvidia_smi_on_path(assets, 'echo "Failed to initialize NVML" >&2; exit 9')
    code, findings = report(capsys)
    assert findings["GPU"]["state"] == "warn"
    assert "NVML" in findings["GPU"]["detail"]
    assert code == 0


def test_a_device_asked_for_and_not_had_fails(assets, capsys):
    if "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    code, findings = report(capsys, "--device", "cuda")
    assert code == 4
    assert findings["matte"]["state"] == "fail"
    assert 'pip install "stylematte[gpu]"' in findings["matte"]["fix"]


@pytest.fixture
def gpu(monkeypatch) -> FakeCuda:
    gpu = FakeCuda()
    monkeypatch.setattr(cuda_module, "_import_runtime", lambda: gpu)
    monkeypatch.setattr(cuda_module, "_driver_version", lambda: "580.1")
    monkeypatch.setattr(tensorrt, "tensorrt_version", lambda: "11.4.0.106")
    return gpu


def test_tensorrt_is_not_missed_without_a_gpu(assets, capsys):
    assert "tensorrt" not in report(capsys)[1]
    put_nvidia_smi_on_path(assets, "echo 'Drawn GPU, 580.1, 8192 MiB'")
    finding = report(capsys)[1]["tensorrt"]
    assert finding["state"] == "note"
    assert 'pip install "stylematte[tensorrt]"' in finding["fix"]


def test_tensorrt_with_and_without_an_engine(assets, capsys, gpu, monkeypatch):
    finding = report(capsys)[1]["tensorrt"]
    assert finding["state"] == "note"
    assert (
        "11.4.0.106 on Drawn GPU 9000, compute capability 9.0, driver 580.1; no engine of"
        in finding["detail"]
    )
    monkeypatch.setattr(tensorrt, "find_engine", lambda path, here: (path.with_suffix(".engine"), ""))
    finding = report(capsys)[1]["tensorrt"]
    assert finding["state"] == "ok"
    assert finding["detail"].endswith(f"engine {assets / weights.DEFAULT}.engine")
    gpu.gpus = 0
    finding = report(capsys)[1]["tensorrt"]
    assert finding["state"] == "warn"
    assert "no usable GPU: no CUDA GPU can be used" in finding["detail"]


def test_an_engine_asked_for_by_name_and_not_there(assets, capsys, gpu):
    code, findings = report(capsys, "--engine", "tensorrt")
    assert code == 4
    assert findings["matte"]["state"] == "fail"
    assert "TensorRT is not installed" in findings["matte"]["detail"]


def test_the_refiner_that_the_model_names(assets, capsys):
    model = save_pair(assets)
    model.replace(assets / f"{weights.DEFAULT}.onnx")
    code, found = report(capsys)
    assert code == 0
    assert found["refiner"]["detail"].startswith("red_refiner.onnx, on tiles of 64x64")
    (assets / "red_refiner.onnx").write_bytes(b"another")
    code, found = report(capsys)
    assert code == 4
    assert found["refiner"]["state"] == "fail"
    (assets / "red_refiner.onnx").unlink()
    code, found = report(capsys)
    assert code == 0
    assert found["refiner"]["state"] == "warn"
    assert "--detail off" in found["refiner"]["fix"]
