"""Estimate the cost of a run before it starts: time per step, total time, and disk space."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from models.stylematte import StyleMatte, build_model
from training.config import DataSet, Recipe, Stage
from training.data.dataset import shape_near
from training.data.pseudo_alpha import cached_paths
from training.data.subjects import read_data_set
from training.loop import RunOptions
from training.objective import Objective
from training.optimiser import make_optimiser

# Core seconds and bytes per photo whose matte or colours are prepared, at 0.4 megapixels.
SOLVED_S, SOLVED_BYTES = 0.9, 700_000
_SHEET_BYTES = 600_000  # per preview sheet
_COPIES = 6  # copies of the weights on disk: network, average, two optimiser moments, last, best


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a run.

    Attributes:
        step_s: Seconds per step of the most expensive stage: forward, backward and update.
        how: How the step was measured.
        stages_s: Stage → seconds of all its steps, scaled by its pixels.
        to_prepare: Photos whose matte or colours are prepared before the first step.
        prepare_s: Seconds for this preparation.
        written_bytes: Bytes that the run writes.
    """

    step_s: float
    how: str
    stages_s: dict[str, float]
    to_prepare: int
    prepare_s: float
    written_bytes: int

    @property
    def run_s(self) -> float:
        """Seconds of the whole run, without scoring and previews."""
        return self.prepare_s + sum(self.stages_s.values())


def estimate_run(recipe: Recipe, root: Path, options: RunOptions) -> Estimate:
    """Measure a step on random pixels and extrapolate.

    Args:
        recipe: Recipe prepared by `training.plan.make_plan`, so that every stage has steps.
        root: Folder of the data sets.
        options: Options of the run.
    """
    stage = max(recipe.stages, key=lambda s: s.steps * _pixels(s))
    model = build_model(recipe.build_preset()).to(options.device)
    step_s, how = _time_step(model, recipe, stage, options)
    a_pixel = step_s / _pixels(stage)
    to_prepare = sum(
        not cached_paths(sample, options.mattes)[product].exists()
        for data_set in recipe.sets
        if (product := _prepared(recipe, data_set))
        for sample in read_data_set(root, data_set)
    )
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    sheets = sum(-(-s.steps // options.every) for s in recipe.stages)
    written = _COPIES * weights + sheets * _SHEET_BYTES + to_prepare * SOLVED_BYTES
    return Estimate(
        step_s,
        how,
        {s.name: s.steps * a_pixel * _pixels(s) for s in recipe.stages},
        to_prepare,
        to_prepare * SOLVED_S / max(1, options.workers),
        written,
    )


def _prepared(recipe: Recipe, data_set: DataSet) -> str:
    """Return what `training.data.subjects.prepare_set` prepares for a set: "alpha", "foreground" or ""."""
    if data_set.kind == "photos":
        return "alpha"
    exchanged = any(stage.composite > 0 for stage in recipe.stages)
    return "foreground" if data_set.kind == "mattes" and data_set.colours == "estimated" and exchanged else ""


def _pixels(stage: Stage) -> float:
    """Return the pixels of a step, images and guides together."""
    side = sum(stage.side) / 2
    return stage.batch_size * side**2 * (1 + stage.guide_scale**2)


def _time_step(model: StyleMatte, recipe: Recipe, stage: Stage, options: RunOptions) -> tuple[float, str]:
    """Return the seconds of one step, and how they were measured."""
    device, precision = options.device, options.precision
    kind = torch.device(device).type
    objective = Objective(model, stage)
    objective.begin(stage)
    objective.train()
    optimiser = make_optimiser(model, recipe.weight_decay)
    random_state = torch.get_rng_state()
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def step(batch_size: int) -> float:
        side = sum(stage.side) / 2
        size, guide = shape_near(side, 1.0), shape_near(side * stage.guide_scale, 1.0)
        batch = {"image": torch.rand(batch_size, 3, *size), "guide": torch.rand(batch_size, 3, *guide)}
        planes = (batch_size, stage.priors_per_image)
        batch |= {"alpha": torch.rand(*planes, *guide), "weight": torch.ones(batch_size, 1, *guide)}
        batch["contrast"] = torch.zeros(batch_size, 3, *guide)
        if stage.prior:
            batch["prior"] = torch.rand(*planes, *size)
        batch = {k: v.to(device, memory_format=torch.channels_last) for k, v in batch.items()}
        _wait_for(kind)
        began = time.perf_counter()
        with torch.autocast(kind, low, enabled=low is not None):
            loss = torch.stack(list(objective(batch).values())).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        _wait_for(kind)
        return time.perf_counter() - began

    try:
        # On a CPU two photos are enough, and a whole batch can take minutes; norms need more than one.
        count = min(2, stage.batch_size) if kind == "cpu" else stage.batch_size
        step(count)  # warm-up
        step_s = step(count) * stage.batch_size / count
        return step_s, f"measured on {count} random images" + (
            ", scaled to the batch" if count < stage.batch_size else ""
        )
    finally:
        torch.set_rng_state(random_state)


def _wait_for(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()
