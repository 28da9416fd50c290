"""Fine-tune a generator: match the distribution of its images' features with that of real images.

    python -m training.gan.feature_matching REALS --weights BEFORE.safetensors \
        --backbone-weights MOBILENET.safetensors --out AFTER.safetensors

REALS is a folder of RGBA images. There is no discriminator: the loss is the maximum mean discrepancy (MMD) of
features of a frozen ImageNet encoder, of the images as stored and of composites over grey. A generator that
has been trained adversarially improves within some thousand images, on a CPU as well; from random weights,
train it first (`stylematte train gan/…`).

References:
    Li, Swersky, Zemel, "Generative Moment Matching Networks", 2015; dos Santos et al., "Learning Implicit
    Generative Models by Matching Perceptual Features", 2019; Bińkowski et al., "Demystifying MMD GANs", 2018,
    section 3 (the rational quadratic kernel).
"""

import argparse
import copy
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import load_encoder
from models.encoder import Encoder
from models.gan.backbones import Frozen
from models.gan.checkpoints import load_generator, save_generator
from models.gan.generator import Generator, rgba_of
from models.stylematte import MEAN, STD
from stylematte.errors import InputError
from stylematte.files import sha256_of
from training.data.readers import DataError
from training.gan.data import Source, read_rgba
from training.gan.sheets import draw
from training.optimiser import update_average
from training.progress import Progress

SCALES = (0.2, 0.5, 1.0, 2.0)  # α of the rational quadratic kernels
GRID = 4  # cells per side in which features are averaged
COLOUR_GRID = 16
IMPORTANCE = (0.5, 1.0, 1.0, 1.5, 2.0, 1.0)  # of each level of features
ALPHA_WEIGHT = 100.0  # holds alpha near the one before: MMD changes colours
RANGE_WEIGHT = 0.5  # against colours beyond [0, 1]
WARMUP_STEPS = 20
STEADY = 0.6  # share of the run before the learning rate falls
AVERAGE_DECAY = 0.995
SAVE_SECONDS = 60.0
_RECORDED = ("steps", "batch", "recent", "learning_rate", "precision", "seed")
_ROWS = 512
_BATCH = 16  # without gradients; a larger one is slower on CPUs


class Features(Frozen):
    """Features of images from several depths of a frozen encoder, averaged over cells.

    Args:
        encoder: Encoder for RGB normalised with ImageNet's mean and standard deviation.
        side: Images are resized to this many pixels, a multiple of the encoder's.
    """

    def __init__(self, encoder: Encoder, side: int = 128) -> None:
        super().__init__(encoder, MEAN, STD)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.side = side

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Compute features.

        Args:
            rgb: (N, 3, h, w) float32 in [0, 1].

        Returns:
            (N, d) float32 each: colours, maps at strides 4, 8 and 16, the mean of the last map, and standard
            deviations of the three maps.
        """
        x = self.normalise(rgb * 2 - 1, self.side).contiguous(memory_format=torch.channels_last)
        *maps, last = self.network(x)[-4:]
        means = [F.adaptive_avg_pool2d(one, GRID).flatten(1) for one in maps]
        spread = torch.cat([one.flatten(2).std(2) for one in maps], 1)
        colours = F.adaptive_avg_pool2d(rgb, COLOUR_GRID).flatten(1)
        return [colours, *means, last.mean((2, 3)), spread]


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of rational quadratic kernels of (N, d) and (M, d): (N, M); 1 each for equal rows.

    Distances are mean squares over the d features, so kernels do not depend on d.
    """
    squares = a.square().mean(1)[:, None] + b.square().mean(1) - 2 * a @ b.T / a.shape[1]
    squares = squares.clamp(min=0)
    return torch.stack([(1 + squares / (2 * scale)) ** -scale for scale in SCALES]).sum(0)


def views(rgba: Tensor) -> list[Tensor]:
    """Return (N, 4, h, w) in [0, 1] as stored and over grey, (N, 3, h, w); alpha gets no gradient."""
    rgb, alpha = rgba[:, :3], rgba[:, 3:].detach()
    return [rgb, rgb * alpha + 0.5 * (1 - alpha)]


