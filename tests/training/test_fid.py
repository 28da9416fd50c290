"""FID and KID against SciPy's matrix square root and a NumPy kernel; detectors and their refusals."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import linalg
from torch import Tensor, nn

from models.checkpoints import CheckpointError
from models.stylematte import MEAN, STD
from stylematte.errors import InputError, MissingError
from training import fid as scores
from training.fid import (
    Detector,
    EncoderDetector,
    ScoreError,
    ScriptDetector,
    fid,
    kid,
    load_detector,
    statistics,
)


class Means(Detector):
    """Features that are known: means of the quarters of each channel."""

    name, num_features, sha256 = "means", 12, ""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 64


def images(seed: int, count: int, low: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(low, 256, (count, 3, 4, 4), generator=generator)
    return noise.to(torch.uint8)


def features(batch: Tensor) -> np.ndarray:
    x = batch.numpy().astype(np.float64) / 64
    return x.reshape(len(x), 3, 2, 2, 2, 2).mean((3, 5)).reshape(len(x), 12)


def test_fid_is_that_of_scipy():
    a, b = images(1, 300), images(2, 200, low=60)
    x, y = features(a), features(b)
    root = linalg.sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum()
    wanted += np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * root)
    real, generated = (statistics(Means(), p.split(64)) for p in (a, b))
    np.testing.assert_allclose(real.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(real.covariance, np.cov(x, rowvar=False), rtol=1e-4, atol=1e-6)
    assert fid(real, generated) == pytest.approx(wanted, rel=1e-5)
    assert fid(generated, real) == pytest.approx(wanted, rel=1e-5)
    assert wanted > 0.1


def test_fid_of_few_pictures_is_that_of_torchmetrics():
    """Fewer pictures than features: the covariances have no full rank."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = images(8, 7), images(9, 9, low=60)
    metric = FrechetInceptionDistance(feature=Means(), input_img_size=(3, 4, 4))
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert fid(*(statistics(Means(), [p]) for p in (a, b))) == pytest.approx(
        float(metric.compute()), rel=1e-4
    )


def test_equal_sets_have_none_and_their_order_does_not_matter():
    a = images(3, 100)
    real, shuffled = (statistics(Means(), p.split(33)) for p in (a, a[torch.randperm(100)]))
    assert real.count == shuffled.count == 100
    assert fid(real, real) == pytest.approx(0, abs=1e-6)
    assert fid(real, shuffled) == pytest.approx(0, abs=1e-6)


def test_kid_is_that_of_numpy():
    """With as many images as a subset has, every subset is the whole set."""
    a, b = images(4, 120), images(5, 120, low=30)
    x, y = features(a), features(b)
    kernels = [(p @ q.T / 12 + 1) ** 3 for p, q in ((x, x), (y, y), (x, y))]
    off = ~np.eye(120, dtype=bool)
    wanted = kernels[0][off].mean() + kernels[1][off].mean() - 2 * kernels[2].mean()
    mean, deviation = kid(*(statistics(Means(), p.split(50), keep_features=True) for p in (a, b)))
    assert mean == pytest.approx(wanted, rel=1e-5)
    assert deviation == pytest.approx(0, abs=1e-6 * abs(wanted))


