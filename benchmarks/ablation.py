"""Measure what the parts of `nano` contribute: short trainings that differ in one thing, scored alike.

    python benchmarks/ablation.py --data DIR --mattes DIR --weights FILE --backbone-weights FILE --out DIR \
        [--steps 200] [--only NAME ...]

Rows of the matting stage start from --weights, the weights of nano after its segmentation stage, and train
for --steps steps of the stage, on the same images in the same order. The pyramid cannot be removed from
trained weights, so its two rows start from the encoder of --backbone-weights and train for --steps steps of
segmentation.
Scores are those of `training.held_out.score`, at training size, on up to 30 held-out photos of each set. A
short training ranks what helps early; it does not predict the result of a full one.
"""

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.checkpoints import load_weights
from models.stylematte import StyleMatte
from training.backbone import load_backbone
from training.config import Recipe, Stage, load_recipe
from training.loop import RunOptions, train
from training.teacher import Teacher

HAUSDORFF = {"bce": 1.0, "dice": 1.0, "hausdorff": 1.0}  # losses of the article's Hausdorff phase


@dataclass(frozen=True)
class Variant:
    """A row: changes to the network and the stage, the stage, and whether a teacher is used."""

    network: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    stage: str = "matting"
    taught: bool = False  # by --weights, where labels are unknown: beside hair maps, at doubtful skin


VARIANTS = {
    "nano": Variant(),
    "bilinear": Variant({"upsampler": "bilinear"}),
    "fast_gf": Variant({"upsampler": "fast_gf"}),
    "conv_gf": Variant({"upsampler": "conv_gf"}),
    "deep_gf": Variant({"upsampler": "deep_gf"}),
    "half of it a Hausdorff phase": Variant(changes={"fine": HAUSDORFF, "coarse": {}}),
    "no other backgrounds": Variant(changes={"composite": 0.0}),
    "its own teacher": Variant(taught=True),
    "segmentation, pyramid": Variant(stage="segmentation"),
    "segmentation, no pyramid": Variant({"pyramid": False}, stage="segmentation"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "mattes", "weights", "backbone-weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    table: dict[str, dict[str, float]] = {}
    for name in arguments.only:
        table[name] = run(name, arguments)
        print(f"{name:30}", "  ".join(f"{key} {value:.4f}" for key, value in table[name].items()), flush=True)
        (arguments.out / "ablation.json").write_text(json.dumps(table, indent=2) + "\n")


def run(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Train a row, and score it."""
    variant = VARIANTS[name]
    recipe = replace(load_recipe("nano"), network=variant.network)
    recipe = replace(recipe, stages=stages(recipe, variant, arguments.steps))

    def begin(model: StyleMatte) -> None:
        if variant.stage == "segmentation":
            load_backbone(model, arguments.backbone_weights, recipe, arguments.data)
            return
        trained, _ = load_weights(arguments.weights)
        known = {k: v for k, v in trained.state_dict().items() if not k.startswith("upsampler.")}
        lost = model.load_state_dict(known, strict=False)  # every row trains a new upsampler
        assert not lost.unexpected_keys
        assert all(key.startswith("upsampler.") for key in lost.missing_keys)

    options = RunOptions(
        arguments.out / name.replace(" ", "_"),
        arguments.mattes,
        precision="bf16",
        workers=1,
        every=arguments.steps,
        per_set=30,
    )
    teacher = Teacher.load(arguments.weights) if variant.taught else None
    return train(recipe, arguments.data, options, begin, report=lambda line: None, teacher=teacher)


def stages(recipe: Recipe, variant: Variant, steps: int) -> tuple[Stage, ...]:
    """Return the recipe's stage, changed and shortened; changed losses apply to its first half."""
    stage = next(s for s in recipe.stages if s.name == variant.stage)
    warmup = min(stage.warmup_steps, steps // 10)
    whole = replace(stage, steps=steps, warmup_steps=warmup)
    if "fine" not in variant.changes:
        return (replace(whole, **variant.changes),)
    half = replace(whole, steps=steps // 2)
    return (replace(half, **variant.changes), half)


if __name__ == "__main__":
    main()