class Matcher:
    """The loss: MMD of standardised features to those of all real images.

    Args:
        features: The frozen encoder.
        reals: (M, 4, h, w) uint8 RGBA; mirrored copies are added.
        recent: Number of generated images whose features are kept: a batch is compared with the images of
            the last steps, too. With many, they are out of date, and training oscillates.

    Attributes:
        reals: By view and level, (2 M, d), standardised.
        likeness: By view and level, the mean kernel of two real images.
        recent: The same for the generated images of the last steps.
    """

    def __init__(self, features: Features, reals: Tensor, recent: int) -> None:
        self.features, self.kept = features, recent
        both = [part for batch in reals.split(_BATCH) for part in (batch, batch.flip(3))]
        plain = self._measure([batch.float() / 255 for batch in both])
        self.mean = [[level.mean(0) for level in view] for view in plain]
        self.deviation = [[level.std(0) + 1e-4 for level in view] for view in plain]
        self.reals = self._standardised(plain)
        self.likeness = [[_off_diagonal(level) for level in view] for view in self.reals]
        self.recent: list[list[Tensor]] = [[level[:0] for level in view] for view in self.reals]

    def loss(self, rgba: Tensor) -> Tensor:
        """Return the part of the MMD that depends on a batch, (N, 4, h, w) in [0, 1], and remember it."""
        found = self._standardised([self.features(view) for view in views(rgba)])
        total = rgba.new_zeros(())
        for view, levels in enumerate(found):
            for level, (mine, weight) in enumerate(zip(levels, IMPORTANCE, strict=True)):
                others = self.recent[view][level]
                apart = kernel(mine, others).mean() if len(others) else 0.0
                total = total + weight * 2 * (apart - kernel(mine, self.reals[view][level]).mean())
        self.remember(found)
        return total

    def remember(self, found: list[list[Tensor]]) -> None:
        """Append the features of generated images, and drop the oldest."""
        self.recent = [
            [torch.cat([old, new.detach()])[-self.kept :] for old, new in zip(*pair, strict=True)]
            for pair in zip(self.recent, found, strict=True)
        ]

    @torch.no_grad()
    def distance(self, images: list[Tensor]) -> float:
        """Return the MMD² of batches of images (N, 4, h, w) in [0, 1], the mean over views and levels."""
        found = self._standardised(self._measure(images))
        sums = []
        for view in zip(found, self.reals, self.likeness, strict=True):
            for ours, theirs, likeness in zip(*view, strict=True):
                sums.append(float(_off_diagonal(ours) + likeness - 2 * kernel(ours, theirs).mean()))
        return sum(sums) / len(sums)

    @torch.no_grad()
    def _measure(self, batches: list[Tensor]) -> list[list[Tensor]]:
        found = [[self.features(view) for view in views(batch)] for batch in batches]
        return [
            [torch.cat(level) for level in zip(*(batch[view] for batch in found), strict=True)]
            for view in range(2)
        ]

    def _standardised(self, found: list[list[Tensor]]) -> list[list[Tensor]]:
        return [
            [(x - m) / s for x, m, s in zip(*triple, strict=True)]
            for triple in zip(found, self.mean, self.deviation, strict=True)
        ]


def _off_diagonal(x: Tensor) -> float:
    """Return the mean kernel of two different rows, from some rows at a time: all pairs take much memory."""
    total = 0.0
    for number, rows in enumerate(x.split(_ROWS)):
        values = kernel(rows, x)
        total += float(values.sum() - values.diagonal(number * _ROWS).sum())
    return total / (len(x) * (len(x) - 1))


def read_reals(folder: Path, size_px: int) -> Tensor:
    """Read the RGBA images of a folder: (M, 4, size_px, size_px) uint8.

    Raises:
        DataError: There are fewer than two, or one of them has no alpha.
    """
    files = sorted(folder.glob("*.png"))
    if len(files) < 2:
        raise DataError(f"{folder}: needs at least two RGBA images (.png)")
    return torch.from_numpy(np.stack([read_rgba(Source(file, None), size_px) for file in files]))


def learning_rate(base: float, step: int, share: float) -> float:
    """Return the rate at a step, after a share of the run: it rises, is steady, and falls to a twentieth."""
    falling = 1 if share < STEADY else max(0.05, (1 - share) / (1 - STEADY))
    return base * min(1.0, (step + 1) / WARMUP_STEPS) * falling


