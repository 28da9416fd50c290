"""Fixtures of `stylematte synth`: a generator that draws discs, and backgrounds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.training.generators import Discs
from training.synthesis import run as synthesis_run


@pytest.fixture(autouse=True)
def _discs(monkeypatch, request):
    if "stylegan3" not in request.node.name:
        monkeypatch.setattr(synthesis_run, "open_generator", lambda path, device: Discs())


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "discs.safetensors"
    path.write_bytes(b"weights of discs")
    return path


@pytest.fixture
def backgrounds(tmp_path) -> Path:
    """Two plain images, of different colours and sizes."""
    folder = tmp_path / "backgrounds"
    folder.mkdir()
    for name, colour, side in (("a", (10, 200, 30), 40), ("b", (250, 0, 90), 64)):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((side, side, 3), colour, np.uint8))
    return folder
