"""The training loop: one function, in the order in which things happen."""

import copy
import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from models.checkpoints import save_weights
from models.stylematte import StyleMatte, build_model
from training.checkpoint import load_state, save_state
from training.config import Recipe, Stage
from training.data.dataset import MattingDataset, Onwards
from training.held_out import held_out_items, preview_sheet, score
from training.losses import LOSSES


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message says why."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out, as opposed to what it learns (the recipe).

    Attributes:
        out: Run folder: config.json, log.csv, tensorboard/, previews/, state.pt, last and best weights.
        mattes: Folder of prepared mattes, see `training.data.pseudo_alpha.prepare`.
        device: "cpu" or "cuda[:i]".
        precision: "fp32", or "bf16" for autocast; the guided filter and losses stay in float32.
        workers: Processes that draw pictures.
        every: Steps between validations, previews and saved states.
        per_set: Held-out pictures of each set in a validation.
    """

    out: Path
    mattes: Path
    device: str = "cpu"
    precision: str = "fp32"
    workers: int = 2
    every: int = 500
    per_set: int = 30


def train(
    recipe: Recipe,
    root: Path,
    options: RunOptions,
    initialise: Callable[[StyleMatte], None] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Run a recipe, or go on with it where it stopped.

    Args:
        recipe: What to learn, from what.
        root: Folder of the data sets.
        options: Where and how.
        initialise: Fills a fresh network with pretrained weights; not called when a run goes on.
        report: Takes progress lines.

    Returns:
        Scores of the last validation, see `training.held_out.score`.

    Raises:
        DataError: A data set is missing or damaged.
        TrainingError: The run folder belongs to another recipe, nothing is held out to score on, or the loss
            is no longer a number.
    """
    # Initialise.
    torch.manual_seed(recipe.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    model = build_model(recipe.preset)
    items = held_out_items(root, recipe, options.per_set)
    if not items:
        raise TrainingError(
            f"{root}: no held-out photo to score on; the sets of kind photos need more pictures, or a "
            "smaller held_out_every"
        )
    state_path = options.out / "state.pt"

    # Load the previous state, or start.
    if state_path.exists():
        state = load_state(state_path)
        if state["recipe"] != json.dumps(recipe.digest()):
            raise TrainingError(f"{options.out} holds a run of another recipe; give another --out")
        model.load_state_dict(state["model"])
        report(f"going on at stage {state['stage'] + 1}, step {state['step']}")
    else:
        state = {"stage": 0, "step": 0, "best": math.inf, "recipe": json.dumps(recipe.digest())}
        if initialise is not None:
            initialise(model)
        (options.out / "config.json").write_text(json.dumps(recipe.digest(), indent=2) + "\n")
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False)
    if "average" in state:
        average.load_state_dict(state["average"])

    # Run the stages.
    scores: dict[str, float] = {}
    with SummaryWriter(str(options.out / "tensorboard")) as board:
        log = Log(options.out / "log.csv", board)
        for number in range(state["stage"], len(recipe.stages)):
            if number != state["stage"]:
                state.update(stage=number, step=0)
                state.pop("optimiser", None)
            run = StageRun(recipe, number, model, average, state, options, log, report)
            scores = run.go(root, items)
    return scores


