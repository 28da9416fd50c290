"""What stands between commands and toolkits: packages that are missing, or not ours."""

import os
import subprocess
import sys
from types import ModuleType

import pytest

from models.checkpoints import CheckpointError
from stylematte.errors import EngineError, InputError, MissingError
from stylematte_cli import app
from stylematte_cli.commands import toolkit
from training.checkpoint import TrainingError


@pytest.mark.parametrize(("error", "kind"), [(CheckpointError, InputError), (TrainingError, EngineError)])
def test_errors_of_the_toolkits_are_the_librarys(error, kind):
    assert issubclass(error, kind)


def fail_with(monkeypatch, error: Exception) -> int:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    return app.main(["train"])


def test_a_package_that_only_some_presets_need(monkeypatch, capsys):
    missing = ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package.part")
    assert fail_with(monkeypatch, missing) == MissingError.exit_code
    line = capsys.readouterr().err
    assert "no_such_package is not installed" in line
    assert 'pip install "stylematte[train]"' in line


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("ours", name="models.no_such_module"), ValueError("ours")]
)
def test_mistakes_of_our_own_pass(monkeypatch, error):
    with pytest.raises(type(error), match="ours"):
        fail_with(monkeypatch, error)


def test_another_package_of_the_same_name_is_said(monkeypatch, tmp_path):
    other = ModuleType("models")
    other.__file__ = str(tmp_path / "models" / "__init__.py")
    monkeypatch.setitem(sys.modules, "models", other)
    with pytest.raises(EngineError, match="another package models is imported"):
        toolkit.require(extra="train")


def test_threads_sleep_before_torch_is_there_and_the_user_has_the_last_word(monkeypatch):
    code = (
        "import os, sys; from stylematte_cli.app import main; main(['train']); "
        "assert 'torch' in sys.modules; print(os.environ['OMP_WAIT_POLICY'], file=sys.stderr)"
    )
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for given, wanted in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = os.environ | ({} if given is None else {"OMP_WAIT_POLICY": given})
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stderr.splitlines()[-1] == wanted
