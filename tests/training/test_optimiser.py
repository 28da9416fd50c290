"""Learning rates of the parts and over time, and the average of the weights."""

import dataclasses

import numpy as np
import pytest
import torch

from models.stylematte import build_model
from tests.training.loop_runs import SECOND
from training.config import Stage
from training.optimiser import learning_rate, make_optimiser, set_rates, update_average


def test_learning_rate_rises_then_falls_to_a_fiftieth():
    stage = Stage("s", 100, 1, (64, 64), 1.0, warmup_steps=10)
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[55] == pytest.approx(0.02 + 0.98 / 2)  # half of the cosine
    assert learning_rate(stage, 100) == pytest.approx(0.02)
    assert (np.diff(rates[10:]) < 0).all()


def test_the_encoder_learns_slower_the_nearer_to_the_image_and_norms_do_not_decay():
    model = build_model("test")
    optimiser = make_optimiser(model, weight_decay=0.01)
    stage = dataclasses.replace(SECOND, encoder_rate=0.3, layer_decay=0.5)
    set_rates(optimiser, stage, step=2)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            rates[name] = group["lr"] / learning_rate(stage, 2)
            assert group["weight_decay"] == (0.01 if name.endswith("weight") and "norm" not in name else 0.0)
    assert set(rates) == set(names.values())
    # Blocks of the test encoder: strides 2, 4, 8, 16 and 32.
    for part, wanted in {
        "encoder.stem.conv.weight": 0.3 / 16,
        "encoder.blocks.0.project.conv.weight": 0.3 / 8,
        "encoder.blocks.1.project.norm.bias": 0.3 / 8,
        "encoder.blocks.2.expand.conv.weight": 0.3 / 4,
        "encoder.blocks.3.depthwise.conv.weight": 0.3 / 2,
        "encoder.blocks.4.project.conv.weight": 0.3,
        "fpn.narrow.conv.weight": 1.0,
        "head.bias": 1.0,
    }.items():
        assert rates[part] == pytest.approx(wanted), part


def test_the_average_follows_the_network():
    model, average = build_model("test"), build_model("test")
    before, target = average.head.weight.clone(), model.head.weight.detach()
    update_average(average, model, decay=0.9, step=10_000)
    torch.testing.assert_close(average.head.weight, 0.9 * before + 0.1 * target)
    update_average(average, model, decay=0.999, step=0)  # early on a tenth of the past
    torch.testing.assert_close(average.head.weight, 0.09 * before + 0.91 * target)