def test_kid_draws_the_same_subsets_and_leaves_the_generator_of_others_alone(monkeypatch):
    monkeypatch.setattr(scores, "_KID_SUBSET_SIZE", 20)
    real, generated = (statistics(Means(), [images(s, 40)], keep_features=True) for s in (6, 7))
    state = torch.get_rng_state()
    assert kid(real, generated) == kid(real, generated) != kid(real, generated, seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_scores_that_cannot_be():
    one, some = statistics(Means(), [images(1, 1)]), statistics(Means(), [images(1, 5)])
    with pytest.raises(ScoreError, match="two of each"):
        fid(some, one)
    with pytest.raises(ScoreError, match="KID needs"):
        kid(some, some)
    other = scores.Statistics(torch.zeros(3), torch.zeros(3, 3), 5)
    with pytest.raises(ScoreError, match="different detectors"):
        fid(some, other)


class Breaks(Means):
    """Makes NaN of images that begin with white, infinity of those that begin with black."""

    def forward(self, images: Tensor) -> Tensor:
        made, first = super().forward(images), images[:, 0, 0, 0]
        made[first == 255, 3] = torch.nan
        made[first == 0, 4] = torch.inf
        return made


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("keep_features", [False, True])
def test_features_that_are_no_numbers_are_no_score(value, keep_features):
    a = images(1, 60, low=1).clamp(max=254)
    sound = statistics(Breaks(), [a], keep_features)
    a[[7, 41], 0, 0, 0] = value
    with pytest.raises(
        scores.FeatureError, match="of 2 images are not finite, including image number 8, 42"
    ) as caught:
        statistics(Breaks(), a.split(16), keep_features)
    assert caught.value.places == [7, 41]
    bad = scores.Statistics(
        sound.total * torch.nan, sound.products, sound.count, torch.full((60, 12), torch.nan)
    )
    for pair in ((sound, bad), (bad, sound)):
        with pytest.raises(ScoreError, match="are not finite"):
            fid(*pair)
    if keep_features:
        with pytest.raises(ScoreError, match="generated images are not finite"):
            kid(sound, bad)


def test_doubts():
    assert "singular" in scores.doubts(300, 5000, 320)[0]
    assert "few" in scores.doubts(900, 5000, 320)[0]
    assert scores.doubts(5000, 5000, 2048) == []


class Script(nn.Module):
    """Like the Inception file: probabilities, or features on request."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(img.float(), 2).flatten(1)
        return x if return_features else x.sum(1, keepdim=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_file_gives_its_features(tmp_path):
    path = tmp_path / "features.pt"
    torch.jit.script(Script()).save(str(path))
    detector = load_detector(path)
    assert (detector.name, detector.num_features) == ("features.pt", 12)
    assert detector.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    batch = images(1, 3)
    np.testing.assert_allclose(detector(batch), features(batch) * 64, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_standard_file_is_known_by_its_hash(tmp_path, monkeypatch):
    path = tmp_path / scores.INCEPTION
    torch.jit.script(Script()).save(str(path))
    assert load_detector("inception", [tmp_path]).name == scores.INCEPTION
    monkeypatch.setattr(scores, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert load_detector("inception", [Path("nowhere"), tmp_path]).name == "inception"


def test_detectors_that_cannot_be_used(tmp_path):
    for name in ("inception", "mobilenet"):
        with pytest.raises(MissingError, match=str(tmp_path / name)) as caught:
            load_detector(name, [tmp_path])
        assert isinstance(caught.value, MissingError)
    with pytest.raises(MissingError) as caught:
        load_detector("inception")
    assert scores.INCEPTION_URL in str(caught.value)
    with pytest.raises(MissingError, match="'vgg'"):
        load_detector("vgg", [tmp_path])
    for name, kind, reason in (
        ("a.pt", InputError, "TorchScript"),
        ("a.safetensors", CheckpointError, "safetensors"),
        ("a.onnx", InputError, r"\.pt"),
    ):
        (tmp_path / name).write_bytes(b"no detector at all")
        with pytest.raises(kind, match=reason):
            load_detector(tmp_path / name)
    save_file({"stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "stem.safetensors")
    with pytest.raises(CheckpointError, match="MobileNetV2"):
        load_detector(tmp_path / "stem.safetensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_that_takes_no_images_is_refused(tmp_path):
    path = tmp_path / "linear.pt"
    torch.jit.script(nn.Linear(4, 5)).save(str(path))
    with pytest.raises(InputError, match="no features"):
        ScriptDetector(path)


def test_the_shipped_network_stands_in():
    """Its encoder sees normalised images of 224 x 224; 224 x 224 images are not resized at all."""
    from models.checkpoints import load_weights
    from stylematte.weights import ASSETS

    detector = load_detector("nano", [ASSETS])
    assert isinstance(detector, EncoderDetector)
    assert (detector.name, detector.num_features) == ("encoder of nano", 192)
    batch = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    model, _ = load_weights(ASSETS / "nano.safetensors")
    with torch.no_grad():
        wanted = model.encoder((batch / 255 - mean) / std)[-1].mean((2, 3))
        torch.testing.assert_close(detector(batch), wanted)
    assert detector(images(1, 2)).shape == (2, 192)
