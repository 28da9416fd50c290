"""Distillation: a trained network labels pixels without a label."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import load_weights
from models.stylematte import StyleMatte
from training.data.dataset import shape_near
from training.objective import Batch


class Teacher:
    """A trained network that labels images, with a confidence.

    Args:
        model: The network; it is moved to `device`, set to evaluation mode and never changed.
        device: Device of the images.

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; here the soft
        targets are alphas.
    """

    def __init__(self, model: StyleMatte, device: str | torch.device = "cpu") -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> "Teacher":
        """Load a teacher from weights; see `models.checkpoints.load_weights` for errors."""
        return cls(load_weights(path)[0], device)

    @torch.no_grad()
    def label(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict alpha from images and their mirror images.

        Args:
            images: (B, 3, H, W) float32 RGB in [0, 1].

        Returns:
            The mean alpha of both, and their agreement 1 − |difference|, each (B, 1, H, W) in [0, 1].
        """
        height, width = images.shape[-2:]
        size = shape_near(self.model.preset.working_size, width / height)
        small = F.interpolate(images, size, mode="bilinear", antialias=True)
        direct = self.model(small, images).alpha.float()
        mirrored = self.model(small.flip(-1), images.flip(-1)).alpha.float().flip(-1)
        return (direct + mirrored) / 2, 1 - (direct - mirrored).abs()

    def fill(self, batch: Batch) -> Batch:
        """Fill in alpha and weight from the teacher where a batch's weight is 0."""
        unlabelled = batch["weight"] == 0  # (B, 1, H, W)
        needed = unlabelled.flatten(1).any(1)  # (B,)
        if not needed.any():
            return batch
        alpha, weight = batch["alpha"].clone(), batch["weight"].clone()
        taught, agreement = self.label(batch["guide"][needed])
        alpha[needed] = torch.where(unlabelled[needed], taught, alpha[needed])
        weight[needed] = torch.where(unlabelled[needed], agreement, weight[needed])
        return batch | {"alpha": alpha, "weight": weight}
