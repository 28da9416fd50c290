"""Errors of the toolkits become the tool's, with the exit code that fits."""

import importlib
import os
import subprocess
import sys

import pytest

from models.checkpoints import CheckpointError
from stylematte.errors import EngineError, InputError, MissingError
from stylematte_cli.commands.toolkit import translated_errors
from training.backbone import MissingBackboneError
from training.checkpoint import TrainingError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CheckpointError("a"), InputError),
        (MissingBackboneError("a"), MissingError),
        (TrainingError("a"), EngineError),
    ],
)
def test_kinds(error, kind):
    with pytest.raises(kind, match=r"^a$") as caught, translated_errors():
        raise error
    assert type(caught.value) is kind


def test_a_package_that_only_some_presets_need():
    with pytest.raises(MissingError, match="no_such_package is not installed") as caught, translated_errors():
        importlib.import_module("no_such_package.part")
    assert caught.value.hint == 'pip install "stylematte[train]"'


def test_mistakes_of_our_own_pass():
    with pytest.raises(ModuleNotFoundError), translated_errors():
        importlib.import_module("models.no_such_module")
    with pytest.raises(ValueError, match="ours") as caught, translated_errors():
        raise ValueError("ours")
    assert not isinstance(caught.value, InputError)


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
