"""Drawn data sets, made once, and the mattes made from their masks."""

from pathlib import Path

import pytest

from tests.training import drawn
from tests.training.loop_runs import run
from training.data.pseudo_alpha import prepare
from training.data.readers import read_set


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the three drawn sets; not to be changed."""
    return drawn.draw_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def mattes(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared mattes of the drawn photos."""
    cache = tmp_path_factory.mktemp("mattes")
    assert prepare(read_set(data_root, drawn.PEOPLE), "hair", cache, workers=1) == 10
    return cache


@pytest.fixture(scope="session")
def whole(data_root, mattes, tmp_path_factory):
    """The folder, scores and reports of a run that nothing stopped."""
    out, lines = tmp_path_factory.mktemp("run"), []
    scores = run(data_root, mattes, out, report=lines.append)
    return out, scores, lines
