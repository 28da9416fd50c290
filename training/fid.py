"""How far generated pictures are from real ones: FID and KID on the features of a detector.

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

_STAND_IN_PX = 224  # what MobileNetV2 and Swin were trained at
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000


class ScoreError(InputError):
    """Too few pictures for a score, statistics that do not belong together, or ones that are no numbers."""


class FeatureError(ScoreError):
    """Pictures of which a detector makes NaN or infinite features.

    Attributes:
        places: Their places in the order in which pictures were given, from 0.
    """

    def __init__(self, places: list[int]) -> None:
        named = ", ".join(str(place + 1) for place in places[:3])
        super().__init__(
            f"of {len(places)} pictures, among them number {named}, the detector makes features that are no "
            "numbers"
        )
        self.places = places


class Detector(nn.Module):
    """Pictures in, features out: `forward` takes (N, 3, H, W) uint8 RGB of any size, gives (N, d) float32.

    Attributes:
        name: As reports call it; scores of detectors of different names do not compare.
        num_features: d.
        sha256: Of its file.
    """

    name: str
    num_features: int
    sha256: str


class ScriptDetector(Detector):
    """A TorchScript file such as the Inception network of 2015-12-05; it brings its own resizing.

    The file's graph runs in torch's interpreter: no Python code of the file is run, but a graph may call any
    operator of torch, so a file of unknown origin is to be trusted no more than a program.

    Args:
        path: The file.

    Raises:
        InputError: No TorchScript file, or one that makes no features of pictures.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sha256 = sha256_of(path)
        self.name = "inception" if self.sha256 == INCEPTION_SHA256 else path.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # no other format has the network
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
            raise InputError(f"{path}: makes no features of uint8 pictures: {reason}") from None

    def forward(self, pictures: Tensor) -> Tensor:
        """See `Detector`."""
        return self.script(pictures, **self.options).float()


class EncoderDetector(Detector):
    """A stand-in where Inception is not at hand: the last map of an encoder, averaged over the picture.

    Args:
        encoder: Takes RGB normalised with ImageNet's mean and deviation.
        name: As reports call it.
        sha256: Of the file its weights are from.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, name: str, sha256: str) -> None:
        super().__init__()
        # Channels last: a third less time on a CPU.
        self.encoder = encoder.eval()
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name, self.sha256 = name, sha256
        self.num_features = encoder.channels[-1]
        self.side_px = -(-_STAND_IN_PX // encoder.multiple) * encoder.multiple
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """See `Detector`; pictures are squashed to a square, as Inception's are."""
        size = (self.side_px, self.side_px)
        x = F.interpolate(pictures.float() / 255, size, mode="bilinear", antialias=True)  # (N, 3, s, s)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.encoder(x)[-1].mean((2, 3))


