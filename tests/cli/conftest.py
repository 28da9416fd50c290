"""Fixtures of several commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stylematte_cli.app import main


@pytest.fixture
def matte(red_model: Path) -> Callable[..., int]:
    """Runs `stylematte matte` with the red detector, in this process."""

    def run(*arguments: object) -> int:
        return main(["matte", *map(str, arguments), "--weights", str(red_model), "--device", "cpu"])

    return run
