"""Training a refiner: drawn strands, spoilt alphas, scenes, and a run that lowers the error."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.checkpoints import CheckpointError, save_weights
from models.refiner import REFINERS, Refiner, load_refiner
from tests.models.networks import lively
from training.data.readers import DataError, is_held_out
from training.refinement.coarse import degraded
from training.refinement.loop import CROP_PX, Pool, batch_of, cut, loss_of, near_uncertain, train
from training.refinement.scenes import HELD_OUT_EVERY, Scene, blur_fusion, composed, draw_one, read_folder
from training.refinement.strands import draw

RNG = np.random.default_rng


def smooth(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth image, (H, W, 3) uint8."""
    small = RNG(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos and cut-outs with alphas, and backgrounds; some of each are held out."""
    root = tmp_path_factory.mktemp("refinement")
    for kind in ("photos", "cutouts", "backgrounds"):
        (root / kind).mkdir()
        stems = [f"drawn+{number}" for number in range(40)]
        kept = [s for s in stems if not is_held_out(s.replace("+", "/"), HELD_OUT_EVERY)][:3]
        held = [s for s in stems if is_held_out(s.replace("+", "/"), HELD_OUT_EVERY)][:1]
        for number, stem in enumerate(kept + held):
            drawing = draw(RNG(number), smooth(number, 260, 300), smooth(99, 50, 50))
            image = drawing.image[..., ::-1]
            if kind != "backgrounds":
                image = np.dstack([image, drawing.alpha])
            cv2.imwrite(str(root / kind / f"{stem}.png"), image)
    return root


def test_a_drawing_is_the_composite_of_one_foreground_with_its_alpha() -> None:
    """The same strands before two backgrounds: they differ by the backgrounds' difference times 1 − alpha."""
    black, white = np.zeros((70, 90, 3), np.uint8), np.full((70, 90, 3), 255, np.uint8)
    # Colours depend on the background's brightness, and nothing is to be drawn into it: seeds without either.
    found = 0
    for seed in range(16):
        a, b = (draw(RNG(seed), background, smooth(1, 40, 40)) for background in (black, white))
        if (
            not np.array_equal(a.alpha, b.alpha)
            or a.image[a.alpha == 0].any()
            or (b.image[b.alpha == 0] < 255).any()
        ):
            continue
        opaque = a.alpha == 255
        if not np.array_equal(a.image[opaque], b.image[opaque]):
            continue
        difference = b.image.astype(int) - a.image
        assert np.abs(difference - (255 - a.alpha.astype(int))[..., None]).max() <= 2
        found += 1
    assert found >= 3


def test_drawings_have_strands_and_repeat() -> None:
    soft = []
    for seed in range(6):
        one, two = (draw(RNG(seed), smooth(2, 200, 240), smooth(3, 40, 40)) for _ in range(2))
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.alpha, two.alpha)
        assert 0.02 < (one.alpha > 127).mean() < 0.95
        soft.append(((one.alpha > 12) & (one.alpha < 243)).mean())
    assert np.mean(soft) > 0.01


@pytest.mark.parametrize("ratio", [1.4, 3.0, 9.0])
def test_a_spoilt_alpha_is_near_the_true_one_and_without_its_strands(ratio: float) -> None:
    torch.manual_seed(0)
    alpha = torch.zeros(4, 1, 96, 96)
    alpha[..., 48:] = 1
    alpha[..., 10:12, :] = 1  # a strand
    image = torch.rand(4, 3, 96, 96)
    changes = []
    for _ in range(8):
        coarse = degraded(image, alpha, ratio)
        assert coarse.shape == alpha.shape
        assert torch.isfinite(coarse).all()
        assert 0 <= coarse.min() <= coarse.max() <= 1
        changes.append((coarse - alpha).abs().mean())
        assert (coarse[..., 30:, 60:].mean() - coarse[..., 30:, :36].mean()) > 0.5
    assert 0.005 < torch.stack(changes).mean() < 0.3


def test_colours_of_the_foreground_are_found() -> None:
    alpha = torch.zeros(1, 1, 96, 96)
    alpha[..., 32:64, 32:64] = 1
    alpha = torch.nn.functional.avg_pool2d(alpha, 9, 1, 4)
    red, green = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([0, 1.0, 0]).view(1, 3, 1, 1)
    image = composed(red.expand(1, 3, 96, 96), alpha, green.expand(1, 3, 96, 96))
    found = blur_fusion(image, alpha)
    seen = (alpha > 0.2).expand_as(image)
    assert (image - red).abs()[seen].max() > 0.7
    assert (found - red).abs()[seen].max() < 0.15


