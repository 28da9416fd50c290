"""A stage that trains what follows priors, alone: several priors for each image, the rest frozen."""

import dataclasses

import torch
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import load_weights
from models.stylematte import build_model
from tests.models.networks import lively
from tests.training import drawn
from training.config import Stage
from training.estimate import estimate_run
from training.loop import RunOptions, train
from training.objective import Objective, stage_losses

PLAIN = Stage("first", 2, 2, (64, 96), 5e-3, warmup_steps=1, coarse={"bce": 1.0, "dice": 1.0})
SELECTION = dataclasses.replace(
    PLAIN, name="selection", prior=0.9, pairs=0.8, only_selection=True, priors_per_image=3
)


def test_a_stage_for_the_selection_alone():
    model = build_model("test_nano")
    objective = Objective(model, PLAIN)
    objective.begin(SELECTION)
    objective.train()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"selection.{name}" for name, _ in model.selection.named_parameters()}
    norms = {n: m.training for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert norms == {name: name.startswith("selection.") for name in norms}
    assert set(norms.values()) == {True, False}
    objective.begin(PLAIN)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_several_priors_of_an_image_are_as_many_images():
    model = lively("test_nano")
    objective = Objective(model, SELECTION).eval()
    batch = {"image": torch.rand(2, 3, 64, 96), "guide": torch.rand(2, 3, 64, 96)}
    batch |= {"prior": torch.rand(2, 3, 64, 96), "alpha": torch.rand(2, 3, 64, 96).round()}
    batch["weight"] = torch.rand(2, 1, 64, 96)
    with torch.no_grad():
        losses = objective(batch)
        singles = []
        for k in range(3):
            prediction = model(batch["image"], batch["guide"], batch["prior"][:, k : k + 1])
            labels = {"alpha": batch["alpha"][:, k : k + 1], "weight": batch["weight"]}
            small = {name: F.avg_pool2d(label, 4) for name, label in labels.items()}
            singles.append(stage_losses(SELECTION, prediction, small))
    assert set(losses) == {"coarse_bce", "coarse_dice"}
    for name, loss in losses.items():
        wanted = torch.stack([single[name] for single in singles]).mean()
        torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)


def test_a_run_of_the_selection_is_estimated_and_its_last_weights_are_the_best(data_root, mattes, tmp_path):
    recipe = dataclasses.replace(drawn.recipe(SELECTION), preset="test_nano")
    options = RunOptions(tmp_path / "run", mattes, device="cpu", workers=0, every=1)
    assert estimate_run(recipe, data_root, options).step_s > 0
    train(recipe, data_root, options)
    last, best = (load_weights(tmp_path / "run" / f"{name}.safetensors")[0] for name in ("last", "best"))
    assert last.selection.last.weight.any()
    for name, tensor in last.state_dict().items():
        torch.testing.assert_close(best.state_dict()[name], tensor, rtol=0, atol=0)
