"""StyleGAN3 for RGBA portraits: noise in, straight colour and alpha out.

Reference:
    Karras et al., "Alias-Free Generative Adversarial Networks", 2021; configurations T and R.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.gan.alias_free import FilteredLeakyReLU, lowpass_filter
from models.gan.layers import EqualisedLinear
from stylematte.errors import InputError


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything needed to build a generator; the defaults are those of the paper.

    Attributes:
        kind: "t" is equivariant to translation; "r" to rotation as well, with 1×1 kernels, twice the
            channels and radial filters.
        size_px: Side of the images, a power of two.
        channels: 4 for RGBA, 3 for RGB.
        z_dim: Length of the noise vectors.
        w_dim: Length of the intermediate vectors.
        mapping_layers: Layers of the mapping network.
        channel_base: A layer has `channel_base / (2 · cutoff)` channels; 0 selects the default of `kind`.
        channel_max: Maximum number of channels; 0 selects the default of `kind`.
        layers: Layers with filters, not counting the last layer (to RGB or RGBA).
        critical_layers: Number of critically sampled layers at the end.
        first_cutoff: Cutoff frequency of the first layer, in cycles per image.
        first_stopband: Stopband frequency of the first layer.
        last_stopband_rel: Stopband frequency of the last layer, relative to its cutoff.
        margin: Pixels beyond the image border, on each side.
        filter_taps: Taps per filter, to be multiplied by its resampling factor.
        kernel: Side of the convolution kernels; 0 selects the default of `kind`.
        slope: Slope of the leaky ReLU.
        clamp: Largest magnitude of an activation.
        output_gain: Factor applied to the output.
        magnitude_beta: Decay of the running mean of an input's squared magnitude.
        w_average_beta: Decay of the running mean of the intermediate vectors.
        fp16_octaves: On a GPU, layers within this many octaves of the image's rate run in float16.
    """

    kind: Literal["t", "r"] = "t"
    size_px: int = 256
    channels: int = 4
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    channel_base: int = 0
    channel_max: int = 0
    layers: int = 14
    critical_layers: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin: int = 10
    filter_taps: int = 6
    kernel: int = 0
    slope: float = 0.2
    clamp: float = 256.0
    output_gain: float = 0.25
    magnitude_beta: float = 0.999
    w_average_beta: float = 0.998
    fp16_octaves: int = 4

    def __post_init__(self) -> None:
        """Fill in the defaults of the kind, and reject what cannot be built."""
        if self.kind not in ("t", "r"):
            raise InputError(f"kind {self.kind!r} is neither 't' nor 'r'")
        if self.size_px < 16 or self.size_px & (self.size_px - 1):
            raise InputError(f"size_px {self.size_px} is not a power of two of at least 16")
        if not 0 <= self.critical_layers < self.layers:
            raise InputError(f"critical_layers {self.critical_layers} of {self.layers} layers")
        own = {"t": (32768, 512, 3), "r": (65536, 1024, 1)}[self.kind]
        for name, value in zip(("channel_base", "channel_max", "kernel"), own, strict=True):
            if not getattr(self, name):
                object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Band:
    """A layer's signal; frequencies are in cycles per image.

    Attributes:
        cutoff: Cutoff frequency.
        half_width: Half the transition band.
        rate: Samples per image side.
        side: Samples per side including the margin.
        channels: Feature maps.

    Reference:
        Karras et al., 2021, section 3.2 and figure 4c.
    """

    cutoff: float
    half_width: float
    rate: int
    side: int
    channels: int


def plan_bands(config: GeneratorConfig) -> list[Band]:
    """Return the signal after every layer, including the last (to RGB or RGBA): `config.layers` + 1.

    Cutoff and stopband grow geometrically up to the first critically sampled layer.
    """
    last_cutoff = config.size_px / 2
    last_stopband = last_cutoff * config.last_stopband_rel
    bands = []
    for index in range(config.layers + 1):
        share = min(index / (config.layers - config.critical_layers), 1)
        cutoff = config.first_cutoff * (last_cutoff / config.first_cutoff) ** share
        stopband = config.first_stopband * (last_stopband / config.first_stopband) ** share
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, config.size_px)))
        outer = 2 * config.margin if index < config.layers - 1 else 0
        channels = round(min(config.channel_base / 2 / cutoff, config.channel_max))
        half_width = max(stopband, rate / 2) - cutoff
        bands.append(Band(cutoff, half_width, int(rate), int(rate) + outer, channels))
    bands[-1] = dataclasses.replace(bands[-1], channels=config.channels)
    return bands


