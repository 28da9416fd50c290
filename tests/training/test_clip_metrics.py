"""dtSSD, MESSDdt and flicker against float64 NumPy and values by hand."""

import numpy as np
import pytest

from training.metrics import CONVENTIONS, OF_CLIPS, ClipScores

SIZE = (48, 64)


def score(predictions: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    scores = ClipScores()
    for prediction, truth in zip(predictions, truths, strict=True):
        scores.add(prediction.astype(np.float32), truth.astype(np.float32))
    assert scores.frames == len(truths)
    return scores.scores()


def disc(x: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.clip((12 - np.hypot(rows - 24, columns - x)) / 4 + 0.5, 0, 1)


def test_formulas_in_float64(rng: np.random.Generator) -> None:
    still = disc(30)
    truths = np.stack([still] * 5)
    predictions = np.clip(truths + rng.normal(0, 0.1, truths.shape), 0, 1)
    found = score(predictions, truths)
    d = predictions - truths
    size = still.size
    dtssd = [100 * np.sqrt(np.sum((d[t] - d[t - 1]) ** 2) / size) for t in range(1, 5)]
    assert found["dtSSD"] == pytest.approx(np.mean(dtssd), rel=1e-5)
    # The truth does not move, so v = 0.
    messddt = [1000 * np.sum(np.abs(d[t] ** 2 - d[t + 1] ** 2)) / size for t in range(4)]
    assert found["MESSDdt"] == pytest.approx(np.mean(messddt), rel=1e-5)
    flicker = [1000 * np.sum(np.abs(d[t] - (d[t - 1] + d[t + 1]) / 2)) / size for t in range(1, 4)]
    assert found["flicker"] == pytest.approx(np.mean(flicker), rel=1e-5)
    assert set(found) == set(OF_CLIPS) <= set(CONVENTIONS)


def test_by_hand() -> None:
    truths = np.zeros((3, *SIZE))
    predictions = np.zeros((3, *SIZE))
    predictions[1, :24] = 0.5  # half of the image blinks
    found = score(predictions, truths)
    assert found["dtSSD"] == pytest.approx(100 * np.sqrt(0.5 * 0.25))
    assert found["MESSDdt"] == pytest.approx(1000 * 0.5 * 0.25)
    assert found["flicker"] == pytest.approx(1000 * 0.5 * 0.5)


def test_steady_errors_do_not_count() -> None:
    truths = np.stack([disc(20 + k) for k in range(4)])
    assert score(truths, truths) == {"dtSSD": 0, "MESSDdt": 0, "flicker": 0}
    halved = score(np.stack([disc(30)] * 4) * 0.5, np.stack([disc(30)] * 4))
    assert halved == pytest.approx({"dtSSD": 0, "MESSDdt": 0, "flicker": 0}, abs=1e-6)


def test_messddt_follows_an_error_that_moves_along() -> None:
    truths = np.stack([disc(20 + 3 * k) for k in range(5)])
    along = 0.6 * truths  # too thin everywhere, and so from frame to frame
    jumping = truths * np.array([0.6, 0.9, 0.6, 0.9, 0.6])[:, None, None]
    still = np.mean(np.abs(np.diff((along - truths) ** 2, axis=0))) * 1000
    assert score(along, truths)["MESSDdt"] < 0.35 * still, "without following it would count"
    assert score(jumping, truths)["MESSDdt"] > 5 * score(along, truths)["MESSDdt"]


def test_too_few_frames_have_no_score() -> None:
    one = score(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))
    assert all(np.isnan(value) for value in one.values())
    two = score(np.zeros((2, 4, 4)), np.zeros((2, 4, 4)))
    assert (two["dtSSD"], two["MESSDdt"]) == (0, 0)
    assert np.isnan(two["flicker"])


def test_sizes_must_agree() -> None:
    scores = ClipScores()
    with pytest.raises(ValueError, match="sizes differ"):
        scores.add(np.zeros((4, 4), np.float32), np.zeros((4, 5), np.float32))
    scores.add(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="sizes differ"):
        scores.add(np.zeros((5, 4), np.float32), np.zeros((5, 4), np.float32))
