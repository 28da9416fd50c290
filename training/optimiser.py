"""AdamW, the learning rate over a stage and over the encoder, and the running average of the weights."""

import math

import torch

from models.encoder import ENCODER_LEVELS
from models.encoders import PRIOR
from models.stylematte import StyleMatte
from training.config import Stage

# The kernel that reads the prior begins at zero, beside kernels that were trained before. At the encoder's
# rate it stayed so small that the network ignored every prior after 1,200 steps.
PRIOR_FACTOR = 10.0


def make_optimiser(model: StyleMatte, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with a group for every level of the encoder and one for the rest; norms and biases do not decay.

    What reads the prior has a group of its own. One optimiser for the whole run: `set_rates` gives its groups
    the rates of a stage.
    """
    groups: dict[tuple[int | None, bool, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        inside = name.removeprefix("encoder.")
        level = model.encoder.level_of(inside) if inside != name else None
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((level, inside == PRIOR, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "level": level, "reads_prior": reads_prior, "weight_decay": decay}
            for (level, reads_prior, decay), parameters in groups.items()
        ]
    )


def set_rates(optimiser: torch.optim.Optimizer, stage: Stage, step: int) -> None:
    """Set the learning rate of every group for a step of a stage.

    Decoder and head take the stage's rate, the encoder's level l takes that times
    encoder_rate · layer_decay ^ (4 − l): what is near the picture is general already, and learns slowest. The
    kernel that reads the prior takes the stage's rate times `PRIOR_FACTOR`.
    """
    rate = learning_rate(stage, step)
    for group in optimiser.param_groups:
        level = group["level"]
        factor = (
            1.0 if level is None else stage.encoder_rate * stage.layer_decay ** (ENCODER_LEVELS - 1 - level)
        )
        if group["reads_prior"]:
            factor = PRIOR_FACTOR
        group["lr"] = rate * factor


def learning_rate(stage: Stage, step: int) -> float:
    """Linear rise, then a cosine fall to a fiftieth of the peak."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def update_average(average: StyleMatte, model: StyleMatte, decay: float, step: int) -> None:
    """Move the running average of the weights towards the network; faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if target.is_floating_point():
            target.lerp_(source, 1 - decay)
        else:
            target.copy_(source)