class Mapping(nn.Module):
    """Mapping network: noise to intermediate vectors, with their running mean."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.beta = config.w_average_beta
        self.count = config.mapping_layers
        for index in range(self.count):
            inputs = config.w_dim if index else config.z_dim
            setattr(self, f"fc{index}", EqualisedLinear(inputs, config.w_dim, rate=0.01))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, truncation: float | Tensor = 1.0, update_emas: bool = False) -> Tensor:
        """Map noise.

        Args:
            z: (N, z_dim) float32, standard normal.
            truncation: ψ: 1 for no truncation, 0 for the mean vector; one value for all, or (N,).
            update_emas: Update the running mean with this batch.

        Returns:
            (N, w_dim) float32.
        """
        w = z.float()
        w = w * (w.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for index in range(self.count):
            w = F.leaky_relu(getattr(self, f"fc{index}")(w), 0.2) * math.sqrt(2)
        if update_emas:
            self.w_avg.copy_(w.detach().mean(0).lerp(self.w_avg, self.beta))
        if isinstance(truncation, Tensor):
            return self.w_avg.lerp(w, truncation.to(w)[:, None])
        return w if truncation == 1 else self.w_avg.lerp(w, truncation)


class FourierInput(nn.Module):
    """Fourier features from a disc of frequencies, transformed by w and by the user, then mixed."""

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, config: GeneratorConfig, band: Band) -> None:
        super().__init__()
        self.band = band
        # Uniform over the disc that the first filter passes.
        angle, radius = 2 * math.pi * torch.rand(band.channels), torch.rand(band.channels).sqrt()
        direction = torch.stack([angle.cos(), angle.sin()], 1)
        self.weight = nn.Parameter(torch.randn(band.channels, band.channels))
        self.affine = EqualisedLinear(config.w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", direction * radius[:, None] * band.cutoff)
        self.register_buffer("phases", torch.rand(band.channels) - 0.5)

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """Generate the input.

        Args:
            w: (N, w_dim) float32.
            transform: (3, 3) or (N, 3, 3): maps image coordinates to input coordinates, in image sides from
                the centre; the inverse of the visible movement. None: use the buffer `transform`.

        Returns:
            (N, channels, side, side) float32.

        Reference:
            Karras et al., 2021, section 3.1 and appendix F: learned rotation and translation.
        """
        given = self.transform if transform is None else transform.to(w)
        lookup = _learned_lookup(self.affine(w)) @ given
        freqs = self.freqs @ lookup[:, :2, :2]  # (N, C, 2)
        phases = self.phases + (self.freqs @ lookup[:, :2, 2:]).squeeze(2)  # (N, C)
        # A transform may push frequencies beyond the band; fade them out.
        room = self.band.rate / 2 - self.band.cutoff
        amplitudes = (1 - (freqs.norm(dim=2) - self.band.cutoff) / room).clamp(0, 1)
        side = self.band.side
        ticks = (torch.arange(side, device=w.device) - (side - 1) / 2) / self.band.rate
        turns = (
            freqs[:, :, 0, None, None] * ticks
            + freqs[:, :, 1, None, None] * ticks[:, None]
            + phases[:, :, None, None]
        )  # (N, C, side, side)
        waves = torch.sin(2 * math.pi * turns) * amplitudes[:, :, None, None]
        mixing = self.weight / math.sqrt(self.band.channels)
        return F.conv2d(waves, mixing[:, :, None, None])


def _learned_lookup(t: Tensor) -> Tensor:
    """(N, 4) unnormalised cosine, sine, x, y → (N, 3, 3): inverse of a rotation followed by a translation."""
    cosine, sine, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    turn = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], 1).view(-1, 3, 3)
    shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1).view(-1, 3, 3)
    return turn @ shift


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU; the last layer (to RGB or RGBA) only convolves."""

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self, config: GeneratorConfig, before: Band, after: Band, critical: bool, last: bool
    ) -> None:
        super().__init__()
        self.last, self.beta, self.clamp = last, config.magnitude_beta, config.clamp
        self.kernel = 1 if last else config.kernel
        self.product_dtype: torch.dtype | None = None  # of the convolution; None: the signal's
        self.in_half = after.rate * 2**config.fp16_octaves > config.size_px
        self.weight = nn.Parameter(torch.randn(after.channels, before.channels, self.kernel, self.kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.affine = EqualisedLinear(config.w_dim, before.channels, start=1.0)
        self.register_buffer("magnitude_ema", torch.ones([]))
        if last:
            return
        rate = 2 * max(before.rate, after.rate)
        up, down = rate // before.rate, rate // after.rate
        up_filter = lowpass_filter(config.filter_taps * up, before.cutoff, 2 * before.half_width, rate)
        radial = config.kind == "r" and not critical
        down_filter = lowpass_filter(
            config.filter_taps * down, after.cutoff, 2 * after.half_width, rate, radial
        )
        self.register_buffer("up_filter", up_filter.float())
        self.register_buffer("down_filter", down_filter.float())
        self.activation = FilteredLeakyReLU(
            up_filter,
            down_filter,
            factors=(up, down),
            sizes=(before.side + self.kernel - 1, after.side),
            slope=config.slope,
            gain=math.sqrt(2),
            clamp=config.clamp,
        )

    def forward(self, x: Tensor, w: Tensor, update_emas: bool = False) -> Tensor:
        """(N, input channels, side, side) and (N, w_dim) → (N, output channels, output side, output side)."""
        x = x.to(torch.float16 if self.in_half and x.is_cuda else torch.float32)
        if update_emas:
            square = x.detach().float().square().mean()
            self.magnitude_ema.copy_(square.lerp(self.magnitude_ema, self.beta))
        styles = self.affine(w)
        if self.last:
            styles = styles / math.sqrt(self.weight.shape[1])
        x = modulated_conv2d(
            x,
            self.weight,
            styles,
            self.bias,
            demodulate=not self.last,
            input_gain=self.magnitude_ema.rsqrt(),
            product_dtype=self.product_dtype,
        )
        return x.clamp(-self.clamp, self.clamp) if self.last else self.activation(x)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    demodulate: bool = True,
    input_gain: Tensor | None = None,
    product_dtype: torch.dtype | None = None,
) -> Tensor:
    """Convolve every image with shared kernels whose input channels are scaled by its style.

    Scaling the channels of the input instead, and those of the output for the demodulation, gives the same
    result with one convolution for the whole batch.

    Args:
        x: (N, I, h, w), float32 or float16.
        weight: (O, I, k, k) float32.
        styles: (N, I) float32.
        bias: (O,) float32, added at the end.
        demodulate: Normalise every output channel's kernel to unit norm.
        input_gain: Scalar factor of the input, which demodulation does not undo.
        product_dtype: Type in which inputs and kernels are multiplied; None: the input's.

    Returns:
        (N, O, h + k - 1, w + k - 1) in the input's dtype.

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, eq. 1 to 3; Karras et
        al., 2021, section 3.2 for the input's gain.
    """
    scale = styles
    if demodulate:
        # Normalise kernels and styles so that their products stay within float16.
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        weight = weight / math.sqrt(weight[0].numel())
        scale = styles = styles * styles.square().mean(1, keepdim=True).rsqrt()
    if input_gain is not None:
        scale = styles * input_gain
    dtype = product_dtype or x.dtype
    scaled = (x * scale.to(x.dtype)[:, :, None, None]).to(dtype)
    y = F.conv2d(scaled, weight.to(dtype), padding=weight.shape[-1] - 1).to(x.dtype)
    bias = bias.to(y.dtype)[:, None, None]
    if not demodulate:
        return y + bias
    norm = (styles.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()  # (N, O)
    return torch.addcmul(bias, y, norm.to(y.dtype)[:, :, None, None])


class Synthesis(nn.Module):
    """Synthesis network: intermediate vectors to images."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.output_gain = config.output_gain
        bands = plan_bands(config)
        self.input = FourierInput(config, bands[0])
        self.names: list[str] = []
        before = bands[0]
        for index, after in enumerate(bands):
            name = f"L{index}_{after.side}_{after.channels}"
            critical = index >= config.layers - config.critical_layers
            layer = SynthesisLayer(config, before, after, critical, last=index == config.layers)
            setattr(self, name, layer)
            self.names.append(name)
            before = after

    def forward(self, w: Tensor, transform: Tensor | None = None, update_emas: bool = False) -> Tensor:
        """(N, w_dim) float32 → (N, channels, size, size) float32; see `Generator.forward`."""
        x = self.input(w, transform)
        for name in self.names:
            x = getattr(self, name)(x, w, update_emas)
        return x.float() * self.output_gain


class Generator(nn.Module):
    """StyleGAN3, with the tensor names of the published files."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def convolve_in(self, dtype: torch.dtype) -> "Generator":
        """Multiply in another type in all convolutions but the last (to RGB or RGBA); returns itself.

        bfloat16 is faster on CPUs that have instructions for it. Filters and sums remain in float32.
        """
        for name in self.synthesis.names[:-1]:
            getattr(self.synthesis, name).product_dtype = dtype
        return self

    def forward(
        self,
        z: Tensor,
        truncation: float | Tensor = 1.0,
        transform: Tensor | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Generate images.

        Args:
            z: (N, z_dim) float32, standard normal.
            truncation: ψ: 1 for no truncation, 0 for the mean image; one value for all, or (N,).
            transform: (3, 3) or (N, 3, 3), see `FourierInput.forward`.
            update_emas: Update the running means of intermediate vectors and magnitudes, for training.

        Returns:
            (N, channels, size, size) float32, nominally in [-1, 1]: straight RGB, then alpha; `rgba_of`
            converts it to [0, 1].
        """
        return self.synthesis(self.mapping(z, truncation, update_emas), transform, update_emas)


def rgba_of(images: Tensor) -> Tensor:
    """Convert a generator's output (N, 4, H, W) to straight RGB and alpha in [0, 1], clamped."""
    return (images * 0.5 + 0.5).clamp(0, 1)
