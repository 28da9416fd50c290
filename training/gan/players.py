"""Generator, average, both discriminators and their optimisers: how each of them moves."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.gan.augment import Augment
from models.gan.backbones import load_backbone
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

ADAPT_EVERY = 4  # steps between changes of the augmentation
# On a card the generator's gradients run through float16, whose numbers end at 6e-8: without a factor they
# were off by 2 to 20 %, with factors of 16 to 256 by 0.6 %.
LOSS_SCALE = 128.0
Values = dict[str, Tensor]


class Pass(NamedTuple):
    """What one pass of a step works on.

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
        generator: As it learns.
        average: Running average of its weights, which is what is saved.
        discriminator: Judges all four channels.
        vision_aided: Judges composites; None where the recipe goes without.
        augment: What both see goes through it.
        loss_scale: Factor on the generator's loss that its gradients are divided by, a power of two.
    """

    def __init__(self, recipe: GanRecipe, accelerator: Accelerator, backbone: Path | None = None) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        device, critic, vision = accelerator.device, recipe.discriminator, recipe.vision_aided
        config = recipe.generator
        self.generator = Generator(config).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.discriminator = Discriminator(
            config.size_px,
            config.channels,
            channel_base=critic.channel_base,
            channel_max=critic.channel_max,
            minibatch_std_group=critic.group,
        ).to(device)
        self.vision_aided: VisionAided | None = None
        if vision.backbone != "none":
            self.vision_aided = VisionAided(load_backbone(vision.backbone, backbone)).to(device)
        self.augment = Augment(recipe.augmentation.operations, recipe.augmentation.p)
        self.optimisers = {
            "generator": self._adam(self.generator, recipe.generator_rate),
            "discriminator": self._adam(self.discriminator, critic.rate),
        }
        if self.vision_aided is not None:
            self.optimisers["vision_aided"] = self._adam(self.vision_aided.heads, vision.rate)
        self.loss_scale = LOSS_SCALE if device.type == "cuda" else 1.0
        self.signs = torch.zeros(2, device=device)  # sum of the answers' signs, and their number
        self.fakes: list[Tensor] = []

    def update_generator(self, passes: "list[Pass]", seen: int, blur_px: float) -> Values:
        """Move the generator towards what the discriminators take for real.

        Its pictures are kept for `update_discriminators`: they learn from the same ones, which saves a
        pass of the generator a step.

        Args:
            passes: Of this step.
            seen: Real pictures before it.
            blur_px: Deviation of the blur on what discriminators see.

        Returns:
            Losses of the step, means over its passes.
        """
        self._learns(generator=True)
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
        self._move("generator", self.generator.parameters(), self.loss_scale)
        average_tensors(self._running(self.generator), self.accelerator)
        return _means(values)

    def update_discriminators(self, passes: "list[Pass]", step: int, blur_px: float) -> Values:
        """Move the discriminators towards telling the generator's last pictures from real ones.

        The gradient penalty joins in every few steps, and counts so much more.

        Args:
            passes: Of this step, after `update_generator`.
            step: Number of this step.
            blur_px: Deviation of the blur on what discriminators see.

        Returns:
            Losses of the step, means over its passes.
        """
        self._learns(generator=False)
        critic, values = self.recipe.discriminator, []
        is_penalised = critic.r1_gamma > 0 and step % critic.r1_every == 0
        for one, fakes in zip(passes, self.fakes, strict=True):
            shown_fakes = self.augment(blur(fakes, blur_px))
            shown_reals = self.augment(blur(one.reals, blur_px)).requires_grad_(is_penalised)
            real_logits = self.discriminator(shown_reals)
            terms = {"discriminator": discriminator_loss(real_logits, self.discriminator(shown_fakes))}
            loss = terms["discriminator"]
            if is_penalised:
                penalty = r1_penalty(real_logits, shown_reals)
                loss = loss + critic.r1_gamma / 2 * critic.r1_every * penalty
                terms["r1"] = penalty
            if self.vision_aided is not None:
                terms["vision"] = self._vision_loss(shown_reals.detach(), shown_fakes, one.backgrounds)
                loss = loss + terms["vision"]
            (loss / len(passes)).backward()
            self.signs[0] += real_logits.detach().sign().sum()
            self.signs[1] += len(one.z)
            values.append(_detached(terms))
        self._move("discriminator", self.discriminator.parameters())
        if self.vision_aided is not None:
            self._move("vision_aided", self.vision_aided.heads.parameters())
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
        """Move the average towards the generator, after `seen` real pictures before this step."""
        recipe = self.recipe
        half_life = recipe.ema_kimg or recipe.batch_size * 10 / 32
        decay = average_decay(recipe.batch_size, seen, half_life, recipe.ema_rampup)
        average, generator = self.average, self.generator
        get_ema_multi_avg_fn(decay)(list(average.parameters()), list(generator.parameters()), 0)
        torch._foreach_copy_(list(average.buffers()), list(generator.buffers()))

    def adapt(self, step: int) -> None:
        """Change the probability of augmentation by how sure the discriminator is of real pictures."""
        change = self.recipe.augmentation
        if (step + 1) % ADAPT_EVERY:
            return
        if change.mode == "ada":
            total, count = self.accelerator.reduce(self.signs, "sum").tolist()
            p = adapted(float(self.augment.p), total / count, change.target, int(count), change.kimg)
            self.augment.p.fill_(p)
        self.signs.zero_()

    def state_dict(self) -> dict[str, Any]:
        """All that a run goes on from; of the vision-aided discriminator, what it learns."""
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
        """Take over what `state_dict` gave."""
        for name in ("generator", "average", "discriminator", "augment"):
            getattr(self, name).load_state_dict(state[name])
        self.signs.copy_(state["signs"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        if self.vision_aided is not None:
            self.vision_aided.heads.load_state_dict(state["vision_aided"])

    def _adam(self, module: nn.Module, rate: float) -> torch.optim.Adam:
        on_card = self.accelerator.device.type == "cuda"
        return torch.optim.Adam(module.parameters(), rate, (0.0, 0.99), fused=True if on_card else None)

    def _learns(self, generator: bool) -> None:
        """Let gradients reach one side alone."""
        self.generator.requires_grad_(generator)
        self.discriminator.requires_grad_(not generator)
        if self.vision_aided is not None:
            self.vision_aided.heads.requires_grad_(not generator)

    def _move(self, name: str, parameters: Iterable[nn.Parameter], loss_scale: float = 1.0) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        if loss_scale != 1:
            torch._foreach_div_(gradients, loss_scale)
        average_tensors(gradients, self.accelerator)
        if self.accelerator.device.type == "cuda":
            for gradient in gradients:  # float16 overflows now and then; such a gradient counts as none
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
