"""`stylematte evaluate` on clips, sequences and folders of frames."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stylematte_cli.app import main
from tests.clips import draw_clip
from tests.images import save
from training.metrics import ClipScores, measure

SIZE = (40, 56)


def alphas(rng: np.random.Generator, frames: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and truths, (frames, H, W) uint8."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    discs = [np.clip((12 - np.hypot(rows - 20, columns - 24 - k)) * 64 + 128, 0, 255) for k in range(frames)]
    truths = np.stack(discs).astype(np.uint8)
    noise = rng.integers(-30, 31, truths.shape)
    return np.clip(truths.astype(int) + noise, 0, 255).astype(np.uint8), truths


def write_clip(path: Path, frames: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = *SIZE, "gray"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "gray")))
        container.mux(stream.encode(None))
    return path


def expected(predictions: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    clip = ClipScores()
    sads = []
    for prediction, truth in zip(predictions, truths, strict=True):
        unit = (prediction / np.float32(255)).astype(np.float32), (truth / np.float32(255)).astype(np.float32)
        clip.add(*unit)
        sads.append(measure(*unit)["SAD"])
    return {**clip.scores(), "SAD": float(np.mean(sads))}


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict:
    assert main(["evaluate", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def check(report: dict, scores: dict[str, float], frames: int, name: str) -> None:
    (clip,) = report["clips"]
    assert (clip["name"], clip["frames"], report["images"]) == (name, frames, frames)
    for key in ("dtSSD", "MESSDdt", "flicker"):
        assert clip[key] == pytest.approx(scores[key], rel=1e-4)
        assert key in report["conventions"]
    assert report["mean"]["SAD"] == pytest.approx(scores["SAD"], rel=1e-4)


def test_clips_sequences_and_folders_score_the_same(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, truths = alphas(rng, 12)
    pred, truth = write_clip(tmp_path / "pred.mkv", predictions), write_clip(tmp_path / "shot.mkv", truths)
    for number in range(12):  # unpadded numbers: 10 comes after 9, not after 1
        save(tmp_path / "pred" / f"f{number}.png", predictions[number])
        save(tmp_path / "truth" / f"f{number}.png", truths[number])
        save(tmp_path / "numbered" / f"shot.{1000 + number}.png", truths[number])
    scores = expected(predictions, truths)
    check(run_json(capsys, pred, truth), scores, 12, "shot")
    check(run_json(capsys, pred, tmp_path / "numbered" / "shot.####.png"), scores, 12, "shot.####")
    check(run_json(capsys, tmp_path / "pred", tmp_path / "truth", "--sequence"), scores, 12, ".")
    assert run_json(capsys, tmp_path / "pred", tmp_path / "truth")["clips"] == []


def test_the_table_names_clips_and_conventions(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, truths = alphas(rng)
    for folder in ("one", "two"):
        for number in range(4):
            save(tmp_path / "pred" / folder / f"{number}.png", predictions[number])
            save(tmp_path / "truth" / folder / f"{number}.png", truths[number])
    assert main(["evaluate", str(tmp_path / "pred"), str(tmp_path / "truth"), "--sequence"]) == 0
    text = capsys.readouterr().out
    assert "clip one, 4 frames:" in text
    assert "clip two, 4 frames:" in text
    assert "sqrt(sum (d_t - d_t-1)^2" in text


def test_what_does_not_fit_is_said(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, truths = alphas(rng)
    truth = write_clip(tmp_path / "truth.mkv", truths)
    short = write_clip(tmp_path / "short.mkv", predictions[:3])
    assert main(["evaluate", str(short), str(truth), "--quiet"]) == 3
    assert "short.mkv: only 3 frames, but the other clip has more" in capsys.readouterr().err
    photo = save(tmp_path / "photo.png", predictions[0])
    assert main(["evaluate", str(photo), str(truth)]) == 2
    assert "one is a clip and the other is not" in capsys.readouterr().err
    assert main(["evaluate", str(short), str(truth), "--trimap", str(photo)]) == 2
    assert "auto:R" in capsys.readouterr().err
    large = draw_clip(tmp_path / "large.mkv", frames=1, codec="ffv1", pixel_format="yuv444p")
    assert main(["evaluate", str(large), str(truth), "--quiet"]) == 3
    assert "96x128" in capsys.readouterr().err
