"""Distillation: what a teacher says, where it is asked, and that a student listens."""

import dataclasses

import numpy as np
import pytest
import torch

from models.checkpoints import save_weights
from models.stylematte import build_model
from tests.models.networks import lively
from tests.training import drawn
from training.config import DataSet, RecipeError, Stage
from training.data.dataset import MattingDataset
from training.loop import RunOptions, train
from training.teacher import Teacher

STAGE = Stage(
    "alphas",
    20,
    4,
    (64, 96),
    1e-2,
    encoder_rate=1.0,
    warmup_steps=2,
    composite=0.0,
    fine={"l2": 1.0, "bce": 1.0},
)
RECIPE = dataclasses.replace(drawn.recipe(STAGE), sets=(DataSet(".", "unlabelled", 1.0, "photos"),))


@pytest.fixture
def teacher() -> Teacher:
    return Teacher(lively("test", seed=2))


def images(seed: int, size=(96, 64)) -> torch.Tensor:
    noise = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size, mode="bicubic").clamp(0, 1)


def test_a_label_is_the_mean_over_the_mirror_image_weighed_by_agreement(teacher):
    batch = images(0)
    alpha, weight = teacher.label(batch)
    small = torch.nn.functional.interpolate(batch, (160, 96), mode="bilinear", antialias=True)
    with torch.inference_mode():
        one = teacher.model(small, batch).alpha
        other = teacher.model(small.flip(-1), batch.flip(-1)).alpha.flip(-1)
    torch.testing.assert_close(alpha, (one + other) / 2)
    torch.testing.assert_close(weight, 1 - (one - other).abs())
    assert weight.min() < 0.9  # they disagree somewhere
    mirrored = [x.flip(-1) for x in teacher.label(batch.flip(-1))]
    for got, wanted in zip(mirrored, (alpha, weight), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)  # through the network from the other end


def test_it_is_asked_only_where_the_label_says_nothing(teacher, monkeypatch):
    guide = images(1)
    alpha, weight = torch.rand(3, 1, 96, 64), torch.rand(3, 1, 96, 64) / 2 + 0.5
    weight[0] = 0
    weight[2, :, :10] = 0
    answer, agreement = teacher.label(guide[[0, 2]])
    asked = []
    label = teacher.label
    monkeypatch.setattr(teacher, "label", lambda x: asked.append(len(x)) or label(x))
    filled = teacher.fill({"guide": guide, "alpha": alpha, "weight": weight})
    assert asked == [2]
    for name, said, known in (("alpha", answer, alpha), ("weight", agreement, weight)):
        torch.testing.assert_close(filled[name][0], said[0])
        torch.testing.assert_close(filled[name][2, :, :10], said[1, :, :10])
        assert torch.equal(filled[name][1], known[1])
        assert torch.equal(filled[name][2, :, 10:], known[2, :, 10:])
    assert (weight[0] == 0).all()  # the batch it was given stays as it was
    full = {"guide": guide, "alpha": alpha, "weight": torch.ones_like(weight)}
    assert teacher.fill(full) is full


def test_a_teacher_never_learns(teacher, tmp_path, mattes, photos):
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, stages=(dataclasses.replace(STAGE, steps=2),))
    train(recipe, photos, RunOptions(tmp_path, mattes, workers=0), report=lambda line: None, teacher=teacher)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.model.state_dict().items())
    assert not any(p.requires_grad for p in teacher.model.parameters())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve photos without labels."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(4)
    for number in range(12):
        drawn.save(root / f"photo_{number}.png", drawn.sample_image(rng)[0])
    return root


def test_twenty_steps_bring_a_student_closer(teacher, tmp_path, mattes, photos):
    options = RunOptions(tmp_path, mattes, workers=0, every=20)
    scores = train(RECIPE, photos, options, report=lambda line: None, teacher=teacher)
    assert set(scores) == {"iou", "band", "iou/.", "band/."}
    torch.manual_seed(RECIPE.seed)
    fresh, student = build_model("test").eval(), build_model("test").eval()
    student.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)["model"])
    dataset = MattingDataset(photos, mattes, RECIPE, 0)
    seen = [dataset[i]["guide"][None] for i in range(1000, 1008)]  # views that no step drew
    with torch.inference_mode():
        gaps = [
            np.mean([(model(x, x).alpha - teacher.label(x)[0]).abs().mean() for x in seen])
            for model in (fresh, student)
        ]
    assert gaps[1] < 0.8 * gaps[0]


def test_without_a_teacher_photos_without_labels_are_refused(tmp_path, mattes, photos):
    with pytest.raises(RecipeError, match="its photos have no labels; give a teacher"):
        train(RECIPE, photos, RunOptions(tmp_path / "out", mattes, workers=0))
    assert not (tmp_path / "out").exists()


def test_it_is_read_from_weights(teacher, tmp_path):
    save_weights(teacher.model, tmp_path / "w.safetensors")
    read = Teacher.load(tmp_path / "w.safetensors")
    for got, wanted in zip(read.label(images(3)), teacher.label(images(3)), strict=True):
        assert torch.equal(got, wanted)
