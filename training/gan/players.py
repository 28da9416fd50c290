"""Generator, its moving average, both discriminators, and their optimisers and updates."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.gan.augment import Augment
from models.gan.backbones import load_frozen
from models.gan.discriminators import Discriminator, VisionAided, vision_loss
from models.gan.generator import Generator
from training.gan.config import GanRecipe
from training.gan.losses import (
    REAL_LABEL,
    adapted,
    average_decay,
    blur,
    composite,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from training.processes import average_tensors

ADAPT_EVERY = 4  # steps between changes of the augmentation probability
# On a GPU the generator's gradients pass through float16, whose smallest number is 6e-8. Without a factor
# they were off by 2 to 20 %; with factors from 16 to 256, by 0.6 %.
LOSS_SCALE = 128.0
Values = dict[str, Tensor]


class Pass(NamedTuple):
    """Inputs of one pass of a step.

    Attributes:
        z: (N, z_dim) float32.
        reals: (N, 4, H, H) float32 in [-1, 1].
        backgrounds: (N, 3, H, H) float32 in [-1, 1].
    """

    z: Tensor
    reals: Tensor
    backgrounds: Tensor


class GanModels:
    """All networks of a run.

    Attributes:
        generator: The generator in training.
        average: Moving average of its weights, which is saved.
        discriminator: Discriminator of all four channels.
        vision_aided: Discriminator of composites; None if the recipe has none.
        augment: Augmentation of both discriminators' inputs.
        loss_scale: Factor of the generator's loss, by which its gradients are divided; a power of two.
    """

    def __init__(self, recipe: GanRecipe, accelerator: Accelerator, backbone: Path | None = None) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        device, vision = accelerator.device, recipe.vision_aided
        discriminator = recipe.discriminator
        config = recipe.generator
        self.generator = Generator(config).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.discriminator = Discriminator(
            config.size_px,
            config.channels,
            channel_base=discriminator.channel_base,
            channel_max=discriminator.channel_max,
            minibatch_std_group=discriminator.group,
        ).to(device)
        self.vision_aided: VisionAided | None = None
        if vision.backbone != "none":
            self.vision_aided = VisionAided(load_frozen(vision.backbone, backbone)).to(device)
        self.augment = Augment(recipe.augmentation.operations, recipe.augmentation.p)
        self.optimisers = {
            "generator": self._adam(self.generator, recipe.generator_rate),
            "discriminator": self._adam(self.discriminator, discriminator.rate),
        }
        if self.vision_aided is not None:
            self.optimisers["vision_aided"] = self._adam(self.vision_aided.heads, vision.rate)
        self.loss_scale = LOSS_SCALE if device.type == "cuda" else 1.0
        self.signs = torch.zeros(2, device=device)  # sum of the logits' signs, and their number
        self.fakes: list[Tensor] = []

    def update_generator(self, passes: "list[Pass]", seen: int, blur_px: float) -> Values:
        """Train the generator to be classified as real by the discriminators.

        Its images are kept for `update_discriminators`, which saves a pass of the generator per step.

        Args:
            passes: Passes of this step.
            seen: Real images before this step.
            blur_px: Sigma of the blur of the discriminators' inputs.

        Returns:
            Losses of the step, averaged over its passes.
        """
        self._set_trainable(generator=True)
        self.fakes.clear()
        values: list[Values] = []
        for one in passes:
            fakes = self.generator(one.z, update_emas=True)
            self.fakes.append(fakes.detach())
            shown = self.augment(blur(fakes, blur_px))
            terms = {"generator": generator_loss(self.discriminator(shown))}
            loss = terms["generator"]
            if self.vision_aided is not None and seen >= self.recipe.vision_aided.warmup_kimg * 1000:
                composites = composite(shown, one.backgrounds)
                terms["generator_vision"] = vision_loss(self.vision_aided(composites), REAL_LABEL)
                loss = loss + self.recipe.vision_aided.weight * terms["generator_vision"]
            (loss * (self.loss_scale / len(passes))).backward()
            values.append(_detached(terms))
        self._update("generator", self.generator.parameters(), self.loss_scale)
        average_tensors(self._running(self.generator), self.accelerator)
        return _means(values)

    def update_discriminators(self, passes: "list[Pass]", step: int, blur_px: float) -> Values:
        """Train the discriminators to tell the generator's last images from real ones.

        The gradient penalty is applied only every few steps, with a correspondingly larger weight.

        Args:
            passes: Passes of this step, after `update_generator`.
            step: Index of this step.
            blur_px: Sigma of the blur of the discriminators' inputs.

        Returns:
            Losses of the step, averaged over its passes.
        """
        self._set_trainable(generator=False)
        config, values = self.recipe.discriminator, []
        is_penalised = config.r1_gamma > 0 and step % config.r1_every == 0
        for one, fakes in zip(passes, self.fakes, strict=True):
            shown_fakes = self.augment(blur(fakes, blur_px))
            shown_reals = self.augment(blur(one.reals, blur_px)).requires_grad_(is_penalised)
            real_logits = self.discriminator(shown_reals)
            terms = {"discriminator": discriminator_loss(real_logits, self.discriminator(shown_fakes))}
            loss = terms["discriminator"]
            if is_penalised:
                penalty = r1_penalty(real_logits, shown_reals)
                loss = loss + config.r1_gamma / 2 * config.r1_every * penalty
                terms["r1"] = penalty
            if self.vision_aided is not None:
                terms["vision"] = self._vision_loss(shown_reals.detach(), shown_fakes, one.backgrounds)
                loss = loss + terms["vision"]
            (loss / len(passes)).backward()
            self.signs[0] += real_logits.detach().sign().sum()
            self.signs[1] += len(one.z)
            values.append(_detached(terms))
        self._update("discriminator", self.discriminator.parameters())
        if self.vision_aided is not None:
            self._update("vision_aided", self.vision_aided.heads.parameters())
            average_tensors(self._running(self.vision_aided.heads), self.accelerator)
        return _means(values)

    def _vision_loss(self, reals: Tensor, fakes: Tensor, backgrounds: Tensor) -> Tensor:
        assert self.vision_aided is not None
        photos = reals[:, :3].clamp(-1, 1)
        if self.recipe.vision_aided.reals == "composites":
            photos = composite(reals, backgrounds)
        composites = composite(fakes, backgrounds)
        real, fake = self.vision_aided(photos), self.vision_aided(composites)
        return vision_loss(real, REAL_LABEL) + vision_loss(fake, 0.0)

    @torch.no_grad()
    def update_average(self, seen: int) -> None:
        """Update the moving average, after `seen` real images before this step."""
        recipe = self.recipe
        half_life = recipe.ema_kimg or recipe.batch_size * 10 / 32
        decay = average_decay(recipe.batch_size, seen, half_life, recipe.ema_rampup)
        average, generator = self.average, self.generator
        get_ema_multi_avg_fn(decay)(list(average.parameters()), list(generator.parameters()), 0)
        torch._foreach_copy_(list(average.buffers()), list(generator.buffers()))

    def adapt(self, step: int) -> None:
        """Adapt the augmentation probability to the discriminator's logits for real images."""
        change = self.recipe.augmentation
        if (step + 1) % ADAPT_EVERY:
            return
        if change.mode == "ada":
            total, count = self.accelerator.reduce(self.signs, "sum").tolist()
            p = adapted(float(self.augment.p), total / count, change.target, int(count), change.kimg)
            self.augment.p.fill_(p)
        self.signs.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return everything a run needs to resume; only the heads of the vision-aided discriminator."""
        state: dict[str, Any] = {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "augment": self.augment.state_dict(),
            "signs": self.signs,
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
        }
        if self.vision_aided is not None:
            state["vision_aided"] = self.vision_aided.heads.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        for name in ("generator", "average", "discriminator", "augment"):
            getattr(self, name).load_state_dict(state[name])
        self.signs.copy_(state["signs"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        if self.vision_aided is not None:
            self.vision_aided.heads.load_state_dict(state["vision_aided"])

    def _adam(self, module: nn.Module, rate: float) -> torch.optim.Adam:
        on_gpu = self.accelerator.device.type == "cuda"
        return torch.optim.Adam(module.parameters(), rate, (0.0, 0.99), fused=True if on_gpu else None)

    def _set_trainable(self, generator: bool) -> None:
        """Let gradients reach only the generator or only the discriminators."""
        self.generator.requires_grad_(generator)
        self.discriminator.requires_grad_(not generator)
        if self.vision_aided is not None:
            self.vision_aided.heads.requires_grad_(not generator)

    def _update(self, name: str, parameters: Iterable[nn.Parameter], loss_scale: float = 1.0) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        if loss_scale != 1:
            torch._foreach_div_(gradients, loss_scale)
        average_tensors(gradients, self.accelerator)
        if self.accelerator.device.type == "cuda":
            for gradient in gradients:  # treat occasional float16 overflows as zero gradients
                torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0, out=gradient)
        self.optimisers[name].step()
        self.optimisers[name].zero_grad()

    @staticmethod
    def _running(module: nn.Module) -> list[Tensor]:
        return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


def _detached(terms: Values) -> Values:
    return {name: value.detach() for name, value in terms.items()}


def _means(values: list[Values]) -> Values:
    return {name: torch.stack([v[name] for v in values]).mean() for name in values[0]}
