"""Short training runs on drawn photos, for tests of the loop."""

import csv

import torch

from tests.training import drawn
from training.config import Stage
from training.loop import RunOptions, train

FIRST = Stage(
    "segmentation", 6, 2, (64, 96), 5e-3, warmup_steps=2, composite=0.5, coarse={"bce": 1.0, "dice": 1.0}
)

SECOND = Stage(
    "matting", 4, 2, (64, 96), 2e-3, 1.25, warmup_steps=1, fine={"l2": 1.0, "laplacian": 1.0}
)  # fmt: skip

RECIPE = drawn.recipe(FIRST, SECOND)


class KilledError(Exception):
    """Stands for a run that is killed."""


def run(data_root, mattes, out, recipe=RECIPE, report=lambda line: None, on_step=None, **changes):
    options = RunOptions(out, mattes, workers=0, every=3, **changes)
    return train(recipe, data_root, options, report=report, on_step=on_step)


def read_log(out) -> dict[str, dict[int, float]]:
    rows: dict[str, dict[int, float]] = {}
    with (out / "log.csv").open() as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return rows


def assert_same_state(one, other) -> None:
    """Equal to the last bit, whatever is nested in it."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same_state(*pair)
    else:
        assert one == other
