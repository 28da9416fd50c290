"""Network and losses as one module: pictures in, losses out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.stylematte import Prediction, StyleMatte
from training.config import Stage
from training.losses import LOSSES, NEEDS

Batch = dict[str, Tensor]


class Objective(nn.Module):
    """What is minimised; one module, so that several processes wait for no gradient that no loss gives.

    Attributes:
        stage: Says which losses and what is frozen, see `begin`.
    """

    def __init__(self, model: StyleMatte, stage: Stage) -> None:
        super().__init__()
        self.model = model
        self.stage = stage

    def begin(self, stage: Stage) -> None:
        """Take a stage's losses, and freeze what it freezes and nothing else."""
        self.stage = stage
        encoder = self.model.encoder
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(encoder.level_of(name) >= stage.frozen)

    def train(self, mode: bool = True) -> "Objective":
        """As every module's; norms stay as they are where the stage freezes them."""
        super().train(mode)
        for name, module in self.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                inside = name.removeprefix("encoder.")
                is_frozen = inside != name and self.model.encoder.level_of(inside) < self.stage.frozen
                if is_frozen or self.stage.freeze_norms:
                    module.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict, and compare with the labels.

        Args:
            batch: As `training.data.dataset.as_batch` makes it.

        Returns:
            Weighted losses by name, see `stage_losses`; their sum is what is minimised.
        """
        prior = (batch["prior"],) if "prior" in batch else ()
        prediction = self.model(batch["image"], batch["guide"], *prior)
        with torch.autocast(batch["alpha"].device.type, enabled=False):  # sums over many pixels
            return stage_losses(self.stage, prediction, batch)


def stage_losses(stage: Stage, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """Weighted losses of a stage, named `fine_…` and `coarse_…`, all at the size of the labels."""
    alpha, weight = batch["alpha"], batch["weight"]
    terms = {}
    for name, factor in stage.fine.items():
        more = {key: batch[key] for key in NEEDS.get(name, ())}
        terms[f"fine_{name}"] = factor * LOSSES[name](prediction.fine_logits, alpha, weight, **more)
    if stage.coarse:
        coarse = F.interpolate(
            prediction.coarse_logits, alpha.shape[-2:], mode="bilinear", align_corners=False
        )
        for name, factor in stage.coarse.items():
            terms[f"coarse_{name}"] = factor * LOSSES[name](coarse, alpha, weight)
    return terms