def match(
    generator: Generator, matcher: Matcher, arguments: argparse.Namespace, save: Callable[[Generator], None]
) -> Generator:
    """Fine-tune a generator.

    Args:
        generator: Is changed.
        matcher: The loss.
        arguments: See `main`.
        save: Called every `SAVE_SECONDS` and at the end with the moving average of the weights.

    Returns:
        This average.
    """
    before = copy.deepcopy(generator).requires_grad_(False)
    average = copy.deepcopy(generator).requires_grad_(False)
    if arguments.precision == "bf16":
        generator.convolve_in(torch.bfloat16)
        before.convolve_in(torch.bfloat16)
    parameters = list(generator.parameters())
    optimiser = torch.optim.Adam(parameters, arguments.learning_rate, betas=(0.5, 0.99))
    noise = torch.Generator().manual_seed(arguments.seed)

    def sample() -> Tensor:
        return torch.randn(arguments.batch, generator.config.z_dim, generator=noise)

    with torch.no_grad():
        for _ in range(math.ceil(matcher.kept / arguments.batch)):
            matcher.loss(rgba_of(before(sample())))
    progress = Progress(_say, arguments.steps, 0, arguments.steps, shows_bar=True)
    saved = time.monotonic()
    for step in range(arguments.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(arguments.learning_rate, step, step / arguments.steps)
        z = sample()
        with torch.no_grad():
            held = before(z)[:, 3:] * 0.5 + 0.5
        rgba = generator(z) * 0.5 + 0.5
        inside = rgba.clamp(0, 1)
        loss = matcher.loss(inside + 0.01 * (rgba - inside))  # clamped colours still get some gradient
        loss = loss + ALPHA_WEIGHT * F.mse_loss(rgba[:, 3:], held)
        loss = loss + RANGE_WEIGHT * (rgba - inside)[:, :3].square().mean()
        if not math.isfinite(float(loss.detach())):
            raise InputError(f"the loss is not finite at step {step}: use a lower --learning-rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        update_average(average, generator, AVERAGE_DECAY, step + 1)
        position = "step {} of {}, loss {:.3f}".format
        progress.step(functools.partial(position, step + 1, arguments.steps, float(loss.detach())), 1)
        if time.monotonic() > saved + SAVE_SECONDS:
            save(average)
            saved = time.monotonic()
    progress.close()
    save(average)
    return average


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _distance(generator: Generator, matcher: Matcher, count: int) -> float:
    noise = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    return matcher.distance(list(draw(generator, noise, 1.0).split(_BATCH)))


def main() -> None:
    """Read the command line and fine-tune."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reals", type=Path, help="folder of RGBA images (.png)")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the generator")
    parser.add_argument(
        "--backbone-weights", type=Path, required=True, help="encoder that was trained on ImageNet"
    )
    parser.add_argument("--out", type=Path, required=True, help="file of the new weights (.safetensors)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--recent", type=int, default=384, help="generated images to compare a batch with")
    parser.add_argument("--learning-rate", type=float, default=1.5e-4)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--measure", type=int, default=512, help="images for the distance before and after")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        run(arguments)
    except InputError as error:
        parser.exit(3, f"{parser.prog}: error: {error}\n")


def run(arguments: argparse.Namespace) -> None:
    """Fine-tune, and print the distance before and after.

    Raises:
        InputError: A file cannot be read; the generator draws no alpha; or the loss is not finite.
    """
    generator, provenance = load_generator(arguments.weights)
    if generator.config.channels != 4:
        raise InputError(f"{arguments.weights}: its images have no alpha")
    reals = read_reals(arguments.reals, generator.config.size_px)
    matcher = Matcher(Features(load_encoder(arguments.backbone_weights)[0]), reals, arguments.recent)
    before = _distance(generator, matcher, arguments.measure)
    _say(f"{len(reals)} real images; MMD² {before:.4f}")
    settings = {name: getattr(arguments, name) for name in _RECORDED}
    settings |= {"images": len(reals), "backbone_sha256": sha256_of(arguments.backbone_weights)}
    made = provenance | {"feature_matching": settings}  # no paths: weights are given to others
    average = match(generator, matcher, arguments, lambda now: save_generator(now, arguments.out, made))
    _say(f"MMD² {before:.4f} before, {_distance(average, matcher, arguments.measure):.4f} now")


if __name__ == "__main__":
    main()
