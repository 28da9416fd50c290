"""`stylematte synth` goes on after anything: a kill, a full disk, a missing file."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stylematte.files import TEMPORARY
from stylematte.media.json_lines import JsonLines
from tests.cli.synth.runs import assert_manifest_tells_the_truth, files, manifest, run
from tests.training.generators import Discs
from training.synthesis import run as synthesis_run

ROOT = Path(__file__).parents[3]


def test_more_can_be_drawn_later_and_nothing_is_drawn_twice(tmp_path, weights, monkeypatch):
    once, twice = tmp_path / "once", tmp_path / "twice"
    run(once, weights, "--n", 20)
    run(twice, weights, "--n", 5)
    first = files(twice)
    run(twice, weights, "--n", 20)
    assert files(twice) == files(once)
    assert first.items() <= files(twice).items()
    before = (twice / "manifest.jsonl").read_bytes()
    monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Undrawable())
    run(twice, weights, "--n", 20)
    run(twice, weights, "--n", 3)
    assert (twice / "manifest.jsonl").read_bytes() == before


class Undrawable(Discs):
    def forward(self, *inputs):
        raise AssertionError("drawn again")


def test_goes_on_after_kill_9(tmp_path, weights):
    """The process is killed while it draws; what it wrote stays, and the rest is as if nothing had been."""
    code = """
import sys, time
from tests.training.generators import Discs
from stylematte_cli.app import main
from training.synthesis import run
class Slow(Discs):
    def forward(self, *inputs):
        time.sleep(0.05)
        return super().forward(*inputs)
run.open_generator = lambda path, device: Slow()
main(sys.argv[1:])
"""
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ["--n", "400", "--batch-size", "4", "--quiet", "--device", "cpu", "--weights", str(weights)]
    process = subprocess.Popen([sys.executable, "-c", code, "synth", "--out", str(out), *arguments], cwd=ROOT)
    until = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < 20 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 20 <= len(list(out.glob("*.png"))) < 400
    assert_manifest_tells_the_truth(out)
    (out / "manifest.jsonl").open("ab").write(b'{"index": 399, "outco')  # as a killed process leaves it
    kept = {
        name: (out / name).stat().st_mtime_ns for name in (line["output"] for line in manifest_of_whole(out))
    }
    run(whole, weights, "--n", 60, "--batch-size", 4)
    run(out, weights, "--n", 60, "--batch-size", 4)
    assert {name: data for name, data in files(out).items() if name in files(whole)} == files(whole)
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())


def manifest_of_whole(out: Path) -> list[dict]:
    lines = (out / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_a_file_that_is_gone_is_drawn_again(tmp_path, weights):
    out = tmp_path / "out"
    run(out, weights, "--n", 8)
    before = files(out)
    (out / "00000003.png").unlink()
    run(out, weights, "--n", 8)
    assert files(out) == before


def test_full_disk_ends_in_one_line_and_leaves_what_is_there(tmp_path, weights, capsys, monkeypatch):
    out, whole, replace, done = tmp_path / "out", tmp_path / "whole", os.replace, []

    def full(source, target):
        if len(done) >= 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        run(out, weights, "--n", 100, code=3)
    err = capsys.readouterr().err
    assert "No space left" in err
    assert err.count("\n") == 1
    assert len(files(out)) == 30
    assert not list(out.glob(f".*{TEMPORARY}"))
    assert_manifest_tells_the_truth(out)
    run(out, weights, "--n", 100)
    run(whole, weights, "--n", 100)
    assert files(out) == files(whole)


def test_a_manifest_that_cannot_grow_ends_the_run(tmp_path, weights, capsys, monkeypatch):
    out = tmp_path / "out"

    def full(self, line):
        if line["index"] == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, line)

    append = JsonLines.append
    monkeypatch.setattr(JsonLines, "append", full)
    run(out, weights, "--n", 40, code=3)
    assert "manifest.jsonl: cannot be written: No space left" in capsys.readouterr().err
    assert [line["index"] for line in manifest(out)] == list(range(9))
