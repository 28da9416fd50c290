"""AdamW, learning-rate schedule, layer-wise rates of the encoder, and the moving average of the weights."""

import math

import torch

from models.encoder import ENCODER_LEVELS
from models.stylematte import StyleMatte
from training.config import Stage


def make_optimiser(model: StyleMatte, weight_decay: float) -> torch.optim.AdamW:
    """Make an AdamW with a group per encoder level and one for the rest; norms and biases do not decay.

    The optimiser serves the whole run: `set_rates` sets its groups' rates for a stage.
    """
    groups: dict[tuple[int | None, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        inside = name.removeprefix("encoder.")
        level = model.encoder.level_of(inside) if inside != name else None
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((level, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "level": level, "weight_decay": decay}
            for (level, decay), parameters in groups.items()
        ]
    )


def set_rates(optimiser: torch.optim.Optimizer, stage: Stage, step: int) -> None:
    """Set the learning rate of every group for a step of a stage.

    Decoder and head use the stage's rate. Level l of the encoder uses it times
    encoder_rate · layer_decay ^ (4 − l): early layers are already general, and learn slowest.
    """
    rate = learning_rate(stage, step)
    for group in optimiser.param_groups:
        level = group["level"]
        factor = (
            1.0 if level is None else stage.encoder_rate * stage.layer_decay ** (ENCODER_LEVELS - 1 - level)
        )
        group["lr"] = rate * factor


def learning_rate(stage: Stage, step: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to 1/50 of the peak."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float, step: int) -> None:
    """Update the moving average of the weights; faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if target.is_floating_point():
            target.lerp_(source, 1 - decay)
        else:
            target.copy_(source)
