"""The training loop: one function, in chronological order."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from models.checkpoints import fill, save_weights
from models.stylematte import StyleMatte, build_model
from stylematte.errors import InputError
from training.checkpoint import TrainingError, load_state, save_state
from training.config import Recipe, Stage
from training.data.dataset import MattingDataset, ResumableBatchSampler, as_batch
from training.data.loading import open_loader, read_batches
from training.held_out import preview_sheet
from training.log import Log
from training.objective import Batch, Objective
from training.optimiser import learning_rate, make_optimiser, set_rates, update_average
from training.plan import make_plan
from training.processes import check_batches, join_processes, reseed, spare_wide_depthwise
from training.progress import Progress
from training.provenance import write_config
from training.teacher import Teacher
from training.validator import PER_SET, Validator, make_validator

STEPS_PER_ROW = 50
FIRST_LOOK_STEPS = 50  # the first validation is early, to check that training works, not to select weights

OnStep = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class RunOptions:
    """How to run a recipe.

    Attributes:
        out: Run folder: config.json, log.csv, tensorboard/, previews/, state.pt, last and best weights.
            Several machines must share this folder.
        mattes: Folder of prepared mattes, see `training.data.pseudo_alpha.prepare`.
        device: "cpu", "cuda" or "cuda:i", see `training.processes.join_processes`.
        precision: "fp32", or "bf16" or "fp16" for autocast; losses stay in float32.
        accumulate: Passes per optimiser step (gradient accumulation); the recipe's batch is divided by this.
        workers: Processes that prepare images, per training process.
        every: Steps between validations, previews and saved states.
        per_set: Held-out images per set in a validation.
        origin: Other inputs of the weights, such as a teacher or initial weights, name → SHA-256.
    """

    out: Path
    mattes: Path
    device: str = "cpu"
    precision: str = "fp32"
    accumulate: int = 1
    workers: int = 2
    every: int = 500
    per_set: int = PER_SET
    origin: dict[str, str] | None = None


def train(
    recipe: Recipe,
    root: Path,
    options: RunOptions,
    initialise: Callable[[StyleMatte], None] | None = None,
    report: Callable[[str], None] = print,
    teacher: Teacher | None = None,
    shows_bar: bool = False,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Run a recipe, or resume it.

    Args:
        recipe: The recipe.
        root: Folder of the data sets.
        options: Options of the run.
        initialise: Loads initial weights into a new network; not called when a run resumes.
        report: Called with progress lines, in the main process only.
        teacher: Labels unlabelled pixels.
        shows_bar: Show a progress bar on a terminal, in addition to the lines.
        on_step: Called after every optimiser step, before a validation, with the number of the stage, its
            steps so far and the step's losses by name. Its exceptions end the run like a kill.

    Returns:
        Scores of the last validation, see `training.validation.score` and `training.held_out.score`; only in
        the main process, and empty if the run was already finished.

    Raises:
        DataError: A data set is missing or damaged, or no images are held out.
        RecipeError: A batch cannot be divided, or a set has no labels and there is no teacher.
        InputError: The run folder belongs to another recipe, or not every process sees it.
        TrainingError: The loss is not finite.
    """
    # Initialise.
    accelerator = join_processes(options.device, options.precision, options.accumulate)
    if not accelerator.is_main_process:
        report = _say_nothing
    plan = make_plan(recipe, root)
    recipe = plan.recipe
    check_batches(recipe, accelerator)
    validator = make_validator(recipe, root, options.mattes, options.per_set, teacher)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.build_preset())

    # Load the previous state, or start.
    state = _previous_state(options, recipe)
    if "model" in state:
        fill(model, state["model"], str(options.out / "state.pt"))
        report(f"resuming at stage {state['stage'] + 1}, step {state['step']}")
    elif initialise is not None:
        with accelerator.main_process_first():  # it may download a file for all processes
            initialise(model)
    if len(set(gather_object([(state["stage"], state["step"])]))) > 1:
        raise InputError(f"{options.out}: not every process sees the same state; share the folder")
    for line in plan.skipped:
        report(line)
    progress = _progress(recipe, state, report, shows_bar and accelerator.is_main_process)
    run = Run(recipe, model, state, options, accelerator, teacher, validator, progress)

    # Run the stages.
    scores: dict[str, float] = {}
    try:
        for number in range(state["stage"], len(recipe.stages)):
            if number != state["stage"]:
                state.update(stage=number, step=0)
                run.reset_optimiser()
            scores = run.stage(number, root, on_step)
    finally:
        run.close()
    return scores


def _say_nothing(line: str) -> None:
    pass


def _progress(
    recipe: Recipe, state: dict[str, Any], report: Callable[[str], None], shows_bar: bool
) -> Progress:
    stages, before = recipe.stages[state["stage"] :], recipe.stages[: state["stage"]]
    work = sum(_work(stage) * stage.steps for stage in stages) - _work(stages[0]) * state["step"]
    done = sum(stage.steps for stage in before) + state["step"]
    return Progress(report, sum(stage.steps for stage in recipe.stages), done, work, shows_bar)


