"""The frame of the command line: help that costs nothing, one line for a mistake, the right exit code."""

import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from stylematte import __version__
from stylematte.errors import EngineError, InputError, MissingError, StyleMatteError, UsageError
from stylematte_cli import app as app_module
from stylematte_cli.app import main
from stylematte_cli.commands.verbs import EXAMPLES

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


def all_commands() -> list[str]:
    """Paths of all commands: "matte", "models show"."""

    def walk(command: object, path: str) -> list[str]:
        below = getattr(command, "commands", {})
        return [path, *(p for name, one in below.items() for p in walk(one, f"{path} {name}".strip()))]

    return walk(typer.main.get_command(app_module.app), "")


@pytest.mark.parametrize("path", all_commands())
def test_help_begins_with_an_example(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path.split(), "--help"]) == 0
    first, empty, usage = capsys.readouterr().out.splitlines()[:3]
    assert (first, empty) == (f"Example: {EXAMPLES[path]}", "")
    assert usage.startswith(f"Usage: stylematte {path}".strip())
    words = shlex.split(EXAMPLES[path])
    assert words[0] == "stylematte"
    assert " ".join(words[1:]).startswith(path)


def test_nothing_typed_shows_one_example_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    verbs = [path for path in all_commands() if path and " " not in path]
    assert [shown.count(f"$ {EXAMPLES[verb]}\n") for verb in verbs] == [1] * len(verbs)
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("path", all_commands())
def test_the_device_is_auto_where_none_is_named(path: str) -> None:
    command = typer.main.get_command(app_module.app)
    for name in path.split():
        command = command.commands[name]
    found = [option.default for option in command.params if "--device" in option.opts]
    assert found in ([], ["auto"])
    assert found or path not in ("matte", "train", "synth", "cycle", "export", "fid", "bench")


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert set(EXAMPLES) == {*all_commands(), "train gan"}  # which is told from train by its recipe


@pytest.mark.parametrize(
    ("arguments", "help_line"),
    [
        (["matte"], "See `stylematte matte --help`"),
        (["matte", "a.jpg", "--colour", "red"], "See `stylematte matte --help`"),
        (["models", "show"], "See `stylematte models show --help`"),
        (["models", "shw"], "See `stylematte models --help`"),
        (["mat"], "See `stylematte --help`"),
    ],
)
def test_a_usage_error_names_the_help_of_its_verb(
    arguments: list[str], help_line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(f"{help_line}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["matte", "--json"], 2, "Missing argument 'INPUT'."),
        (["models", "show", "gone", "--json"], 4, "weights 'gone' are not known"),
        (["synth", "--seed", "-1", "--json"], 2, "Invalid value for '--seed'"),
        (["evaluate", "gone", "gone", "--json"], 3, "gone"),
    ],
)
def test_with_json_an_error_is_an_object_on_stdout(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert set(error) == {"exit_code", "message", "hint", "details"}
    assert error["exit_code"] == code
    assert message in error["message"]
    assert captured.err.startswith("stylematte: error: ")
    assert captured.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["matte", "gone.jpg", "--out", "out"],
        ["export", "--weights", "gone", "--out", "out"],
        ["export", "--weights", "gone.safetensors", "--out", "out"],
        ["export", "--int8", "--photos", "gone", "--out", "out"],
        ["synth", "--weights", "gone", "--out", "out"],
        ["synth", "--weights", "gone.safetensors", "--out", "out"],
        ["train", "nano", "--data", "gone", "--out", "out"],
        ["train", "nano", "--data", ".", "--out", "out"],
        ["train", "gan", "--data", ".", "--out", "out"],
        ["cycle", "--data", "gone", "--out", "out"],
        ["cycle", "--data", ".", "--out", "out"],
        ["cycle", "--data", ".", "--weights", "gone", "--out", "out"],
        ["cycle", "--data", ".", "--generator", "gone", "--out", "out"],
        ["fid", "gone", "gone"],
        ["evaluate", "gone", "gone", "--csv", "out/scores.csv"],
        ["models", "import", "gone.pth"],
    ],
)
def test_a_missing_input_leaves_nothing_behind(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    assert main(arguments) in (1, 2, 3, 4)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["matte", "my photos"], "stylematte matte 'my photos' --out ./alphas"),
        (["matte", "a", "--output", "cutout"], "stylematte matte a --output cutout --out ./cutouts"),
        (["matte", "a", "--background", "red"], "stylematte matte a --background red --out ./composites"),
    ],
)
def test_matte_without_out_shows_the_whole_line_to_type(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(f"Type: {line}\n")


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


def test_what_is_half_made_at_ctrl_c_falls_apart_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    freed, said = [], []

    class HalfMade:
        def __init__(self) -> None:
            raise KeyboardInterrupt

        def __del__(self) -> None:
            freed.append(self)
            raise AttributeError("not ready")

    monkeypatch.setattr("stylematte_cli.commands.matte._check_usage", lambda *_, **__: HalfMade())
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    assert main(["matte", "a.jpg"]) == 130
    assert capsys.readouterr().err == "stylematte: error: interrupted\n"
    assert (len(freed), said) == (1, [])


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
