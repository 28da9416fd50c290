"""One exported network for all tests: tracing takes seconds."""

from typing import NamedTuple

import numpy as np
import onnx
import pytest

from export.int8 import FEWEST_PHOTOS
from export.onnx import Origin, export_onnx
from models.stylematte import StyleMatte
from tests.models.networks import lively

ORIGIN = Origin("a" * 64, "9.8.7", "CC0-1.0", {"steps": 12, "sets": {"drawn": 10}})


class Exported(NamedTuple):
    network: StyleMatte
    model: onnx.ModelProto


@pytest.fixture(scope="session", autouse=True)
def _traced_once(traced_once) -> None:
    """For every test here."""


@pytest.fixture(scope="session")
def exported() -> Exported:
    """A lively test network and its ONNX model; neither is to be changed."""
    network = lively("test")
    return Exported(network, export_onnx(network, ORIGIN))


@pytest.fixture(scope="session")
def shipped() -> Exported:
    """The same with what ships: the fine guided filter, and a prior that is listened to."""
    network = lively("test_nano")
    return Exported(network, export_onnx(network, ORIGIN))


@pytest.fixture
def images(rng):
    """Return as many images of 64×64 pixels as int8 calibration needs, (3, 64, 64) float32 noise."""
    return list(rng.random((FEWEST_PHOTOS, 3, 64, 64), np.float32))