def _work(stage: Stage) -> float:
    """Return the cost of a step: the pixels of the network's inputs."""
    return stage.batch_size * (stage.side[0] + stage.side[1]) ** 2 / 4


def _previous_state(options: RunOptions, recipe: Recipe) -> dict[str, Any]:
    """Return the last saved state, or the state of a new run."""
    digest, origin = json.dumps(recipe.digest()), options.origin or {}
    path = options.out / "state.pt"
    if not path.exists():
        return {"stage": 0, "step": 0, "best": math.inf, "recipe": digest, "origin": origin}
    state = load_state(path)
    if state["recipe"] != digest:
        raise InputError(f"{options.out} contains a run of another recipe; give another --out")
    if state["origin"] != origin:
        made_by = ", ".join(state["origin"]) or "nothing else"
        raise InputError(
            f"{options.out} contains a run that started from other weights ({made_by}); "
            "give the same, or another --out"
        )
    return state


class Run:
    """The state of a run: network, average, optimiser, log, and position."""

    def __init__(
        self,
        recipe: Recipe,
        model: StyleMatte,
        state: dict[str, Any],
        options: RunOptions,
        accelerator: Accelerator,
        teacher: Teacher | None,
        validator: Validator,
        progress: Progress,
    ) -> None:
        self.recipe, self.options, self.state = recipe, options, state
        self.accelerator, self.teacher, self.validator, self.progress = (
            accelerator,
            teacher,
            validator,
            progress,
        )
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(accelerator.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        if "average" in state:
            self.average.load_state_dict(state["average"])
        if accelerator.device.type == "cpu":
            spare_wide_depthwise(self.model)
        # Frozen parameters, a learned upsampler without fine losses, and the selection in a batch without
        # priors get no gradients; processes must not wait for them.
        learned = any(True for _ in self.model.upsampler.parameters())
        all_fine = all(stage.fine for stage in recipe.stages)
        frozen = any(stage.frozen for stage in recipe.stages)
        accelerator.ddp_handler.find_unused_parameters = (
            frozen or self.model.preset.prior or (learned and not all_fine)
        )
        self.objective = accelerator.prepare_model(Objective(self.model, recipe.stages[state["stage"]]))
        self.optimiser = accelerator.prepare_optimizer(make_optimiser(self.model, recipe.weight_decay))
        if "optimiser" in state:
            self.optimiser.load_state_dict(state["optimiser"])
        if accelerator.scaler is not None and "scaler" in state:
            accelerator.scaler.load_state_dict(state["scaler"])
        self.log: Log | None = None
        if accelerator.is_main_process:
            options.out.mkdir(parents=True, exist_ok=True)
            write_config(options.out / "config.json", recipe.digest() | {"origin": state["origin"]})
            self.log = Log(options.out, self._steps_before(state["stage"]) + state["step"])

    def reset_optimiser(self) -> None:
        """Reset the optimiser's state: a new stage has other losses and gradient magnitudes."""
        self.optimiser.optimizer.state.clear()

    def close(self) -> None:
        """Close the log and the progress bar."""
        self.progress.close()
        if self.log is not None:
            self.log.close()

    def stage(self, number: int, root: Path, on_step: OnStep | None) -> dict[str, float]:
        """Train until the stage ends; returns the last scores."""
        stage, start, every = self.recipe.stages[number], self.state["step"], self.options.every
        self.accelerator.unwrap_model(self.objective).begin(stage)
        batches = read_batches(self._loader(number, root))
        scores: dict[str, float] = {}
        sums: dict[str, float] = {}
        began, count = time.perf_counter(), 0
        for step in range(start, stage.steps):
            latest = self._step(number, step, batches)
            for name, value in latest.items():
                sums[name] = sums.get(name, 0.0) + value
            done = step + 1
            count += 1
            if on_step is not None:
                on_step(number, done, latest)
            pace = count * stage.batch_size / (time.perf_counter() - began)
            self._say_where(stage, done, latest["loss"], pace)
            if done % min(STEPS_PER_ROW, every) == 0 or done == stage.steps:
                means = {name: value / count for name, value in sums.items()}
                means |= {"images_per_s": pace, "learning_rate": learning_rate(stage, step)}
                if self.log is not None:
                    self.log.write(self._steps_before(number) + done, means)
                began, sums, count = time.perf_counter(), {}, 0
            is_due = done % every == 0 or done == stage.steps
            if is_due or (number == 0 and done == FIRST_LOOK_STEPS < every):
                if self.accelerator.is_main_process:
                    scores = self._validate(number, done, chooses=is_due)
                self.accelerator.wait_for_everyone()
                began = time.perf_counter() - count * stage.batch_size / pace
        return scores

    def _loader(self, number: int, root: Path) -> DataLoader[Batch]:
        stage, accelerator = self.recipe.stages[number], self.accelerator
        passes, processes = accelerator.gradient_accumulation_steps, accelerator.num_processes
        numbers = ResumableBatchSampler(
            *(self.state["step"], stage.steps, stage.batch_size, passes),
            *(processes, accelerator.process_index),
        )
        return open_loader(
            MattingDataset(root, self.options.mattes, self.recipe, number),
            numbers,
            self.options.workers,
            pin_memory=accelerator.device.type != "cpu",
        )

    def _step(self, number: int, step: int, batches: Iterator[Batch]) -> dict[str, float]:
        """Do one optimiser step; returns its losses, averaged over all passes and processes."""
        stage, accelerator = self.recipe.stages[number], self.accelerator
        set_rates(self.optimiser, stage, step)
        self.objective.train()
        passes = accelerator.gradient_accumulation_steps
        sums = torch.zeros(len(stage.fine) + len(stage.coarse), device=accelerator.device)
        for number_of_pass in range(passes):
            batch = self._on_device(next(batches))
            reseed(self.recipe.seed, number, step, number_of_pass, accelerator.process_index)
            with accelerator.accumulate(self.objective):
                terms = self.objective(batch)
                values = torch.stack(list(terms.values()))
                accelerator.backward(values.sum())
            sums += values.detach() / passes
            if not values.isfinite().all():
                by_name = dict(zip(terms, values.detach(), strict=True))
                save_state(self._nan_path(), {"batch": batch, "terms": by_name})
        means = dict(zip(terms, accelerator.reduce(sums, "mean").tolist(), strict=True))
        loss = math.fsum(means.values())
        if not math.isfinite(loss):  # all processes have the same mean, so all of them stop
            raise TrainingError(
                f"loss is {loss} at step {step} of {stage.name}; its batch is in {self._nan_path()}"
            )
        accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        update_average(self.average, self.model, self.recipe.ema_decay, self._steps_before(number) + step)
        return {"loss": loss} | means

    def _on_device(self, batch: Batch) -> Batch:
        batch = as_batch(batch, self.accelerator.device)
        if self.teacher is None:
            return batch
        with self.accelerator.autocast():
            return self.teacher.fill(batch)

    def _nan_path(self) -> Path:
        process = self.accelerator.process_index
        return self.options.out / (f"nan_batch_{process}.pt" if process else "nan_batch.pt")

    def _steps_before(self, number: int) -> int:
        return sum(stage.steps for stage in self.recipe.stages[:number])

    def _say_where(self, stage: Stage, done: int, loss: float, images_per_s: float) -> None:
        if self.log is None:
            return
        self.progress.step(
            lambda: f"{stage.name} {done}/{stage.steps}  loss {loss:.4f}  {images_per_s:.1f} images/s",
            _work(stage),
            is_last=done == stage.steps,
        )

    def _validate(self, number: int, done: int, chooses: bool) -> dict[str, float]:
        """Score the average, write previews, weights and state, in the main process.

        Args:
            number: Number of the stage.
            done: Steps of the stage so far.
            chooses: Whether these weights can become the best ones.

        Raises:
            TrainingError: The scores are not finite.
        """
        assert self.log is not None
        out, side = self.options.out, float(self.recipe.stages[number].side[1])
        total = self._steps_before(number) + done
        scores = self.validator.score(self.average, side)
        self.log.write(total, scores)
        shown = self.validator.headline(scores)
        self.progress.say("  scores: " + "  ".join(f"{name} {value:.3f}" for name, value in shown.items()))
        sheet = out / "previews" / f"{total:06d}.png"
        preview_sheet(self.average, self.validator.shown(), side, sheet)
        self.log.show("previews", sheet, total)
        provenance = {"recipe": self.recipe.digest(), "steps": total, "scores": scores}
        provenance |= {"origin": self.state["origin"]} if self.state["origin"] else {}
        save_weights(self.average, out / "last.safetensors", provenance)
        error = self.validator.error(scores)
        if not math.isfinite(error):  # NaN would always compare as not worse than the best
            raise TrainingError(f"the scores of step {done} of {self.recipe.stages[number].name} are {error}")
        # Scores are without priors, and stay the same while what follows priors is trained alone.
        if chooses and (error < self.state["best"] or self.recipe.stages[number].only_selection):
            self.state["best"] = error
            save_weights(self.average, out / "best.safetensors", provenance)
        self.state.update(
            step=done,
            stage=number,
            model=self.model.state_dict(),
            average=self.average.state_dict(),
            optimiser=self.optimiser.state_dict(),
        )
        if self.accelerator.scaler is not None:
            self.state["scaler"] = self.accelerator.scaler.state_dict()
        save_state(out / "state.pt", self.state)
        return scores
