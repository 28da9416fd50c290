"""The four commands that people type first, from an installed wheel without a network.

Each in an empty folder, and in a prepared one.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.checkpoints import save_weights
from models.presets import PRESETS
from models.stylematte import build_model
from tests.training import drawn

ROOT = Path(__file__).parents[2]
MATTE = ("matte", "./photos", "--out", "./alphas")
EXPORT = ("export", "--fp16")
TRAIN = ("train",)
SYNTH = ("synth", "--n", "10000", "--truncation", "0.7")

NO_NETWORK = """
import socket
def refuse(*_, **__):
    raise OSError("no network in this test")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def build_wheel(folder: Path) -> Path:
    """The wheel, by its build backend."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed wheel, and with what cuts the network."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel, target = build_wheel(folder), folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    (target / "sitecustomize.py").write_text(NO_NETWORK)
    return target


def take_interrupts() -> None:
    """Let Ctrl-C through: a shell ignores it for what runs in the background, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Folder:
    """Where commands are typed."""

    def __init__(self, path: Path, site: Path) -> None:
        self.path, self.tool = path / "work", site / "bin" / "stylematte"
        self.home = path / "home"
        self.path.mkdir()
        self.home.mkdir()
        self.environment = os.environ | {
            "PYTHONPATH": str(site),
            "HOME": str(self.home),
            "STYLEMATTE_HOME": str(self.home / "stylematte"),
            "OMP_NUM_THREADS": "1",  # beside other tests more threads wait for each other
        }
        for switch in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI", "GITHUB_ACTIONS"):
            self.environment.pop(switch, None)  # the tool has to see to it by itself

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [str(self.tool), *words],
            cwd=self.path,
            env=self.environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
            preexec_fn=take_interrupts,
        )

    def type(self, *words: str) -> tuple[int, str, list[str]]:
        """Exit code, stdout, and the lines of stderr."""
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err
        return process.returncode, out, err.splitlines()

    def interrupt(self, product: Path, *words: str) -> tuple[int, str, str]:
        """Type a command, and press Ctrl-C once a file is there."""
        process = self.start(*words)
        ends = time.monotonic() + 300
        while not (self.path / product).exists() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err
        return process.returncode, out, err

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir())


@pytest.fixture
def here(tmp_path, site) -> Folder:
    return Folder(tmp_path, site)


def test_it_is_the_wheel_that_runs(here, site):
    code = (
        "import stylematte; from stylematte_cli.commands import toolkit; toolkit.enable(); import training; "
        "print(stylematte.__file__, training.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here.path, env=here.environment, capture_output=True, text=True
    )
    assert done.stdout.count(str(site)) == 2


def test_matte_where_there_are_no_photos(here):
    code, _, lines = here.type(*MATTE)
    assert code == 1
    assert any("photos: no such file" in line for line in lines)
    assert here.names() == []


def test_matte_photos(here):
    shutil.copytree(ROOT / "examples" / "photos", here.path / "photos")
    assert here.type(*MATTE)[0] == 0
    made = sorted(path.name for path in (here.path / "alphas").glob("*.png"))
    assert made == ["astronaut.png", "chelsea.png"]
    assert list(here.home.iterdir()) == []  # ONNX Runtime leaves an id there, and reports


def test_train_where_there_is_no_data(here):
    code, _, lines = here.type(*TRAIN)
    assert code == 3
    assert lines[0] == "stylematte: error: data: no such folder. Provide one of these"
    assert len(lines) > 4
    assert here.names() == []


@pytest.mark.slow
def test_train_on_photos_of_ones_own(here):
    sets = drawn.draw_sets(here.path / "drawn")
    shutil.copytree(sets / drawn.PEOPLE, here.path / "data" / "mine")
    shutil.rmtree(sets)
    code, out, err = here.interrupt(Path("runs/finetune/log.csv"), *TRAIN)
    assert (code, err.splitlines()[-1]) == (130, "stylematte: error: interrupted")
    lines = out.splitlines()
    assert lines[:2] == ["in data:", "  mine: 10 photos with masks, layout plain"]
    assert lines[2].startswith("recipe finetune: ")
    assert any(line.startswith("  a step takes about ") for line in lines)
    assert any(line.startswith("  the run takes about ") for line in lines)
    assert any(line.startswith("  the run writes about ") for line in lines)
    assert here.names() == ["data", "runs"]
    assert len(list((here.path / "runs" / "finetune" / "mattes").rglob("*.alpha.png"))) == 10


def test_synth_where_there_is_no_generator(here, site):
    shipped = site / "stylematte" / "assets" / "faces.safetensors"
    aside = shipped.rename(shipped.with_suffix(".aside"))
    try:
        code, _, lines = here.type(*SYNTH)
    finally:
        aside.rename(shipped)
    assert code == 4
    assert len(lines) == 1
    assert "weights 'faces'" in lines[0]
    assert "stylematte models import" in lines[0]
    assert "stylematte train gan" in lines[0]
    assert here.names() == []


@pytest.mark.slow
def test_synth(here):
    code, _, err = here.interrupt(Path("synthetic/00000023.png"), *SYNTH)  # of the third batch
    assert code == 130, err
    assert here.names() == ["synthetic"]
    assert len((here.path / "synthetic" / "manifest.jsonl").read_text().splitlines()) >= 8


@pytest.fixture
def small_default(site) -> Iterator[None]:
    """A small network in the place of the shipped one: to prove that takes half a minute."""
    shipped = site / "stylematte" / "assets" / "nano.safetensors"
    aside = shipped.with_suffix(".aside")
    shipped.rename(aside)
    torch.manual_seed(0)
    save_weights(build_model(PRESETS["test"]).eval(), shipped, {})
    yield
    aside.replace(shipped)


@pytest.mark.slow
@pytest.mark.usefixtures("small_default")
def test_export_the_default_model(here):
    code, out, lines = here.type(*EXPORT)
    assert code == 0, lines
    assert here.names() == ["engines"]
    assert (here.path / "engines" / "nano_fp16.onnx").is_file()
    assert "alpha differs from" in out
    name = Path("engines") / "nano_fp16.onnx"
    assert out.splitlines()[-1].endswith(f"stylematte matte ./photos --out ./alphas --weights {name}")