def test_held_out_files_are_left_out(data: Path) -> None:
    assert [len(read_folder(data / "photos", held_out)) for held_out in (False, True)] == [3, 1]
    assert read_folder(data / "photos", False)[0].shape[2] == 4
    assert read_folder(data / "backgrounds", True)[0].shape[2] == 3
    (data / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        read_folder(data / "empty", False)


def test_crops_lie_around_the_band_and_hold_the_truth() -> None:
    alpha = torch.zeros(1, 1, 300, 400)
    alpha[..., 150:, :] = 1
    alpha = torch.nn.functional.avg_pool2d(alpha, 7, 1, 3, count_include_pad=False)
    scene = Scene(torch.rand(1, 3, 300, 400), alpha, "photo")
    found = cut(scene, lively("test").eval(), 4.0, 6)
    assert found is not None
    crops, _ = found
    assert crops.shape == (6, 5, CROP_PX, CROP_PX)
    assert crops.dtype == torch.uint8
    truth = crops[:, 3].float() / 255
    assert ((truth > 0.1) & (truth < 0.9)).flatten(1).any(1).all()
    flat = Scene(scene.image, torch.ones_like(alpha), "photo")
    assert cut(flat, lively("test").eval(), 4.0, 6) is None


def test_a_batch_keeps_image_truth_and_coarse_alpha_together() -> None:
    """Red is the truth, whatever is flipped, turned, or done to the light."""
    torch.manual_seed(0)
    truth = (torch.rand(40, 1, 6, 6) > 0.5).float()
    truth = torch.nn.functional.interpolate(truth, (CROP_PX, CROP_PX))
    image = torch.cat([truth, 1 - truth, torch.full_like(truth, 0.5)], 1)
    pool = Pool(40, torch.device("cpu"))
    crops = (torch.cat([image, truth, truth], 1) * 255).byte()
    pool.add(Scene(image, truth, "photo"), crops, trusted=True)
    picture, wanted, coarse, band = batch_of(pool, 16, 64)
    assert picture.shape == (16, 3, 64, 64)
    assert wanted.shape == coarse.shape == band.shape == (16, 1, 64, 64)
    for one, right in zip(picture, wanted, strict=True):
        if 0.2 < right.mean() < 0.8:
            difference = one[0] - one[1]
            # Saturation may be taken away altogether, and then nothing tells.
            if difference.std() > 0.1:
                assert torch.corrcoef(torch.stack([difference.flatten(), right.flatten()]))[0, 1] > 0.8
    assert set(band.unique().tolist()) <= {0.0, 1.0}


def test_near_is_within_a_square() -> None:
    alpha = torch.zeros(1, 1, 30, 40)
    alpha[0, 0, 10, 5] = 0.5
    alpha[0, 0, 20, 39] = 0.03
    near = near_uncertain(alpha, 4)[0, 0]
    wanted = torch.zeros(30, 40)
    wanted[6:15, 1:10] = 1
    wanted[16:25, 35:] = 1
    assert torch.equal(near, wanted)


def test_the_loss_is_least_at_the_truth_and_looks_at_the_band_alone() -> None:
    truth = torch.rand(2, 1, 32, 32)
    band = near_uncertain(torch.full_like(truth, 0.5), 1)
    band[..., :16] = 0
    right = torch.logit(truth.clamp(1e-4, 1 - 1e-4))
    worse = right.clone()
    worse[..., 8:] += 1
    outside = right.clone()
    outside[..., :8] += 3
    losses = [float(loss_of(logits, truth, band)) for logits in (right, outside, worse)]
    assert losses[0] < 1e-3
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert losses[2] > 0.05


def test_a_run_trains_and_writes_weights(data: Path, tmp_path: Path) -> None:
    coarse = tmp_path / "coarse.safetensors"
    save_weights(lively("test"), coarse)
    arguments = {
        "data": str(data), "coarse": str(coarse), "out": str(tmp_path / "out"), "seconds": 8.0,
        "shape": "test_refiner", "device": "cpu", "batch": 8, "lr": 5e-3, "pool": 200, "first": 40,
        "held_out": 2, "drawers": 0, "every": 2.0, "seed": 0, "init": None, "precision": None,
    }  # fmt: skip
    train(argparse.Namespace(**arguments))
    lines = [json.loads(line) for line in (tmp_path / "out" / "refiner_log.jsonl").read_text().splitlines()]
    assert lines[-1]["done"]
    assert any("loss" in line for line in lines)
    model, provenance = load_refiner(tmp_path / "out" / "refiner.safetensors")
    assert provenance["steps"] == lines[-1]["step"] > 0
    assert not torch.equal(model.head.weight, Refiner(REFINERS["test_refiner"]).head.weight)

    further = {
        "init": tmp_path / "out" / "refiner.safetensors",
        "lr": 1e-9,
        "seconds": 2.0,
        "precision": "bf16",
    }
    train(argparse.Namespace(**arguments | further | {"out": str(tmp_path / "further")}))
    torch.testing.assert_close(
        load_refiner(tmp_path / "further" / "refiner.safetensors")[0].head.weight, model.head.weight
    )
    with pytest.raises(CheckpointError, match="a test_refiner, not a nano_refiner"):
        train(argparse.Namespace(**arguments | further | {"shape": "nano_refiner"}))


def test_grey_and_deep_images_become_rgb_of_8_bits(tmp_path: Path) -> None:
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    kinds = {"grey": grey, "deep": grey.astype(np.uint16) * 257, "rgb": np.dstack([grey] * 3)}
    for name, pixels in kinds.items():
        folder = tmp_path / name
        folder.mkdir()
        cv2.imwrite(str(folder / "1.png"), pixels)
        (read,) = read_folder(folder, held_out=is_held_out("1", HELD_OUT_EVERY))
        assert np.array_equal(read, np.dstack([grey] * 3)), name


def test_scenes_are_drawn_alike_for_a_seed() -> None:
    backgrounds, textures = [smooth(1, 100, 130)], [smooth(2, 50, 50)]
    one, two = (draw_one(5, backgrounds, textures) for _ in range(2))
    assert one.shape[2] == 4
    assert np.array_equal(one, two)
