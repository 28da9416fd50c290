"""OpenVINO: the same coefficients as ONNX Runtime, compiled once a size, its cache checked, no telemetry."""

import logging
import subprocess
import sys

import numpy as np
import onnx
import pytest

from export.foreign.importing import Description, import_network
from stylematte.engines import open_engine
from stylematte.engines import openvino as engines_openvino
from stylematte.engines.base import made_by
from stylematte.errors import InputError, MissingError, UsageError
from stylematte.matter import Matter
from stylematte.weights import ASSETS
from tests.conftest import red_detector
from tests.export.drawn_networks import SIDE, network, save

needs_openvino = pytest.mark.skipif(
    not engines_openvino.openvino_version(), reason="OpenVINO is not installed"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "openvino"


def foreign(tmp_path):
    said = Description(mean=(0.5,) * 3, std=(0.25,) * 3, activation="none")
    model = import_network(save(network(), tmp_path / "bare.onnx"), said, "drawn", "0").model
    return save(model, tmp_path / "foreign.onnx")


def both(path, images, priors=None):
    engines = (open_engine(path, "onnx", "cpu"), open_engine(path, "openvino", "cpu"))
    return [engine.coefficients(images, priors) for engine in engines]


@needs_openvino
def test_coefficients_are_onnx_runtimes(red_model, rng):
    images = rng.random((3, 3, 64, 96), np.float32)
    wanted, got = both(red_model, images)
    assert got.shape == wanted.shape
    assert got == pytest.approx(wanted, abs=1e-3)  # of logits up to 50, on noise


@needs_openvino
def test_a_prior_is_fed(tmp_path, rng):
    model = save(red_detector(prior=True), tmp_path / "prior.onnx")
    images, priors = rng.random((2, 3, 64, 64), np.float32), rng.random((2, 1, 64, 64), np.float32)
    without = both(model, images)
    with_prior = both(model, images, priors)
    for wanted, got in (without, with_prior):
        assert got == pytest.approx(wanted, abs=1e-3)
    assert not np.allclose(without[1], with_prior[1])


@needs_openvino
def test_the_model_that_ships_and_an_imported_one(tmp_path, rng):
    for path, side in ((ASSETS / "nano.onnx", 64), (foreign(tmp_path), SIDE)):
        image = (255 * rng.random((70, 90, 3))).astype(np.uint8)
        size = None if path.name == "foreign.onnx" else side
        alphas = [Matter(open_engine(path, name, "cpu"), size)(image).alpha for name in ("onnx", "openvino")]
        assert alphas[1] == pytest.approx(alphas[0], abs=1e-4)


@needs_openvino
def test_lanes_run_at_once(red_model, rng):
    from concurrent.futures import ThreadPoolExecutor

    engine = open_engine(red_model, "openvino", "cpu", lanes=2)
    images = [rng.random((1, 3, 64, 64), np.float32) for _ in range(6)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(engine.coefficients, images))
    for image, result in zip(images, got, strict=True):
        assert result == pytest.approx(open_engine(red_model, "onnx", "cpu").coefficients(image), abs=1e-3)


FIRST_PASSES = """
import faulthandler, os, sys, threading
import numpy as np
from pathlib import Path
from stylematte.engines import open_engine
engine = open_engine(Path(sys.argv[1]), "openvino", "cpu", lanes=2)
engine._requests(64, 64)
images = np.zeros((1, 3, 64, 64), np.float32)
sys.setswitchinterval(1e-6)
faulthandler.dump_traceback_later(60, exit=True)  # a deadlock holds the interpreter's lock
together = threading.Barrier(2)
threads = [
    threading.Thread(target=lambda: (together.wait(), engine.coefficients(images))) for _ in range(2)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
os._exit(0)
"""


@needs_openvino
def test_the_first_passes_of_two_lanes_do_not_wait_for_each_other(red_model):
    done = subprocess.run(
        [sys.executable, "-c", FIRST_PASSES, str(red_model)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


FREED_IN_A_THREAD = """
import gc, signal, sys, threading
from pathlib import Path
from stylematte.engines import open_engine
signal.signal(signal.SIGTERM, lambda *arguments: print("handled"))
engines = [open_engine(Path(sys.argv[1]), "openvino", "cpu")]
thread = threading.Thread(target=lambda: (engines.clear(), gc.collect()))
thread.start()
thread.join()
signal.raise_signal(signal.SIGTERM)
"""


@needs_openvino
def test_a_signal_is_handled_after_a_thread_freed_the_engine(red_model):
    done = subprocess.run(
        [sys.executable, "-c", FREED_IN_A_THREAD, str(red_model)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@needs_openvino
def test_a_size_is_compiled_once_and_kept_on_the_disk(red_model, rng, cache, monkeypatch):
    image = rng.random((1, 3, 64, 64), np.float32)
    wanted = open_engine(red_model, "openvino", "cpu").coefficients(image)
    (file,) = cache.glob("*.blob")
    engine = open_engine(red_model, "openvino", "cpu")
    monkeypatch.setattr(engine._core.__class__, "compile_model", None)  # anything that compiles fails now
    assert np.array_equal(engine.coefficients(image), wanted)
    assert engine.coefficients(image).shape == wanted.shape
    assert list(cache.glob("*")) == [file]


@needs_openvino
def test_one_compiled_model_serves_all_sizes_until_one_is_used_often(red_model, rng, cache, monkeypatch):
    monkeypatch.setattr(engines_openvino, "FEW_USES", 2)
    engine = open_engine(red_model, "openvino", "cpu")
    small, wide = (rng.random((1, 3, *size), np.float32) for size in ((64, 64), (64, 96)))
    first = engine.coefficients(small)
    engine.coefficients(wide)
    assert list(engine._compiled) == [engines_openvino.ANY_SIZE]
    for _ in range(2):
        assert engine.coefficients(small) == pytest.approx(first, abs=1e-4)
    assert set(engine._compiled) == {engines_openvino.ANY_SIZE, (64, 64)}
    assert len(list(cache.glob("*.blob"))) == 2


@needs_openvino
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_cache_is_made_anew(red_model, rng, cache, damage):
    image = rng.random((1, 3, 64, 64), np.float32)
    wanted = open_engine(red_model, "openvino", "cpu").coefficients(image)
    (file,) = cache.glob("*.blob")
    whole = file.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    file.write_bytes({"cut": whole[:middle], "changed": changed, "empty": b""}[damage])
    assert np.array_equal(open_engine(red_model, "openvino", "cpu").coefficients(image), wanted)
    assert engines_openvino._read(file) is not None


@needs_openvino
def test_bfloat16_is_known_to_the_manifest_or_said_to_be_lacking(red_model, caplog, monkeypatch):
    monkeypatch.setattr(engines_openvino, "computes_in_bf16", lambda core, device: False)
    with caplog.at_level(logging.INFO, "stylematte"):
        engine = open_engine(red_model, "openvino", "cpu", precision="bfloat16")
    assert "no instructions for bfloat16" in caplog.text
    assert made_by(engine) == made_by(open_engine(red_model, "openvino", "cpu"))
    monkeypatch.setattr(engines_openvino, "computes_in_bf16", lambda core, device: True)
    in_bf16 = open_engine(red_model, "openvino", "cpu", precision="bfloat16")
    assert made_by(in_bf16)["engine"] == "openvino, CPUExecutionProvider, bfloat16"


@needs_openvino
def test_its_telemetry_is_never_imported(red_model):
    open_engine(red_model, "openvino", "cpu")
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"device": "cuda"}, UsageError, "no CUDA"),
        ({"device": "npu"}, MissingError, "finds CPU"),
        ({"precision": "int4"}, UsageError, "precision 'int4'"),
    ],
)
def test_what_cannot_be_had_is_told(red_model, arguments, error, words):
    with pytest.raises(error, match=words):
        open_engine(red_model, "openvino", **arguments)


@needs_openvino
def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(InputError, match="cannot open it"):
        open_engine(tmp_path / "text.onnx", "openvino")
    onnx.save(network(), tmp_path / "bare.onnx")
    with pytest.raises(InputError, match="not a StyleMatte model"):
        open_engine(tmp_path / "bare.onnx", "openvino")


def test_without_openvino_the_line_that_installs_it_is_told(red_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingError, match="OpenVINO"):
        open_engine(red_model, "openvino")


def test_other_engines_compute_as_their_file_says(red_model):
    open_engine(red_model, "onnx", "cpu", precision="float32")
    with pytest.raises(UsageError, match="engine onnx uses the precision of the model file"):
        open_engine(red_model, "onnx", "cpu", precision="bfloat16")
    with pytest.raises(UsageError, match="Intel's"):
        open_engine(red_model, "onnx", "gpu")
