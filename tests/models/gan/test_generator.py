"""The generator: sizes and names as published, modulation, transforms, truncation, running means."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models.gan.generator import (
    FourierInput,
    Generator,
    GeneratorConfig,
    modulated_conv2d,
    plan_bands,
    rgba_of,
)
from stylematte.errors import InputError

TINY = {"z_dim": 12, "w_dim": 10, "channel_base": 128, "channel_max": 12, "layers": 5, "magnitude_beta": 0.0}


def lively(kind: str = "t", size_px: int = 32, **changes) -> Generator:
    """A random generator after one look at its own magnitudes, in evaluation mode."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(kind, size_px, **{**TINY, **changes})).eval()
    with torch.no_grad():
        for index in range(generator.config.layers + 1):
            getattr(generator.synthesis, generator.synthesis.names[index]).bias.normal_(0, 0.3)
        generator(torch.randn(8, generator.config.z_dim), update_emas=True)
    return generator


@pytest.mark.parametrize(
    ("kind", "size_px", "parameters", "names"),
    [
        (
            "t",
            1024,
            22_313_200,
            "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 L8_276_203 "
            "L9_532_128 L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_4",
        ),
        (
            "t",
            512,
            24_873_584,
            "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_84_512 L6_148_512 L7_148_483 L8_276_323 "
            "L9_276_215 L10_532_144 L11_532_96 L12_532_64 L13_512_64 L14_512_4",
        ),
    ],
)
def test_parameters_and_names(kind, size_px, parameters, names):
    generator = Generator(GeneratorConfig(kind, size_px))
    assert sum(p.numel() for p in generator.parameters()) == parameters  # without buffers
    assert " ".join(generator.synthesis.names) == names
    expected = {f"mapping.fc{i}.{part}" for i in (0, 1) for part in ("weight", "bias")} | {"mapping.w_avg"}
    expected |= {f"synthesis.input.{part}" for part in ("weight", "transform", "freqs", "phases")}
    expected |= {f"synthesis.input.affine.{part}" for part in ("weight", "bias")}
    layers = names.split()
    parts = ["weight", "bias", "magnitude_ema", "affine.weight", "affine.bias"]
    expected |= {f"synthesis.{layer}.{part}" for layer in layers for part in parts}
    expected |= {
        f"synthesis.{layer}.{part}" for layer in layers[:-1] for part in ("up_filter", "down_filter")
    }
    assert set(generator.state_dict()) == expected
    assert generator.synthesis.get_parameter(f"{layers[-1]}.weight").shape == (
        4,
        {1024: 32, 512: 64}[size_px],
        1,
        1,
    )


def test_kind_r():
    """Twice the channels, kernels of one pixel, radial filters but where the whole band is used."""
    t, r = (plan_bands(GeneratorConfig(kind, 512)) for kind in "tr")
    assert [b.side for b in t] == [b.side for b in r]
    assert all(abs(b.channels - 2 * a.channels) <= 1 for a, b in zip(t[:-1], r[:-1], strict=True))
    state = Generator(GeneratorConfig("r", 64, channel_base=512, channel_max=16)).state_dict()
    filters = [state[name].ndim for name in state if name.endswith("down_filter")]
    assert filters == [2] * 12 + [1] * 2
    assert all(
        t.shape[2:] == (1, 1)
        for name, t in state.items()
        if name.endswith(".weight") and ".L" in name and "affine" not in name
    )


def test_bands_of_the_paper():
    """First and last values of the schedule as appendix C gives them."""
    bands = plan_bands(GeneratorConfig("t", 1024))
    assert (bands[0].cutoff, bands[0].rate) == (2, 16)
    assert math.isclose(bands[0].half_width, 8 - 2)
    assert [b.cutoff for b in bands[12:]] == [512] * 3
    assert math.isclose(bands[13].half_width, 512 * 2**0.3 - 512)
    ratios = [b.cutoff / a.cutoff for a, b in itertools.pairwise(bands[:13])]
    assert all(math.isclose(ratio, 256 ** (1 / 12)) for ratio in ratios)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 48}, "48 is not a power"),
        ({"kind": "x"}, "'x' is neither"),
        ({"layers": 2}, "2 of 2 layers"),
    ],
)
def test_configurations_that_cannot_be_built(changes, message):
    with pytest.raises(InputError, match=message):
        GeneratorConfig(**changes)


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_convolution_against_a_loop(demodulate):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 8, 8), torch.randn(7, 5, 3, 3)
    styles, bias, gain = torch.randn(3, 5) + 1, torch.randn(7), 0.37
    found = modulated_conv2d(x, weight, styles, bias, demodulate, torch.tensor(gain))
    assert found.shape == (3, 7, 10, 10)
    for image in range(3):
        own = weight.double() * styles[image].double()[:, None, None]  # eq. 1
        if demodulate:
            own = own / own.square().sum((1, 2, 3), keepdim=True).sqrt()  # eq. 3
        expected = F.conv2d(x[image : image + 1].double() * gain, own, bias.double(), padding=2)
        assert torch.allclose(found[image : image + 1].double(), expected, rtol=0, atol=2e-5)


def fourier_input() -> FourierInput:
    torch.manual_seed(0)
    config = GeneratorConfig("t", 64, **TINY)
    return FourierInput(config, plan_bands(config)[0])