class StageRun:
    """One stage of a run: steps, validations, saved states."""

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        model: StyleMatte,
        average: StyleMatte,
        state: dict[str, Any],
        options: RunOptions,
        log: "Log",
        report: Callable[[str], None],
    ) -> None:
        self.recipe, self.number, self.stage = recipe, number, recipe.stages[number]
        self.model, self.average, self.state = model, average, state
        self.options, self.log, self.report = options, log, report
        self.optimiser = make_optimiser(model, self.stage, recipe.weight_decay)
        if "optimiser" in state:
            self.optimiser.load_state_dict(state["optimiser"])
        self.steps_before = sum(stage.steps for stage in recipe.stages[:number])

    def go(self, root: Path, items: list) -> dict[str, float]:
        """Step until the stage ends; returns the last scores."""
        stage, start = self.stage, self.state["step"]
        dataset = MattingDataset(root, self.options.mattes, self.recipe, self.number)
        loader = DataLoader(
            dataset,
            batch_sampler=Onwards(start, stage.steps, stage.batch_size),
            num_workers=self.options.workers,
            # A forked child would inherit OpenCV's and torch's thread pools without their threads, and hang.
            multiprocessing_context="spawn" if self.options.workers else None,
            pin_memory=self.options.device != "cpu",
        )
        scores: dict[str, float] = {}
        sums: dict[str, float] = {}
        began, count = time.perf_counter(), 0
        for step, batch in enumerate(loader, start):
            terms = self._step(step, batch)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            done = step + 1
            count += 1
            if done % min(50, self.options.every) == 0 or done == stage.steps:
                means = {name: value / count for name, value in sums.items()}
                rate = count * stage.batch_size / (time.perf_counter() - began)
                self.log.write(self.steps_before + done, means | {"images_per_s": rate})
                self.report(
                    f"{stage.name} {done}/{stage.steps}  loss {means['loss']:.4f}  {rate:.1f} images/s"
                )
                began, sums, count = time.perf_counter(), {}, 0
            if done % self.options.every == 0 or done == stage.steps:
                scores = self._validate(done, items)
                began = time.perf_counter()
        return scores

    def _step(self, step: int, batch: dict[str, Tensor]) -> dict[str, float]:
        self.model.train()
        device = self.options.device
        batch = {
            k: v.to(device, memory_format=torch.channels_last, non_blocking=True) for k, v in batch.items()
        }
        rate = learning_rate(self.stage, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        with torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=self.options.precision == "bf16"
        ):
            prediction = self.model(batch["image"], batch["guide"])
        terms = stage_losses(self.stage, prediction, batch["alpha"], batch["weight"])
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            path = self.options.out / "nan_batch.pt"
            save_state(path, {"batch": batch, "terms": {k: v.detach() for k, v in terms.items()}})
            raise TrainingError(
                f"loss is {loss.item()} at step {step} of {self.stage.name}; its batch is in {path}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        update_average(self.average, self.model, self.recipe.ema_decay, self.steps_before + step)
        return {"loss": loss.item()} | {name: value.item() for name, value in terms.items()}

    def _validate(self, done: int, items: list) -> dict[str, float]:
        out, side = self.options.out, float(self.stage.side[1])
        total = self.steps_before + done
        scores = score(self.average, items, self.options.mattes, side)
        self.log.write(total, scores)
        self.report("  held out: " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        per_set = max(1, len(items) // max(1, len({d.folder for _, d in items})))
        sheet = [item for i, item in enumerate(items) if i % per_set < 2]
        preview_sheet(self.average, sheet, self.options.mattes, side, out / "previews" / f"{total:06d}.png")
        provenance = {"recipe": self.recipe.digest(), "steps": total, "held_out": scores}
        save_weights(self.average, out / "last.safetensors", provenance)
        band = 0.0 if math.isnan(scores["band"]) else scores["band"]  # no held-out picture has a band
        if band + 1 - scores["iou"] < self.state["best"]:
            self.state["best"] = band + 1 - scores["iou"]
            save_weights(self.average, out / "best.safetensors", provenance)
        self.state.update(
            step=done,
            stage=self.number,
            model=self.model.state_dict(),
            average=self.average.state_dict(),
            optimiser=self.optimiser.state_dict(),
        )
        save_state(out / "state.pt", self.state)
        return scores


def stage_losses(stage: Stage, prediction: Any, alpha: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Weighted losses of a stage, named `fine_…` and `coarse_…`, all at the size of `alpha`."""
    terms = {}
    for name, factor in stage.fine.items():
        terms[f"fine_{name}"] = factor * LOSSES[name](prediction.fine_logits, alpha, weight)
    if stage.coarse:
        coarse = F.interpolate(
            prediction.coarse_logits, alpha.shape[-2:], mode="bilinear", align_corners=False
        )
        for name, factor in stage.coarse.items():
            terms[f"coarse_{name}"] = factor * LOSSES[name](coarse, alpha, weight)
    return terms


def make_optimiser(model: StyleMatte, stage: Stage, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; the encoder learns slower, and norms and biases are not decayed."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = stage.encoder_rate if name.startswith("encoder.") else 1.0
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()],
        lr=stage.learning_rate,
    )


def learning_rate(stage: Stage, step: int) -> float:
    """Linear rise, then a cosine fall to a fiftieth of the peak."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def update_average(average: StyleMatte, model: StyleMatte, decay: float, step: int) -> None:
    """Move the running average of the weights towards the network; faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if target.is_floating_point():
            target.lerp_(source, 1 - decay)
        else:
            target.copy_(source)


class Log:
    """One CSV row for each number, and the same in TensorBoard."""

    def __init__(self, path: Path, board: SummaryWriter) -> None:
        self.path, self.board = path, board
        if not path.exists():
            path.write_text("step,name,value\n")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add the values of one step."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows((step, name, f"{value:.6g}") for name, value in values.items())
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
