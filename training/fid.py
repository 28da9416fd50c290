"""FID and KID: distances between generated and real images in the features of a detector.

References:
    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
    equation 6 (FID). Bińkowski et al., "Demystifying MMD GANs", 2018, section 4 (KID).
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import load_encoder
from models.encoder import Encoder
from models.stylematte import MEAN, STD
from stylematte.errors import InputError, MissingError
from stylematte.files import sha256_of

INCEPTION = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION}"
MOBILENET = "mobilenetv2_imagenet_folded.safetensors"

_ENCODER_PX = 224  # training size of MobileNetV2 and Swin
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000


class ScoreError(InputError):
    """Too few images for a score, statistics of different detectors, or values that are not finite."""


class FeatureError(ScoreError):
    """Images for which a detector returns NaN or infinite features.

    Attributes:
        places: Their positions in the order of the images, from 0.
    """

    def __init__(self, places: list[int]) -> None:
        named = ", ".join(str(place + 1) for place in places[:3])
        super().__init__(
            f"the detector's features of {len(places)} images are not finite, including image number {named}"
        )
        self.places = places


class Detector(nn.Module):
    """Feature extractor: `forward` maps (N, 3, H, W) uint8 RGB of any size to (N, d) float32.

    Attributes:
        name: Name in reports; scores of different detectors are not comparable.
        num_features: Number of features, d.
        sha256: Hash of its file.
    """

    name: str
    num_features: int
    sha256: str


class ScriptDetector(Detector):
    """A TorchScript file such as the Inception network of 2015-12-05, including its resizing.

    The graph runs in torch's interpreter without Python code, but it may call any torch operator. Trust a
    file of unknown origin no more than a program.

    Args:
        path: The file.

    Raises:
        InputError: Not a TorchScript file, or it returns no features for images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sha256 = sha256_of(path)
        self.name = "inception" if self.sha256 == INCEPTION_SHA256 else path.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the network exists in no other format
                self.script = torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{path}: not a TorchScript file: {reason}") from None
        arguments = [argument.name for argument in self.script.forward.schema.arguments]
        self.options = {"return_features": True} if "return_features" in arguments else {}
        try:
            with torch.inference_mode():
                features = self(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
            self.num_features = features.shape[1]
        except (RuntimeError, AttributeError, IndexError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"{path}: returns no features for uint8 images: {reason}") from None

    def forward(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.script(images, **self.options).float()


class EncoderDetector(Detector):
    """A substitute for Inception: the last map of an encoder, averaged over the image.

    Args:
        encoder: Encoder for RGB normalised with ImageNet's mean and standard deviation.
        name: Name in reports.
        sha256: Hash of its weights file.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, name: str, sha256: str) -> None:
        super().__init__()
        # Channels last takes a third less time on a CPU.
        self.encoder = encoder.eval()
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name, self.sha256 = name, sha256
        self.num_features = encoder.channels[-1]
        self.side_px = -(-_ENCODER_PX // encoder.multiple) * encoder.multiple
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """See `Detector`; images are stretched to a square, as for Inception."""
        size = (self.side_px, self.side_px)
        x = F.interpolate(images.float() / 255, size, mode="bilinear", antialias=True)  # (N, 3, s, s)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.encoder(x)[-1].mean((2, 3))


def load_detector(name_or_path: str | Path, folders: Sequence[Path] = ()) -> Detector:
    """Load a detector.

    Args:
        name_or_path: `inception`, the standard; `mobilenet`, a substitute; a TorchScript file (.pt); weights
            from `stylematte train` or a folded MobileNetV2 (.safetensors); or the name of such weights.
        folders: Folders in which named files are searched; messages about a missing file name the last one.

    Raises:
        MissingError: The file does not exist.
        InputError: The file cannot be read, or has another format.
        CheckpointError: The weights cannot be read.
    """
    path = _find(str(name_or_path), folders)
    if path.suffix in (".pt", ".ts", ".torchscript"):
        return ScriptDetector(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a detector is a TorchScript file (.pt) or weights (.safetensors)")
    return EncoderDetector(*load_encoder(path), sha256_of(path))


def _find(name: str, folders: Sequence[Path]) -> Path:
    file = {"inception": INCEPTION, "mobilenet": MOBILENET}.get(name, f"{name}.safetensors")
    for path in (*(folder / file for folder in folders), Path(name)):
        if path.is_file():
            return path
    home = folders[-1] if folders else Path()
    if name == "inception":
        raise MissingError(
            f"detector inception: {home / INCEPTION} is missing. Download {INCEPTION_URL} (96 MB) to this "
            "place, or give its path. Without it, --detector nano gives scores on another scale"
        )
    if name == "mobilenet":
        raise MissingError(
            f"detector mobilenet: {home / MOBILENET} is missing. It is an ImageNet MobileNetV2 with folded "
            "batch norms, as for --backbone-weights of stylematte train; put it there, or give its path"
        )
    raise MissingError(
        f"detector {name!r}: no such file, and no weights of that name in "
        f"{', '.join(map(str, folders)) or 'any folder'}. Use inception, mobilenet, or trained weights"
    )


@dataclass(frozen=True)
class Statistics:
    """Statistics of a set of images for FID, and with `features` also for KID.

    Attributes:
        total: (d,) float64, sum of the features.
        products: (d, d) float64, sum of their outer products.
        count: Number of images.
        features: (count, d) float32, for KID, or None.
    """

    total: Tensor
    products: Tensor
    count: int
    features: Tensor | None = None

    @property
    def is_finite(self) -> bool:
        """Whether all values are finite; sums of non-finite features are not."""
        parts = [self.total, self.products, *([] if self.features is None else [self.features])]
        return all(bool(part.isfinite().all()) for part in parts)

    @property
    def mean(self) -> Tensor:
        """Mean of the features, (d,) float64."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Covariance of the features, (d, d) float64, with divisor count - 1."""
        return (self.products - self.count * self.mean.outer(self.mean)) / (self.count - 1)


def statistics(detector: Detector, images: Iterable[Tensor], keep_features: bool = False) -> Statistics:
    """Compute the statistics of images.

    Args:
        detector: Detector, on the device to use.
        images: Batches (N, 3, H, W) uint8 RGB, on any device; sizes may differ from batch to batch.
        keep_features: Keep the features, for `kid`.

    Returns:
        Statistics on the CPU.

    Raises:
        FeatureError: Features are NaN or infinite.
    """
    device = next((t.device for t in (*detector.parameters(), *detector.buffers())), torch.device("cpu"))
    total = torch.zeros(detector.num_features, dtype=torch.float64, device=device)
    products = torch.zeros(2 * (detector.num_features,), dtype=torch.float64, device=device)
    count, broken, kept = 0, [], []
    for batch in images:
        with torch.no_grad():
            features = detector(batch.to(device))  # (N, d)
        is_broken = ~features.isfinite().all(1)
        broken += (count + is_broken.nonzero().flatten()).tolist()
        count += len(features)
        if keep_features:
            kept.append(features.float().cpu())
        features = features.double()
        total += features.sum(0)
        products += features.T @ features
    if broken:
        raise FeatureError(broken)
    return Statistics(total.cpu(), products.cpu(), count, torch.cat(kept) if kept else None)


def fid(real: Statistics, generated: Statistics) -> float:
    """Fréchet distance of two normal distributions, |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½).

    Args:
        real: Statistics of the real images.
        generated: Statistics of the generated images, with the same detector.

    Raises:
        ScoreError: Fewer than two images, features of different length, or values that are not finite.
    """
    _check(real, generated)
    distance = float((real.mean - generated.mean).square().sum())
    distance += float(real.covariance.trace() + generated.covariance.trace())
    # The trace of (Σ₁ Σ₂)^½ is computed from Σ₁^½ Σ₂ Σ₁^½, which has the same eigenvalues and is symmetric,
    # so they are real; clamping removes negative values from rounding.
    values, vectors = torch.linalg.eigh(real.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    values = torch.linalg.eigvalsh(root @ generated.covariance @ root)
    distance -= 2 * float(values.clamp(min=0).sqrt().sum())
    if not math.isfinite(distance):  # max(0, nan) would be 0, a perfect score
        raise ScoreError(f"the FID of these features is {distance}")
    return max(0.0, distance)  # for equal sets only rounding differs from zero


class _Identity(nn.Module):
    """Passes existing features through where torchmetrics expects a detector."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def kid(real: Statistics, generated: Statistics, seed: int = 0) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³.

    Args:
        real: Statistics with features.
        generated: Statistics with features, with the same detector.
        seed: Seed of the 100 random subsets of 1000 images, or of as many as the smaller set has.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ScoreError: As for `fid`, or the features are missing.
    """
    # Imported here because it loads slowly and is only needed for scores.
    from torchmetrics.image.kid import KernelInceptionDistance

    _check(real, generated)
    if real.features is None or generated.features is None:
        raise ScoreError("KID needs the features, but these statistics only have their sums")
    size = min(_KID_SUBSET_SIZE, real.count, generated.count)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        metric = KernelInceptionDistance(
            feature=_Identity(len(real.total)), subsets=_KID_SUBSETS, subset_size=size
        )
    metric.update(real.features.double(), real=True)
    metric.update(generated.features.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = (float(value) for value in metric.compute())
    if not math.isfinite(mean):
        raise ScoreError(f"the KID of these features is {mean}")
    return mean, deviation


def _check(real: Statistics, generated: Statistics) -> None:
    if min(real.count, generated.count) < 2:
        raise ScoreError(
            f"{real.count} real and {generated.count} generated images, but at least two of each are needed"
        )
    if len(real.total) != len(generated.total):
        raise ScoreError("statistics of different detectors are not comparable")
    for what, found in (("real", real), ("generated", generated)):
        if not found.is_finite:
            raise ScoreError(f"the features of the {what} images are not finite")


def doubts(real: int, generated: int, num_features: int) -> list[str]:
    """Return warnings about a score from few images; an empty list if there are enough."""
    least = min(real, generated)
    said = []
    if least <= num_features:
        said.append(
            f"{least} images are too few for {num_features} features: the covariance is singular, and the "
            "FID "
            "is too high; only compare it with sets of the same size, or use --kid, which is unbiased"
        )
    elif least < 2048:
        said.append(
            f"{least} images are few: the FID is too high; only compare it with sets of the same size"
        )
    return said
