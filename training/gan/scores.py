"""How far drawn pictures are from the real ones, while training goes on."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from models.gan.generator import Generator
from training.fid import ScoreError, Statistics, fid, load_detector, statistics
from training.gan.config import GanRecipe
from training.gan.data import Pictures
from training.gan.sheets import draw

_BATCH = 64
_GREY = 0.5  # what stands behind composites


class Scorer:
    """Scores a generator by FID against all pictures that it learns from.

    Two scores: `fid` of the colours alone, alpha dropped, as the published code has it; and `fid_composite`
    over grey, to which the alphas matter.

    Args:
        detector: A name or file, see `training.fid.load_detector`.
        folders: Where files are looked for that are given by name.
        recipe: Says how many pictures are drawn.
        reals: What they are compared with.
        device: Where the detector runs.

    Attributes:
        about: The detector, how many pictures of either kind, for logs and provenance.

    Raises:
        InputError: The detector cannot be read or is not there.
    """

    def __init__(
        self,
        detector: str,
        folders: tuple[Path, ...],
        recipe: GanRecipe,
        reals: Pictures,
        device: torch.device,
    ) -> None:
        self.detector = load_detector(detector, folders).to(device).eval()
        self.recipe, self.device = recipe, device
        self.detector_name = self.detector.name
        self.about = (
            f"FID by {self.detector.name} ({self.detector.num_features} features, sha256 "
            f"{self.detector.sha256[:12]}), {reals.count} real and {recipe.score_pictures} drawn pictures"
        )
        self.real = self._measure(_batches(reals))

    @torch.inference_mode()
    def score(self, generator: Generator) -> dict[str, float]:
        """FID of a generator, in evaluation mode; the same noise every time.

        Raises:
            ScoreError: It draws what is no number, or the detector makes such features of it.
        """
        drawn = self._measure(self._drawn(generator))
        return {name: fid(self.real[name], drawn[name]) for name in drawn}

    def _measure(self, batches: Iterator[Tensor]) -> dict[str, Statistics]:
        """Statistics of (N, 4, H, W) batches in [0, 1], of colours and of composites, both as 8 bits."""
        sums: dict[str, Statistics] = {}
        for rgba in batches:
            if not rgba.isfinite().all():  # as bytes they would be some picture or other
                raise ScoreError("the generator draws pictures that are no numbers")
            composites = rgba[:, 3:] * rgba[:, :3] + (1 - rgba[:, 3:]) * _GREY
            for name, seen in (("fid", rgba[:, :3]), ("fid_composite", composites)):
                part = statistics(self.detector, [(seen * 255).round().to(torch.uint8)])
                sums[name] = _joined(sums[name], part) if name in sums else part
        return sums

    def _drawn(self, generator: Generator) -> Iterator[Tensor]:
        random = torch.Generator().manual_seed(self.recipe.seed + 1)
        left = self.recipe.score_pictures
        while left > 0:
            count = min(_BATCH, left)
            yield draw(generator, torch.randn(count, self.recipe.generator.z_dim, generator=random), 1.0)
            left -= count


def _joined(one: Statistics, other: Statistics) -> Statistics:
    return Statistics(one.total + other.total, one.products + other.products, one.count + other.count)


def _batches(reals: Pictures) -> Iterator[Tensor]:
    for first in range(0, reals.count, _BATCH):
        numbers = range(first, min(first + _BATCH, reals.count))
        yield torch.stack([torch.from_numpy(reals.picture(n)) for n in numbers]).float() / 255
