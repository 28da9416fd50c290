"""Distillation: where a label says nothing, a trained network has the say."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import load_weights
from models.stylematte import StyleMatte
from training.data.dataset import shape_near
from training.objective import Batch


class Teacher:
    """A trained network that labels pictures, and says how sure it is.

    Args:
        model: Moved to `device`, set to evaluation and never changed.
        device: Where pictures will come from.

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; here the soft
        targets are alphas.
    """

    def __init__(self, model: StyleMatte, device: str | torch.device = "cpu") -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> "Teacher":
        """A teacher from its weights; raises as `models.checkpoints.load_weights` does."""
        return cls(load_weights(path)[0], device)

    @torch.no_grad()
    def label(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha of pictures, from them and their mirror images.

        Args:
            pictures: (B, 3, H, W) float32 RGB in [0, 1].

        Returns:
            Alpha, the mean of both, and their agreement, 1 − |difference|, each (B, 1, H, W) in [0, 1].
        """
        height, width = pictures.shape[-2:]
        size = shape_near(self.model.preset.working_size, width / height)
        small = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        seen = self.model(small, pictures).alpha.float()
        mirrored = self.model(small.flip(-1), pictures.flip(-1)).alpha.float().flip(-1)
        return (seen + mirrored) / 2, 1 - (seen - mirrored).abs()

    def fill(self, batch: Batch) -> Batch:
        """A batch whose every label says something: alpha and weight of the teacher where the weight is 0."""
        silent = batch["weight"] == 0  # (B, 1, H, W)
        asked = silent.flatten(1).any(1)  # (B,)
        if not asked.any():
            return batch
        alpha, weight = batch["alpha"].clone(), batch["weight"].clone()
        answer, agreement = self.label(batch["guide"][asked])
        alpha[asked] = torch.where(silent[asked], answer, alpha[asked])
        weight[asked] = torch.where(silent[asked], agreement, weight[asked])
        return batch | {"alpha": alpha, "weight": weight}
