"""`stylematte matte` as a process: pipes, kill -9, Ctrl-C, and no torch in sight."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.images import assert_is_red_matte, load, red_image, save

ROOT = Path(__file__).parents[2]
PHOTOS = 40

# Whoever runs the tests may have switched Ctrl-C off for its children.
TOOL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("torch", "models", "export", "training"):
    sys.modules[name] = None
from stylematte_cli.app import main
sys.exit(main())
"""


def tool(*arguments: object) -> list[str]:
    return [sys.executable, "-c", TOOL, *map(str, arguments)]


@pytest.fixture
def command(tmp_path: Path, red_model: Path) -> list[str]:
    """A run of a few seconds: big photos, one worker."""
    first = save(tmp_path / "in" / "00.jpg", red_image(1500, 2000))
    for number in range(1, PHOTOS):
        os.link(first, first.with_name(f"{number:02}.jpg"))
    return tool("matte", tmp_path / "in", "--out", tmp_path / "out", "--weights", red_model, "--workers", 1)


def start_and_wait(command: list[str], out: Path, results: int = 3) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < results:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def check_whole(out: Path) -> dict[str, int]:
    """Every result there is is whole; returns when each was written."""
    for path in out.glob("*.png"):
        assert_is_red_matte(load(path), slack_px=40)
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}


def test_after_kill_9_the_same_command_finishes_the_rest(tmp_path: Path, command: list[str]) -> None:
    process = start_and_wait(command, tmp_path / "out")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    first = check_whole(tmp_path / "out")
    assert 3 <= len(first) < PHOTOS
    # What a kill in the middle of writing leaves: half a temporary file, half a line, a result not recorded.
    (tmp_path / "out" / f".{process.pid}-9.stylematte-part").write_bytes(b"half")
    manifest = tmp_path / "out" / "manifest.jsonl"
    recorded = manifest.read_text().splitlines()
    manifest.write_text("".join(f"{line}\n" for line in recorded) + '{"input": "')

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    second = check_whole(tmp_path / "out")
    assert len(second) == PHOTOS
    assert {name: second[name] for name in first} == first, "finished ones are left alone"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([*second, "manifest.jsonl"])


def test_ctrl_c_stops_cleanly_with_130(tmp_path: Path, command: list[str]) -> None:
    process = start_and_wait([*command, "--json"], tmp_path / "out")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    report = json.loads(stdout)
    done = check_whole(tmp_path / "out")
    assert report["interrupted"] is True
    assert report["done"] <= len(done) < PHOTOS
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == len(done), "every result is in the manifest"
    assert not list((tmp_path / "out").glob(".*"))


def test_stdin_to_stdout(tmp_path: Path, red_model: Path) -> None:
    photo = save(tmp_path / "photo.jpg", red_image())
    arguments = ("matte", "-", "--weights", red_model)
    done = subprocess.run(
        tool(*arguments), cwd=ROOT, input=photo.read_bytes(), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert_is_red_matte(cv2.imdecode(np.frombuffer(done.stdout, np.uint8), cv2.IMREAD_UNCHANGED))

    for data, reason in {b"": b"stdin: empty", b"text": b"stdin: not an image"}.items():
        done = subprocess.run(tool(*arguments), cwd=ROOT, input=data, capture_output=True, timeout=60)
        assert done.returncode == 3
        assert done.stdout == b""
        assert reason in done.stderr
        assert b"Traceback" not in done.stderr
    for extra in (["--out", str(tmp_path)], ["--json"], [str(photo)]):
        command = tool(*arguments, *extra)
        done = subprocess.run(command, cwd=ROOT, input=photo.read_bytes(), capture_output=True, timeout=60)
        assert done.returncode == 2
        assert b"reads one photo from stdin" in done.stderr


def test_libraries_stay_quiet(tmp_path: Path, red_model: Path) -> None:
    save(tmp_path / "in" / "good.png", red_image())
    whole = (tmp_path / "in" / "good.png").read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    command = tool("matte", tmp_path / "in", "--weights", red_model, "--quiet", "--out", tmp_path / "out")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "in" / "cut.png") in done.stderr


@pytest.mark.slow
def test_100_megapixels_stay_under_2_5_gb(tmp_path: Path, red_model: Path) -> None:
    photo = save(tmp_path / "large.jpg", red_image(8700, 11600))
    program = tool("matte", photo, "--out", tmp_path / "out", "--weights", red_model)
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", code, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    kilobytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 2.5e6
    assert load(tmp_path / "out" / "large.png").shape == (8700, 11600)