def load_detector(name_or_path: str | Path, folders: Sequence[Path] = ()) -> Detector:
    """Load a detector.

    Args:
        name_or_path: `inception`, the standard; `mobilenet`, a stand-in; a TorchScript file (.pt); weights of
            `stylematte train` or a folded MobileNetV2 (.safetensors); or the name of such weights.
        folders: Where files are looked for that are given by name; the last is named when one is missing.

    Raises:
        MissingError: There is no such file.
        InputError: A file that cannot be read, or of another kind.
        CheckpointError: Weights that cannot be read.
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
            f"detector inception: {home / INCEPTION} is not there. Fetch {INCEPTION_URL} (96 MB) and put it "
            "there, or give its path. Without it, --detector nano gives numbers of another scale"
        )
    if name == "mobilenet":
        raise MissingError(
            f"detector mobilenet: {home / MOBILENET} is not there. It is MobileNetV2 of ImageNet with batch "
            "norms folded, as --backbone-weights of stylematte train takes it; put it there, or give its path"
        )
    raise MissingError(
        f"detector {name!r}: no such file, and no weights of that name in "
        f"{', '.join(map(str, folders)) or 'any folder'}. There are inception, mobilenet, and trained weights"
    )


@dataclass(frozen=True)
class Statistics:
    """What FID needs of a set of pictures, and with `features` KID too.

    Attributes:
        total: (d,) float64, sum of the features.
        products: (d, d) float64, sum of their outer products.
        count: Pictures.
        features: (count, d) float32; None where nobody asked for KID.
    """

    total: Tensor
    products: Tensor
    count: int
    features: Tensor | None = None

    @property
    def is_finite(self) -> bool:
        """Whether all of it are numbers; sums of features that are none are none either."""
        parts = [self.total, self.products, *([] if self.features is None else [self.features])]
        return all(bool(part.isfinite().all()) for part in parts)

    @property
    def mean(self) -> Tensor:
        """(d,) float64."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """(d, d) float64, with divisor count - 1."""
        return (self.products - self.count * self.mean.outer(self.mean)) / (self.count - 1)


def statistics(detector: Detector, pictures: Iterable[Tensor], keep_features: bool = False) -> Statistics:
    """Run pictures through a detector.

    Args:
        detector: On the device it is to run on.
        pictures: Batches (N, 3, H, W) uint8 RGB, on any device; sizes may differ from batch to batch.
        keep_features: For `kid`.

    Returns:
        Statistics on the CPU.

    Raises:
        FeatureError: Features are NaN or infinite.
    """
    device = next((t.device for t in (*detector.parameters(), *detector.buffers())), torch.device("cpu"))
    total = torch.zeros(detector.num_features, dtype=torch.float64, device=device)
    products = torch.zeros(2 * (detector.num_features,), dtype=torch.float64, device=device)
    count, broken, kept = 0, [], []
    for batch in pictures:
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
        real: Of the one set.
        generated: Of the other, by the same detector.

    Raises:
        ScoreError: Less than two pictures, features of different length, or ones that are no numbers.
    """
    _check(real, generated)
    distance = float((real.mean - generated.mean).square().sum())
    distance += float(real.covariance.trace() + generated.covariance.trace())
    # The trace of (Σ₁ Σ₂)^½ by way of Σ₁^½ Σ₂ Σ₁^½, which has the same eigenvalues and is symmetric: they are
    # real, and rounding cannot make a root of a negative number.
    values, vectors = torch.linalg.eigh(real.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    values = torch.linalg.eigvalsh(root @ generated.covariance @ root)
    distance -= 2 * float(values.clamp(min=0).sqrt().sum())
    if not math.isfinite(distance):  # max(0, nan) would be 0, a perfect score
        raise ScoreError(f"the FID of these features is {distance}")
    return max(0.0, distance)  # equal sets differ from zero by rounding alone


class _AsTheyAre(nn.Module):
    """Stands where torchmetrics wants a detector, for features that are already there."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def kid(real: Statistics, generated: Statistics, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x·y / d + 1)³, without bias.

    Args:
        real: With features.
        generated: With features, by the same detector.
        seed: Draws 100 subsets of 1000 pictures, or of as many as the smaller set has.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ScoreError: As for `fid`, or no features.
    """
    # Here: it loads slowly, and a run without scores needs none of it.
    from torchmetrics.image.kid import KernelInceptionDistance

    _check(real, generated)
    if real.features is None or generated.features is None:
        raise ScoreError("KID needs the features themselves; these statistics have sums alone")
    size = min(_KID_SUBSET_SIZE, real.count, generated.count)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        metric = KernelInceptionDistance(
            feature=_AsTheyAre(len(real.total)), subsets=_KID_SUBSETS, subset_size=size
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
        raise ScoreError(f"{real.count} real and {generated.count} generated pictures: two of each at least")
    if len(real.total) != len(generated.total):
        raise ScoreError("statistics of two detectors do not compare")
    for what, found in (("real", real), ("generated", generated)):
        if not found.is_finite:
            raise ScoreError(f"the features of the {what} pictures are no numbers")


def doubts(real: int, generated: int, num_features: int) -> list[str]:
    """Say what is to be known of a score from so few pictures; empty where there are enough."""
    least = min(real, generated)
    said = []
    if least <= num_features:
        said.append(
            f"{least} pictures do not fill {num_features} features: the covariance is singular, and the FID "
            "too high; compare it with sets of equal size, or give --kid, which has no bias"
        )
    elif least < 2048:
        said.append(f"{least} pictures are few: the FID is too high; compare it with sets of equal size")
    return said
