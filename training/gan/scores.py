"""Score generated images against the real ones during training."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from models.gan.generator import Generator
from training.fid import ScoreError, Statistics, fid, load_detector, statistics
from training.gan.config import GanRecipe
from training.gan.data import EndlessImages
from training.gan.sheets import draw

_BATCH = 64
_GREY = 0.5  # background of composites


class Scorer:
    """Scores a generator by FID against all of its training images.

    There are two scores: `fid` of the colours without alpha, as in the published code, and `fid_composite` of
    composites over grey, which depends on the alphas.

    Args:
        detector: Name or file, see `training.fid.load_detector`.
        folders: Folders in which detectors are searched by name.
        recipe: Sets the number of generated images.
        reals: The real images.
        device: Device of the detector.

    Attributes:
        about: The detector and the numbers of images, for logs and provenance.

    Raises:
        InputError: The detector is missing or cannot be read.
    """

    def __init__(
        self,
        detector: str,
        folders: tuple[Path, ...],
        recipe: GanRecipe,
        reals: EndlessImages,
        device: torch.device,
    ) -> None:
        self.detector = load_detector(detector, folders).to(device).eval()
        self.recipe, self.device = recipe, device
        self.detector_name = self.detector.name
        self.about = (
            f"FID by {self.detector.name} ({self.detector.num_features} features, sha256 "
            f"{self.detector.sha256[:12]}), {reals.count} real and {recipe.score_pictures} generated images"
        )
        self.real = self._measure(_batches(reals))

    @torch.inference_mode()
    def score(self, generator: Generator) -> dict[str, float]:
        """Return the FID of a generator in evaluation mode, always with the same noise.

        Raises:
            ScoreError: A generated image or its features are not finite.
        """
        fake = self._measure(self._fake_batches(generator))
        return {name: fid(self.real[name], fake[name]) for name in fake}

    def _measure(self, batches: Iterator[Tensor]) -> dict[str, Statistics]:
        """Return statistics of (N, 4, H, W) batches in [0, 1]: of colours and composites, both as 8 bits."""
        sums: dict[str, Statistics] = {}
        for rgba in batches:
            if not rgba.isfinite().all():  # converted to bytes they would look valid
                raise ScoreError("the generator's images are not finite")
            composites = rgba[:, 3:] * rgba[:, :3] + (1 - rgba[:, 3:]) * _GREY
            for name, seen in (("fid", rgba[:, :3]), ("fid_composite", composites)):
                part = statistics(self.detector, [(seen * 255).round().to(torch.uint8)])
                sums[name] = _joined(sums[name], part) if name in sums else part
        return sums

    def _fake_batches(self, generator: Generator) -> Iterator[Tensor]:
        random = torch.Generator().manual_seed(self.recipe.seed + 1)
        left = self.recipe.score_pictures
        while left > 0:
            count = min(_BATCH, left)
            yield draw(generator, torch.randn(count, self.recipe.generator.z_dim, generator=random), 1.0)
            left -= count


def _joined(one: Statistics, other: Statistics) -> Statistics:
    return Statistics(one.total + other.total, one.products + other.products, one.count + other.count)


def _batches(reals: EndlessImages) -> Iterator[Tensor]:
    for first in range(0, reals.count, _BATCH):
        numbers = range(first, min(first + _BATCH, reals.count))
        yield torch.stack([torch.from_numpy(reals.image(n)) for n in numbers]).float() / 255