@torch.no_grad()
def test_the_input_moves_as_it_is_told():
    layer, w = fourier_input(), torch.randn(2, 10)
    still = layer(w)
    rate, side = layer.band.rate, layer.band.side
    move = torch.eye(3)
    move[0, 2], move[1, 2] = -3 / rate, 2 / rate  # looked up 3 samples to the left, 2 below
    moved = layer(w, move)
    assert torch.allclose(moved[..., :-2, 3:], still[..., 2:, :-3], atol=1e-4)
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = layer(w, torch.stack([turn, torch.eye(3)]))
    assert torch.allclose(turned[1], still[1], atol=1e-4)
    row, column = 4, 9
    # The place (x, y) from the middle is looked up at (-y, x).
    assert torch.allclose(turned[0, :, row, column], still[0, :, column, side - 1 - row], atol=1e-4)
    layer.transform.copy_(move)
    assert torch.equal(layer(w), moved)


@torch.no_grad()
def test_the_learned_transform():
    """(cosine, sine, x, y), all over the norm of the first two: turn, then shift."""
    layer, w = fourier_input(), torch.zeros(1, 10)
    layer.affine.bias.copy_(torch.tensor([0.0, 2.0, 0.5, -0.25]))
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    shift = torch.tensor([[1.0, 0.0, -0.25], [0.0, 1.0, 0.125], [0.0, 0.0, 1.0]])
    found = layer(w)
    layer.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert torch.allclose(found, layer(w, turn @ shift), atol=1e-4)


@torch.no_grad()
def test_frequencies_beyond_the_band_fade():
    layer, w = fourier_input(), torch.zeros(1, 10)
    assert layer(w, torch.diag(torch.tensor([1000.0, 1000.0, 1.0]))).abs().max() == 0
    assert (layer.freqs.norm(dim=1) <= layer.band.cutoff).all()


@torch.no_grad()
def test_truncation():
    generator, z = lively(), torch.randn(3, 12)
    full = generator(z)
    mean = generator(z, 0.0)
    assert torch.allclose(mean[0], mean[1], rtol=0, atol=1e-6)
    assert torch.allclose(mean[0], mean[2], rtol=0, atol=1e-6)
    each = generator(z, torch.tensor([1.0, 0.0, 0.5]))
    assert torch.allclose(each[0], full[0], rtol=0, atol=1e-5)
    assert torch.allclose(each[1], mean[1], rtol=0, atol=1e-5)
    assert torch.allclose(each[2], generator(z, 0.5)[2], rtol=0, atol=1e-5)
    assert (full[0] - full[1]).abs().mean() > 0.01


@torch.no_grad()
def test_the_same_noise_draws_the_same_image():
    generator, z = lively(), torch.randn(3, 12)
    images = generator(z)
    assert images.shape == (3, 4, 32, 32)
    assert torch.equal(generator(z), images)
    assert torch.allclose(generator(z[1:2]), images[1:2], rtol=0, atol=1e-5)
    assert torch.allclose(lively()(z), images, rtol=0, atol=0)


@torch.no_grad()
def test_running_means():
    generator = lively(magnitude_beta=0.75, w_average_beta=0.5)
    layer = generator.synthesis.L0_36_12
    z = torch.randn(4, 12)
    before, magnitude = generator.mapping.w_avg.clone(), layer.magnitude_ema.clone()
    images = generator(z)
    assert torch.equal(generator.mapping.w_avg, before)
    assert torch.equal(layer.magnitude_ema, magnitude)
    w = generator.mapping(z)
    square = generator.synthesis.input(w).square().mean()
    assert torch.equal(generator(z, update_emas=True).isfinite(), images.isfinite())
    assert torch.allclose(generator.mapping.w_avg, 0.5 * before + 0.5 * w.mean(0))
    assert torch.allclose(layer.magnitude_ema, 0.75 * magnitude + 0.25 * square)


@pytest.mark.parametrize("kind", ["t", "r"])
def test_gradients(kind):
    generator = lively(kind)
    z = torch.randn(2, 12, requires_grad=True)
    generator(z).square().mean().backward()
    for name, tensor in [("z", z), *generator.named_parameters()]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 0, name


def test_rgba():
    images = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 7.0]).expand(1, 4, 1, 6)
    assert torch.equal(rgba_of(images)[0, 3, 0], torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0, 1.0]))


def test_every_setting_is_kept():
    config = GeneratorConfig("r", 64)
    assert (config.channel_base, config.channel_max, config.kernel) == (65536, 1024, 1)
    assert GeneratorConfig(**dataclasses.asdict(config)) == config


@torch.no_grad()
def test_convolutions_in_bfloat16():
    generator, z = lively("t"), torch.randn(2, 12)
    expected = generator(z)
    found = generator.convolve_in(torch.bfloat16)(z)
    assert found.dtype == torch.float32
    assert 1e-4 < (found - expected).abs().mean() / expected.abs().mean() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["t", "r"])
@torch.no_grad()
def test_half_precision_on_a_gpu(kind):
    generator, z = lively(kind), torch.randn(2, 12)
    expected = generator(z)
    assert getattr(generator.synthesis, generator.synthesis.names[0]).in_half
    found = generator.cuda()(z.cuda()).cpu()
    assert (found - expected).abs().mean() < 0.01 * expected.abs().mean()
