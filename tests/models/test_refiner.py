"""The refiner: what it starts from, what it costs, and its weights."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from models.checkpoints import CheckpointError, write_tensors
from models.refiner import CLEAR_LOGIT, REFINERS, Refiner, load_refiner, macs_per_pixel
from stylematte.imaging.refinement import MARGIN_PX

TEST = REFINERS["test_refiner"]


def test_training_starts_at_the_coarse_alpha() -> None:
    torch.manual_seed(0)
    image, coarse = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64)
    coarse[:, :, :8], coarse[:, :, 8:16] = 0, 1
    refined = Refiner(TEST).eval()(image, coarse)
    assert refined.dtype == torch.float32
    least = torch.sigmoid(torch.tensor(-CLEAR_LOGIT)).item()
    torch.testing.assert_close(refined, coarse.clamp(least, 1 - least), atol=1e-5, rtol=0)


def test_the_one_that_ships_keeps_to_its_budget() -> None:
    shape = REFINERS["nano_refiner"]
    assert sum(p.numel() for p in Refiner(shape).parameters()) < 500_000
    share_used = ((shape.tile_px - 2 * MARGIN_PX) / shape.tile_px) ** 2
    assert macs_per_pixel(shape) / share_used < 20_000


def test_macs_are_those_of_the_layers() -> None:
    widths, stride_2 = TEST.widths, 9 / 4  # a 3×3 kernel at half the side
    by_hand = stride_2 * widths[0] * (16 + widths[0] + widths[0] + 4)  # stem, up and head
    for level, (fine, coarse) in enumerate(pairwise(widths), start=2):
        by_hand += (9 * fine * coarse + 9 * coarse * coarse + fine * coarse) / 4**level
        by_hand += 9 * coarse * coarse / 4**level * (level < 4)  # its way up; the coarsest has none
    assert macs_per_pixel(TEST) == pytest.approx(by_hand)


def test_a_pixel_reaches_its_neighbours_and_not_the_other_tile() -> None:
    torch.manual_seed(0)
    model = Refiner(TEST).eval()
    nn.init.normal_(model.head.weight, std=0.3)
    image, coarse = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64)
    other = image.clone()
    other[0, :, 30, 30] = 1 - other[0, :, 30, 30]
    change = (model(image, coarse) - model(other, coarse)).abs()
    assert change[0, 0, 28:33, 28:33].max() > 1e-4
    assert change[1].max() == 0


def test_weights_are_written_and_read(tmp_path: Path) -> None:
    model, path = Refiner(TEST).eval(), tmp_path / "hair.safetensors"
    write_tensors(path, model.state_dict(), {"refiner": TEST.name, "provenance": '{"steps": 3}'})
    read, provenance = load_refiner(path)
    assert provenance == {"steps": 3}
    assert not read.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor)
    write_tensors(path, model.state_dict(), {"refiner": "other"})
    with pytest.raises(CheckpointError, match="unknown refiner 'other'; choose from nano_refiner"):
        load_refiner(path)
    write_tensors(path, model.state_dict(), {"refiner": "nano_refiner"})
    with pytest.raises(CheckpointError, match="the network expects"):
        load_refiner(path)
