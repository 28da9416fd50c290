"""The article's recipe from beginning to end, at a size that trains in seconds."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from models.checkpoints import load_weights
from tests.training import drawn
from training.config import load_recipe
from training.loop import RunOptions, train
from training.recipe_files import RECIPES


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """P3M-10k with its validation sets, AM-2k and BG-20k as they unpack, and generated cut-outs."""
    root, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(3)
    for base, images, count in (
        ("P3M-10k/train", "blurred_image", 5),
        ("P3M-10k/validation/P3M-500-P", "blurred_image", 2),
        ("P3M-10k/validation/P3M-500-NP", "original_image", 2),
        ("AM-2k/train", "original", 3),
    ):
        for number in range(count):
            image, alpha, _ = drawn.sample_image(rng)
            drawn.save(root / base / images / f"x_{number}.jpg", image)
            drawn.save(root / base / "mask" / f"x_{number}.png", np.round(alpha * 255).astype(np.uint8))
    for number in range(3):
        _, alpha, colours = drawn.sample_image(rng)
        cutout = np.dstack([colours, np.round(alpha * 255).astype(np.uint8)])
        drawn.save(root / "synthetic" / f"{number}.png", cutout)
        drawn.save(root / "BG-20k" / "train" / f"h_{number}.jpg", colours)
    return root


def small(recipe: str, **changes: str) -> str:
    """The recipe's text with a network, images and stages that take no time."""
    text = re.sub(r"^epochs = \S+", "steps = 1", (RECIPES / f"{recipe}.toml").read_text(), flags=re.MULTILINE)
    text = text.replace("[800, 800]", "[64, 64]").replace("photos = 50", "photos = 1")
    for old, new in changes.items():
        text, count = re.subn(rf"^{old} = .*", f"{old} = {new}", text, count=1, flags=re.MULTILINE)
        assert count == 1
    return text


def test_all_of_its_stages_run(root, tmp_path):
    (tmp_path / "mine.toml").write_text(small("stylematte", preset='"test_swin"'))
    options = RunOptions(tmp_path / "run", tmp_path, workers=0)
    lines: list[str] = []
    scores = train(load_recipe(str(tmp_path / "mine.toml")), root, options, report=lines.append)
    for stage in ("segmentation", "hausdorff", "matting", "animals", "synthetic"):
        assert any(line.startswith(f"{stage} 1/1  loss ") for line in lines)
    assert {"sad", "sad/P3M-500-P@full", "mad/P3M-500-NP@full"} <= set(scores)
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        values = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    assert ("2", "fine_hausdorff") in values
    assert values["5", "fine_l2"] > 0
    assert load_weights(tmp_path / "run" / "best.safetensors")[0].preset.name == "test_swin"


def test_the_further_losses_that_its_comments_show(root, tmp_path):
    text = small("stylematte", preset='"test_swin"')
    option = re.search(r"^# (fine = .*composition.*)$", text, re.MULTILINE)
    assert option
    text = text.replace("fine = { l2 = 1.0 }", option[1], 1).replace("composite = 0.0", "composite = 1.0")
    (tmp_path / "mine.toml").write_text(text + "\n")
    (tmp_path / "only.toml").write_text(f'extends = "{tmp_path / "mine.toml"}"\nonly_stages = ["matting"]\n')
    options = RunOptions(tmp_path / "run", tmp_path, workers=0)
    train(load_recipe(str(tmp_path / "only.toml")), root, options, report=lambda line: None)
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        values = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    assert values["fine_composition"] > 0
    parts = [values[f"fine_{name}"] for name in ("l2", "laplacian", "composition")]
    assert values["loss"] == pytest.approx(sum(parts), rel=1e-4)
