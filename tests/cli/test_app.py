"""The frame of the command line: help that costs nothing, one line for a mistake, the right exit code."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from stylematte_cli import __version__
from stylematte_cli import app as app_module
from stylematte_cli.app import main
from stylematte_cli.errors import EngineError, InputError, MissingError, StyleMatteError, UsageError

ROOT = Path(__file__).parents[2]


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stylematte_cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["matte", "--help"]])
def test_help_takes_less_than_0_4_s_of_cpu(arguments: list[str]) -> None:
    def cpu_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    spent = []
    for _ in range(3):
        before = cpu_seconds()
        done = run_tool(*arguments)
        spent.append(cpu_seconds() - before)
        assert done.returncode == 0
        assert "Usage: stylematte" in done.stdout
    assert min(spent) < 0.4


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from stylematte_cli.app import main; main(['matte', '-h']); "
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'torch', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


def test_short_help_version_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    assert "matte " in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stylematte {__version__}\n"
    assert main([]) == 2
    assert "Usage: stylematte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mat"], "No such command 'mat'"),
        (["matte"], "Missing argument 'INPUT'"),
        (["matte", "a.jpg", "--out"], "--out"),
        (["matte", "a.jpg", "--colour", "red"], "--colour"),
        (["matte", "a.jpg", "--out", "o", "--format", "gif"], "gif"),
        (["matte", "a.jpg", "--out", "o", "--bit-depth", "12"], "12"),
        (["matte", "a.jpg", "--out", "o", "--workers", "0"], "--workers"),
    ],
)
def test_usage_errors_are_one_line_and_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("stylematte: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no", "Do this"), 2, "no. Do this"),
        (InputError("bad?", "Mend it"), 3, "bad? Mend it"),
        (MissingError("gone"), 4, "gone"),
        (EngineError("two\nlines"), 5, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "/x/y"), 3, "/x/y: Permission denied"),
    ],
)
def test_errors_become_a_line_and_a_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("stylematte_cli.commands.matte._check_usage", fail)
    assert main(["matte", "a.jpg"]) == code
    assert capsys.readouterr().err == f"stylematte: error: {line}\n"


def test_a_bug_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("stylematte_cli.commands.matte._check_usage", fail)
    with pytest.raises(ZeroDivisionError):
        app_module.main(["matte", "a.jpg"])


def test_exit_codes_are_those_of_the_manual() -> None:
    codes = {kind: kind("x").exit_code for kind in (UsageError, InputError, MissingError, EngineError)}
    assert list(codes.values()) == [2, 3, 4, 5]
    assert all(issubclass(kind, StyleMatteError) for kind in codes)
