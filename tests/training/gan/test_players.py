"""Who moves whom: gradients reach one side, and the second discriminator joins after its warm-up."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from models.gan.backbones import Frozen
from tests.training.gan import runs
from tests.training.test_loop import KilledError, assert_same_state
from training.checkpoint import load_state
from training.gan import players
from training.gan.config import Augmentation, GanRecipe, VisionAidedConfig
from training.gan.loop import GanOptions, train_gan
from training.gan.players import GanModels, Pass


class Pooling(Frozen):
    """A frozen "network": a map of 2×2 means and their mean."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.channels = [3, 3]
        self.seen: list[torch.Tensor] = []

    def forward(self, rgb):
        self.seen.append(rgb.detach().clone())
        return [nn.functional.avg_pool2d(rgb, rgb.shape[-1] // 4), rgb.mean((2, 3))]


@pytest.fixture
def pooling(monkeypatch) -> Pooling:
    made = Pooling()
    monkeypatch.setattr(players, "load_frozen", lambda name, source: made)
    return made


@pytest.fixture
def recipe(tmp_path) -> GanRecipe:
    plain = runs.load(tmp_path)
    return dataclasses.replace(
        plain,
        vision_aided=VisionAidedConfig("encoder", warmup_kimg=0.05),
        augmentation=Augmentation("none"),
    )


def one_pass(recipe: GanRecipe) -> Pass:
    torch.manual_seed(0)
    side = recipe.generator.size_px
    reals = torch.rand(8, 4, side, side) * 2 - 1
    reals[:, 3] = -1  # all of it transparent
    return Pass(torch.randn(8, recipe.generator.z_dim), reals, torch.full((8, 3, side, side), 0.25))


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_each_step_moves_one_side_alone(recipe, pooling):
    all_of_them = GanModels(recipe, Accelerator(cpu=True))
    one = one_pass(recipe)
    before = [snapshot(m) for m in (all_of_them.generator, all_of_them.discriminator)]
    heads = snapshot(all_of_them.vision_aided.heads)
    all_of_them.update_generator([one], 0, 0.0)
    assert moved(all_of_them.generator, before[0])
    assert not moved(all_of_them.discriminator, before[1])
    assert not moved(all_of_them.vision_aided.heads, heads)
    before[0] = snapshot(all_of_them.generator)
    all_of_them.update_discriminators([one], 0, 0.0)
    assert not moved(all_of_them.generator, before[0])
    assert moved(all_of_them.discriminator, before[1])
    assert moved(all_of_them.vision_aided.heads, heads)


def test_the_second_discriminator_teaches_after_its_warm_up(recipe, pooling):
    all_of_them = GanModels(recipe, Accelerator(cpu=True))
    one = one_pass(recipe)
    assert set(all_of_them.update_generator([one], 49, 0.0)) == {"generator"}
    assert pooling.seen == []
    assert set(all_of_them.update_generator([one], 50, 0.0)) == {"generator", "generator_vision"}
    assert set(all_of_them.update_discriminators([one], 1, 0.0)) == {"discriminator", "vision"}
    assert set(all_of_them.update_discriminators([one], 3, 0.0)) == {"discriminator", "vision", "r1"}


@pytest.mark.parametrize("reals", ["photos", "composites"])
def test_its_real_images_are_photos_or_composites(recipe, pooling, reals):
    recipe = dataclasses.replace(recipe, vision_aided=dataclasses.replace(recipe.vision_aided, reals=reals))
    all_of_them = GanModels(recipe, Accelerator(cpu=True))
    one = one_pass(recipe)
    all_of_them.update_generator([one], 0, 0.0)
    all_of_them.update_discriminators([one], 1, 0.0)
    expected = one.reals[:, :3] if reals == "photos" else one.backgrounds  # alpha is 0 everywhere
    assert torch.allclose(pooling.seen[0], expected)


def test_several_passes_are_one_step(recipe):
    """Without statistics over a batch, half the batch twice has the gradients of the whole."""
    plain = dataclasses.replace(
        recipe,
        vision_aided=VisionAidedConfig(),
        discriminator=dataclasses.replace(recipe.discriminator, group=1),
        batch_size=8,
    )
    results = []
    for parts in (1, 2):
        torch.manual_seed(1)
        all_of_them = GanModels(plain, Accelerator(cpu=True))
        discriminator = all_of_them.discriminator
        all_of_them.optimisers["discriminator"] = torch.optim.SGD(discriminator.parameters(), 0.1)
        passes = [Pass(*tensors) for tensors in zip(*(x.chunk(parts) for x in one_pass(plain)), strict=True)]
        all_of_them.fakes = [torch.zeros_like(p.reals) for p in passes]
        all_of_them.update_discriminators(passes, 0, 0.0)  # a step with the penalty
        results.append(snapshot(discriminator))
    for name, tensor in results[0].items():
        assert torch.allclose(tensor, results[1][name], atol=1e-6), name


def test_the_losses_scale_changes_no_step(recipe, pooling):
    weights = []
    for scale in (1.0, players.LOSS_SCALE):
        torch.manual_seed(3)
        all_of_them = GanModels(recipe, Accelerator(cpu=True))
        assert all_of_them.loss_scale == 1
        all_of_them.loss_scale = scale
        all_of_them.update_generator([one_pass(recipe)], 1000, 0.0)
        weights.append(snapshot(all_of_them.generator))
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name  # a power of two moves exponents alone


def test_the_average_is_a_mean_of_weights(recipe, pooling):
    all_of_them = GanModels(recipe, Accelerator(cpu=True))
    before = snapshot(all_of_them.average)
    with torch.no_grad():
        for parameter in all_of_them.generator.parameters():
            parameter.add_(1.0)
    half_life = recipe.batch_size * 10 / 32 * 1000
    all_of_them.update_average(10**9)
    share = 1 - 0.5 ** (recipe.batch_size / half_life)
    for name, parameter in all_of_them.average.named_parameters():
        assert torch.allclose(parameter, before[name] + share, atol=1e-6)
    all_of_them.update_average(0)  # at the start nothing is remembered
    assert not moved(all_of_them.average, snapshot(all_of_them.generator))


def test_the_augmentation_follows_what_the_discriminator_knows(recipe, pooling):
    recipe = dataclasses.replace(recipe, augmentation=Augmentation("ada", 0.5, kimg=0.064))
    all_of_them = GanModels(recipe, Accelerator(cpu=True))
    all_of_them.signs.copy_(torch.tensor([30.0, 32.0]))
    all_of_them.adapt(2)
    assert float(all_of_them.augment.p) == 0.5  # not yet: every fourth step
    all_of_them.adapt(3)
    assert float(all_of_them.augment.p) == 1.0  # 32 images of 64
    assert all_of_them.signs.tolist() == [0, 0]
    all_of_them.signs.copy_(torch.tensor([-8.0, 32.0]))
    all_of_them.adapt(7)
    assert float(all_of_them.augment.p) == 0.5


def test_a_fixed_probability_stays(recipe, pooling):
    recipe = dataclasses.replace(recipe, augmentation=Augmentation("fixed", 0.3))
    all_of_them = GanModels(recipe, Accelerator(cpu=True))
    all_of_them.signs.copy_(torch.tensor([32.0, 32.0]))
    all_of_them.adapt(3)
    assert float(all_of_them.augment.p) == pytest.approx(0.3)


def test_a_run_with_both_goes_on_exactly(tmp_path, pooling, monkeypatch):
    root = runs.draw_faces(tmp_path / "data")
    text = f'backgrounds = {{ folder = "{runs.BACKGROUNDS}" }}\n' + runs.TOML
    text += '[vision_aided]\nbackbone = "encoder"\nwarmup_kimg = 0.02\n'
    recipe = runs.load(tmp_path, text)
    lines: list[str] = []
    train_gan(recipe, root, GanOptions(tmp_path / "whole", tmp_path, workers=0), lines.append)
    assert (
        lines[0]
        == "StyleGAN3-T, 16 px; 12 images over 3 backgrounds, with a second discriminator on an encoder"
    )

    def dies(done):
        if done == 9:
            raise KilledError

    options = GanOptions(tmp_path / "run", tmp_path, workers=0)
    with pytest.raises(KilledError):
        train_gan(recipe, root, options, lines.append, on_step=dies)
    train_gan(recipe, root, options, lines.append)
    states = [load_state(tmp_path / folder / "state.pt") for folder in ("whole", "run")]
    assert_same_state(*states)
    assert not any(name.startswith("backbone") for name in states[0]["players"]["vision_aided"])
