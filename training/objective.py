"""Network and losses as one module: images in, losses out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.stylematte import Prediction, StyleMatte
from training.config import Stage
from training.losses import LOSSES, NEEDS

Batch = dict[str, Tensor]


class Objective(nn.Module):
    """Network and losses in one module, so that several processes do not wait for gradients without a loss.

    Attributes:
        stage: Sets the losses and the frozen parameters, see `begin`.
    """

    def __init__(self, model: StyleMatte, stage: Stage) -> None:
        super().__init__()
        self.model = model
        self.stage = stage

    def begin(self, stage: Stage) -> None:
        """Start a stage: set its losses and freeze exactly the parameters that it freezes."""
        self.stage = stage
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not self._is_frozen(name))

    def train(self, mode: bool = True) -> "Objective":
        """Set the training mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        for name, module in self.model.named_modules():
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if is_norm and (self._is_frozen(name) or self.stage.freeze_norms):
                module.eval()
        return self

    def _is_frozen(self, name: str) -> bool:
        """Tell whether the stage freezes a parameter or a norm."""
        if self.stage.only_selection:
            return not name.startswith("selection.")
        inside = name.removeprefix("encoder.")
        return inside != name and self.model.encoder.level_of(inside) < self.stage.frozen

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict and compute the losses.

        Args:
            batch: Result of `training.data.dataset.as_batch`.

        Returns:
            Weighted losses by name, see `stage_losses`; their sum is minimised.
        """
        if self.stage.only_selection:
            batch, prediction = self._selected(batch)
        else:
            prior = (batch["prior"],) if "prior" in batch else ()
            prediction = self.model(batch["image"], batch["guide"], *prior)
        with torch.autocast(batch["alpha"].device.type, enabled=False):  # sums over many pixels
            return stage_losses(self.stage, prediction, batch)

    def _selected(self, batch: Batch) -> tuple[Batch, Prediction]:
        """Run the frozen network once, and the selection for each of its k priors; images are repeated.

        Losses are computed at the logits' size: at the labels' size they would take as long as the network.
        """
        selection = self.model.selection
        assert selection is not None  # `training.config.check_priors`
        prior = batch["prior"]  # (B, k, h, w)
        count = prior.shape[1]
        with torch.no_grad():
            maps, features, logits = self.model.without_prior(self.model.normalise(batch["image"]))
        logits, features, *maps = (x.repeat_interleave(count, 0) for x in (logits, features, *maps[-4:]))
        logits = selection(logits, features, maps, prior.flatten(0, 1).unsqueeze(1))  # (B * k, 1, h/4, w/4)
        size = logits.shape[-2:]
        alpha = F.interpolate(batch["alpha"].flatten(0, 1).unsqueeze(1), size, mode="area")
        weight = F.interpolate(batch["weight"], size, mode="area").repeat_interleave(count, 0)
        return {"alpha": alpha, "weight": weight}, Prediction(logits, logits)


def stage_losses(stage: Stage, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """Return the weighted losses of a stage, named `fine_…` and `coarse_…`, at the size of the labels."""
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
