"""`stylematte matte` on clips as a process: Ctrl-C, a full disk, kill -9, and memory."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_matte_process import ROOT, tool
from tests.clips import draw_clip, probe


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str, size: int = 0) -> None:
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > size for path in folder.glob(pattern)):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A run of several seconds."""
    return draw_clip(tmp_path / "in" / "clip.mp4", frames=100, size=(360, 480))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_no_half_clip_and_the_finished_ones(
    tmp_path: Path, red_model: Path, clip: Path, number: signal.Signals
) -> None:
    draw_clip(tmp_path / "in" / "a.mp4", frames=2)
    out = tmp_path / "out"
    command = tool("matte", clip.parent, "--out", out, "--weights", red_model, "--background", "red")
    process = start(command)
    wait_for(process, out, "a.mp4")
    wait_for(process, out, ".*-part")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted: 1 done" in stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "manifest.jsonl"]
    assert len(probe(out / "a.mp4").times) == 2


def test_ctrl_c_in_a_sequence_keeps_whole_frames_and_goes_on(
    tmp_path: Path, red_model: Path, clip: Path
) -> None:
    folder = tmp_path / "out" / "clip"
    command = tool("matte", clip, "--out", folder.parent, "--weights", red_model, "--format", "png")
    process = start(command)
    wait_for(process, folder, "clip.0003.png")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert 3 <= len(first) < 100
    assert all(name.endswith(".png") for name in first)
    done = subprocess.run([*command, "--end", "100f"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    again = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(again) == 100
    assert all(again[name] != first[name] for name in first), "other settings make all frames anew"


@pytest.mark.parametrize("kind", ["prores", "ffv1", "mp4"])
def test_a_full_disk_leaves_nothing_and_one_line(
    tmp_path: Path, red_model: Path, clip: Path, kind: str
) -> None:
    def no_large_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the system says so instead of killing
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = tool(
        "matte", clip, "--out", tmp_path / "out", "--weights", red_model, "--format", kind, "--quiet"
    )
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, preexec_fn=no_large_files
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be written: File too large" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]


def test_after_kill_9_nothing_half_is_left_in_the_next_run(
    tmp_path: Path, red_model: Path, clip: Path
) -> None:
    out = tmp_path / "out"
    command = tool(
        "matte", clip, "--out", out, "--weights", red_model, "--format", "ffv1", "--output", "cutout"
    )
    process = start(command)
    wait_for(process, out, ".*-part", 1000)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (out / "clip.mkv").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["clip.mkv", "manifest.jsonl"]
    assert len(probe(out / "clip.mkv").times) == 100


def test_without_av_the_line_that_installs_it(tmp_path: Path, red_model: Path) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=1)
    program = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "av" else find(name, *rest)
sys.modules["av"] = None
from stylematte_cli.app import main
sys.exit(main())
"""
    command = [sys.executable, "-c", program, "matte", str(clip), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--weights", str(red_model)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4
    assert 'pip install "stylematte[video]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path: Path, red_model: Path) -> None:
    peaks = []
    for frames in (60, 600):
        clip = draw_clip(tmp_path / f"{frames}.mp4", frames=frames, size=(480, 640))
        command = tool("matte", clip, "--out", tmp_path / "out", "--weights", red_model, "--stabilize")
        code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]
