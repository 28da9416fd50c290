"""The whole network: size, shapes, batches, half precision."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.fpn import HardSigmoid
from models.presets import PRESETS, Preset
from models.stylematte import MEAN, STD, StyleMatte, build_model
from models.upsamplers import Bilinear
from tests.models.networks import lively
from tests.models.references import guided_logits, sigmoid


@pytest.fixture
def model() -> StyleMatte:
    return lively("test")


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, 64, 96, generator=generator), torch.rand(3, 3, 101, 150, generator=generator)


def test_nano_is_small():
    assert sum(p.numel() for p in build_model("nano").parameters()) <= 4_000_000


SMALL = [
    PRESETS["nano"],
    PRESETS["test_nano"],
    PRESETS["test_swin"],
    PRESETS["test_official"],
    *(
        replace(PRESETS["test"], upsampler=u)
        for u in ("bilinear", "fast_gf", "conv_gf", "deep_gf", "fine_gf")
    ),
]


@pytest.mark.parametrize("preset", SMALL, ids=lambda p: f"{p.name}-{p.upsampler}")
def test_shapes_and_range(preset, images):
    image, guide = images
    with torch.inference_mode():
        prediction = lively(preset)(image, guide)
    assert prediction.fine_logits.shape == (3, 1, 101, 150)
    assert prediction.coarse_logits.shape == (3, 1, 16, 24)
    assert prediction.alpha.min() >= 0
    assert prediction.alpha.max() <= 1
    assert torch.equal(prediction.alpha, torch.sigmoid(prediction.fine_logits))


@pytest.mark.parametrize("preset", ["test", "test_nano", "test_swin", "test_official"])
def test_a_batch_is_its_images_one_by_one(preset, images):
    model, (image, guide) = lively(preset), images
    with torch.inference_mode():
        together = model(image, guide).fine_logits
        alone = [model(image[i : i + 1], guide[i : i + 1]).fine_logits for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1


def test_fine_logits_are_the_coarse_ones_filtered(model, images):
    image, guide = images
    with torch.inference_mode():
        coarse = model.coarse(image)
        prediction = model(image, guide)
    grey = ((guide[0].double().numpy().transpose(1, 2, 0) - MEAN) / STD).mean(2)
    arrays = (x[0, 0].double().numpy() for x in (coarse.guide, coarse.logits))
    wanted = guided_logits(*arrays, grey, model.preset.radius_px, model.preset.eps)
    np.testing.assert_allclose(prediction.alpha[0, 0], sigmoid(wanted), atol=1e-4)


def test_coarse_guide_is_the_grey_image_made_small(model):
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 64, 96)
    guide = model.coarse(ramp).guide
    corners = (ramp[0, :, 0, [0, -1]].T.numpy() - MEAN) / STD  # (2, 3)
    np.testing.assert_allclose(guide[0, 0, 0, [0, -1]].detach(), corners.mean(1), atol=1e-5)
    assert (guide[0, 0].diff(dim=1) > 0).all()


@pytest.mark.parametrize("preset", ["test", "test_nano", "test_swin"])
def test_half_precision_keeps_the_filter_in_full(preset, images):
    model = lively(preset)
    with torch.inference_mode():
        full = model(*images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(*images)
    assert half.fine_logits.dtype == half.coarse_logits.dtype == torch.float32
    assert not torch.equal(half.coarse_logits, full.coarse_logits)
    spread = full.coarse_logits.std()
    assert (half.coarse_logits - full.coarse_logits).abs().mean() < 0.05 * spread
    assert (half.alpha - full.alpha).abs().mean() < 0.02


@pytest.mark.parametrize("preset", ["nano", "test_nano"])
def test_no_prior_and_a_prior_of_zeros_are_the_same(preset, images):
    image, guide = images
    model = lively(preset)
    with torch.inference_mode():
        without = model(image, guide)
        zeros = model(image, guide, torch.zeros_like(image[:, :1]))
        half = model(image, guide, torch.rand(3, 1, 64, 96))
        assert torch.equal(model.coarse(image).logits, without.coarse_logits)
    assert torch.equal(without.fine_logits, zeros.fine_logits)
    assert torch.equal(without.coarse_logits, zeros.coarse_logits)
    assert (half.coarse_logits - without.coarse_logits).abs().mean() > 0.01


def test_a_fresh_network_ignores_priors(images):
    image, _ = images
    model = build_model("test_nano").eval()
    with torch.inference_mode():
        coarse = model.coarse(image, torch.rand(3, 1, 64, 96))
        assert torch.equal(coarse.logits, model.coarse(image).logits)
        assert coarse.logits.std() > 0


def test_a_prior_counts_where_it_lies_and_as_far_as_it_is_strong(images):
    image, _ = images
    model = lively("test_nano")
    prior = torch.zeros(3, 1, 64, 96)
    prior[0, :, :32, :32] = 1
    prior[1, :, 32:, 64:] = 1
    prior[2, :, :32, :32] = 0.1
    with torch.inference_mode():
        image = image[:1].expand(3, -1, -1, -1)
        changes = model.coarse(image, prior).logits - model.coarse(image).logits
    left, right, weak = changes.abs().mean((1, 2, 3))
    assert not torch.allclose(changes[0], changes[1], atol=1e-2)
    assert 0 < weak < left / 2
    assert right > 0


def test_the_selection_learns_alone(images):
    image, _ = images
    model = build_model("test_nano").train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("selection."))
    model.coarse(image, torch.rand(3, 1, 64, 96)).logits.square().mean().backward()
    assert model.selection.last.weight.grad.abs().max() > 0
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("selection."))


def test_networks_without_a_prior_refuse_one(images):
    image, guide = images
    with pytest.raises(ValueError, match="preset test does not take a prior"):
        build_model("test")(image, guide, image[:, :1])
    with pytest.raises(ValueError, match="encoder swinv2_test does not take a prior"):
        replace(PRESETS["test_swin"], prior=True)


def test_presets_have_their_own_names():
    assert all(name == preset.name for name, preset in PRESETS.items())


def test_a_changed_preset_builds_what_it_says():
    assert isinstance(build_model(replace(PRESETS["test"], upsampler="bilinear")).upsampler, Bilinear)


@pytest.mark.parametrize("preset", ["nano", "test", "test_nano"])
def test_levels_of_small_encoders(preset):
    encoder = build_model(preset).encoder
    levels = {name: encoder.level_of(name) for name, _ in encoder.named_parameters()}
    assert {level for name, level in levels.items() if name.startswith("stem.")} == {0}
    image, heights = torch.zeros(1, 3, 64, 64), {}
    for index, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda _, __, out, i=index: heights.__setitem__(i, out.shape[2]))
    encoder.eval()(image)
    for name, level in levels.items():
        if name.startswith("blocks."):  # a block at stride 2 leads to stride 4
            assert 2 ** (level + 1) == max(4, 64 // heights[int(name.split(".")[1])]), name


def test_swin_networks_learn(images):
    image, guide = images
    torch.manual_seed(0)
    model = build_model("test_swin").train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    target = (guide.mean(1, keepdim=True) > 0.5).float()
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(image, guide).fine_logits, target)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())  # processes that train together need all
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_small_networks_do_not_load_transformers():
    code = """
import sys
sys.modules["transformers"] = None
from models.stylematte import build_model
build_model("nano")
import training.backbone, models.released_checkpoints
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_preset_of_ones_own_and_an_unknown_name():
    wide = Preset("wide", encoder="mobilenet_v2_tiny", fpn_channels=24, radius_px=3)
    assert build_model(wide).upsampler.radius_px == 3
    with pytest.raises(KeyError, match="choose from nano, "):
        build_model("giant")


def test_the_gate_is_torchs_hard_sigmoid():
    x = torch.linspace(-5, 5, 201)
    torch.testing.assert_close(HardSigmoid()(x), torch.nn.functional.hardsigmoid(x), atol=1e-6, rtol=0)
