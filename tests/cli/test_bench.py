"""`stylematte bench`: figures that hang together, the machine named, failures told."""

import json
import os

import numpy as np
import pytest

from stylematte import timing
from stylematte.errors import EngineError, InputError
from stylematte.timing import Case, Timing, measure, measure_apart
from stylematte_cli.app import main


def run(*arguments: object) -> int:
    return main(["bench", "--runs", "3", "--photo", "90x160", *map(str, arguments)])


@pytest.fixture
def at_once(monkeypatch):
    """Measure in this process: starting one of its own takes a second."""
    monkeypatch.setattr(timing, "measure_apart", measure)


def test_every_combination_is_measured(red_model, capsys, at_once):
    assert (
        run(
            "--weights", red_model, "--size", 64, "--size", 96, "--batch-size", 1, "--batch-size", 2, "--json"
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["photo_size"] == [90, 160]
    assert report["machine"]["processor"]
    assert report["machine"]["versions"]["onnxruntime"]
    rows = report["timings"]
    assert [(row["working_size"], row["batch_size"]) for row in rows] == [
        ([32, 64], 1), ([32, 64], 2), ([96, 160], 1), ([96, 160], 2),
    ]  # fmt: skip
    for row in rows:
        assert (row["weights"], row["preset"], row["precision"]) == ("red", "red-detector", "fp32")
        assert (row["engine"], row["provider"]) == ("onnx", "CPUExecutionProvider")
        assert 0 < row["network_ms"] <= row["network_p95_ms"]
        assert row["photos_per_second"] == pytest.approx(1000 * row["batch_size"] / row["network_ms"])
        assert row["memory_bytes"] > 20e6
        assert row["card_bytes"] is None


def test_table(red_model, capsys, at_once):
    assert run("--weights", red_model) == 0
    header, row, blank, *about = capsys.readouterr().out.splitlines()
    assert header.startswith("MODEL  PRECISION  ENGINE  PROVIDER")
    assert row.split()[:6] == ["red", "fp32", "onnx", "CPU", "96x160", "1"]
    assert blank == ""
    assert "core(s) usable" in about[0]
    assert "photo of 90x160 (height x width), 3 runs each" in about[1]


def test_one_failure_among_others_is_named_and_the_rest_measured(red_model, tmp_path, capsys, at_once):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    assert run("--weights", red_model, "--weights", broken, "--json") == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert len(report["timings"]) == 1
    assert report["failed"][0]["weights"] == str(broken)
    assert f"failed: {broken}" in captured.err


def test_a_single_failure_keeps_its_exit_code(red_model, tmp_path, capsys, at_once):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert run("--weights", tmp_path / "broken.onnx") == 3
    assert capsys.readouterr().err.startswith("stylematte: error: ")


@pytest.mark.parametrize("photo", ["12", "0x5", "ax5", "100000x100000"])
def test_a_photo_size_that_cannot_be_meant(capsys, photo):
    assert main(["bench", "--photo", photo]) == 2
    assert "--photo" in capsys.readouterr().err


def test_times_are_medians_of_what_the_clock_said(red_model, monkeypatch):
    seconds = iter(np.cumsum([0, *[0.001] * 3, 1, *[0.002] * 100]).tolist())
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    calls = []
    times_ms = timing._times_ms(lambda: calls.append(1), 4)
    assert len(calls) == timing.WARM_UPS + 4
    assert times_ms == pytest.approx([1, 1, 2, 2])


@pytest.mark.slow
def test_a_process_of_its_own_returns_timings_and_errors(red_model, tmp_path):
    found = measure_apart(Case(red_model, photo_size=(40, 60), runs=3))
    assert isinstance(found, Timing)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"broken\.onnx"):
        measure_apart(Case(tmp_path / "broken.onnx"))


def die(case, sender):
    os._exit(7)


@pytest.mark.slow
def test_a_process_that_dies_is_an_engine_failure(red_model, monkeypatch):
    monkeypatch.setattr(timing, "_send_measured", die)
    with pytest.raises(EngineError, match="ended with exit code 7"):
        measure_apart(Case(red_model))


def test_memory_on_the_gpu_is_that_of_the_process(monkeypatch):
    monkeypatch.setattr(timing, "_nvidia_smi", lambda *query: ["12, 300", "77, 512", "78, [N/A]"])
    assert timing._gpu_bytes(77) == 512 << 20
    assert timing._gpu_bytes(78) is None
    assert timing._gpu_bytes(79) is None
