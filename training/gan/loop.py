"""The training loop of a generator: one function, in chronological order."""

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
from torch import Tensor

from models.gan.checkpoints import save_generator
from models.gan.layers import send
from stylematte.errors import InputError
from training.checkpoint import TrainingError, load_state, save_state
from training.config import RecipeError
from training.data.dataset import ResumableBatchSampler
from training.data.loading import open_loader, read_batches
from training.fid import ScoreError
from training.gan.config import GanRecipe
from training.gan.data import EndlessImages, background_images, real_images
from training.gan.losses import fading_blur_px
from training.gan.players import GanModels, Pass
from training.gan.scores import Scorer
from training.gan.sheets import SampleGrids, name_at
from training.log import Log
from training.processes import join_processes, reseed
from training.progress import Progress
from training.provenance import write_config

STEPS_PER_ROW = 50
_SHOWN = ("generator", "discriminator", "augment_p")  # values in a progress line
FIRST_LOOK_STEPS = 50  # the first sample grid is written early, to check that training works


@dataclass(frozen=True)
class GanOptions:
    """How to run a recipe.

    Attributes:
        out: Run folder: config.json, log.csv, tensorboard/, snapshots/, sheets/, state.pt, last and best
            weights.
        mattes: Folder of prepared mattes, `<set>/<stem>.alpha.png`.
        device: "cpu", "cuda" or "cuda:i", see `training.processes.join_processes`.
        accumulate: Passes per step (gradient accumulation); the recipe's batch is divided by this.
        workers: Processes that read images, if the set does not fit in memory.
        every: Steps between snapshots; None uses the recipe's.
        stop_after_s: Seconds after which a run stops with a snapshot; None: never. The same options resume
            it.
        detector: Detector for scores, a name or file, see `training.fid.load_detector`; "" turns scores off.
        folders: Folders in which named detectors are searched.
        backbone: File or folder of the vision-aided discriminator's network, see
            `models.gan.backbones.load_frozen`.
        origin: Other inputs of the weights, name → SHA-256.
    """

    out: Path
    mattes: Path
    device: str = "cpu"
    accumulate: int = 1
    workers: int = 2
    every: int | None = None
    stop_after_s: float | None = None
    detector: str = ""
    folders: tuple[Path, ...] = ()
    backbone: Path | None = None
    origin: dict[str, str] | None = None


def train_gan(
    recipe: GanRecipe,
    root: Path,
    options: GanOptions,
    report: Callable[[str], None] = print,
    shows_bar: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Run a recipe, or resume it.

    Args:
        recipe: The recipe.
        root: Folder of the data sets.
        options: Options of the run.
        report: Called with progress lines, in the main process only.
        shows_bar: Show a progress bar on a terminal, in addition to the lines.
        on_step: Called after every step with the steps so far, before a snapshot. Its exceptions end the run
            like a kill.

    Returns:
        Scores of the last snapshot, by name; empty without scores, or if the run was already finished.

    Raises:
        DataError: A data set is missing or damaged, or a photo has no alpha.
        RecipeError: The batch cannot be divided.
        InputError: The run folder belongs to another recipe, or not every process sees it.
        TrainingError: A loss is not finite.
    """
    # Initialise.
    began = time.monotonic()
    accelerator = join_processes(options.device)
    if not accelerator.is_main_process:
        report = _say_nothing
    state = _previous_state(options, recipe)
    if len(set(gather_object([state["step"]]))) > 1:
        raise InputError(f"{options.out}: not every process sees the same state; share the folder")
    size = _images_per_pass(recipe, options, accelerator)
    reals, backgrounds = real_images(recipe, root, options.mattes), background_images(recipe, root)
    report(_describe(recipe, reals, backgrounds))
    torch.manual_seed(recipe.seed)
    players = GanModels(recipe, accelerator, options.backbone)
    if "players" in state:
        players.load_state_dict(state["players"])
        report(f"resuming at {state['step'] * recipe.batch_size / 1000:g} kimg")
    left = recipe.steps - state["step"]
    shows_bar = shows_bar and accelerator.is_main_process
    progress = Progress(report, recipe.steps, state["step"], left, shows_bar)
    run = GanRun(recipe, options, accelerator, players, reals, state, progress)

    # Step.
    scores: dict[str, float] = {}
    try:
        if state["step"] == 0:
            run.sheets.draw_reals(reals)
        passes = run.passes(reals, backgrounds, size)
        for step in range(state["step"], recipe.steps):
            run.step(step, [next(passes) for _ in range(options.accumulate)])
            if on_step is not None:
                on_step(step + 1)
            is_over = _is_over(options, began, accelerator)
            if is_over or run.is_snapshot(step + 1):
                if accelerator.is_main_process:
                    scores = run.snapshot(step + 1)
                accelerator.wait_for_everyone()
            elif step + 1 == FIRST_LOOK_STEPS and accelerator.is_main_process:
                run.look(step + 1)
            if is_over:
                progress.say(f"stopped after {options.stop_after_s:g} s; the same command resumes")
                break
    finally:
        run.close()
    return scores


def _is_over(options: GanOptions, began: float, accelerator: Accelerator) -> bool:
    """Tell whether the allowed time is over; all processes agree."""
    if options.stop_after_s is None:
        return False
    is_over = time.monotonic() - began >= options.stop_after_s
    return is_over if accelerator.num_processes == 1 else any(gather_object([is_over]))


def _say_nothing(line: str) -> None:
    pass


def _previous_state(options: GanOptions, recipe: GanRecipe) -> dict[str, Any]:
    """Return the last state that `GanRun.snapshot` wrote, or the state of a new run."""
    digest, origin = json.dumps(recipe.digest()), options.origin or {}
    path = options.out / "state.pt"
    if not path.exists():
        return {"step": 0, "best": math.inf, "recipe": digest, "origin": origin}
    state = load_state(path)
    if state.get("recipe") != digest:
        raise InputError(f"{options.out} contains a run of another recipe; give another --out")
    if state["origin"] != origin:
        raise InputError(f"{options.out} contains a run that started from other weights; give another --out")
    return state


def _images_per_pass(recipe: GanRecipe, options: GanOptions, accelerator: Accelerator) -> int:
    shares, group = accelerator.num_processes * options.accumulate, recipe.discriminator.group
    if recipe.batch_size % shares:
        raise RecipeError(
            f"batch_size {recipe.batch_size} is not a multiple of {accelerator.num_processes} processes "
            "times "
            f"{options.accumulate} accumulated passes"
        )
    size = recipe.batch_size // shares
    if size % min(group, size):
        raise RecipeError(f"{size} images per pass are not a multiple of discriminator.group = {group}")
    return size


def _describe(recipe: GanRecipe, reals: EndlessImages, backgrounds: EndlessImages | None) -> str:
    config = recipe.generator
    line = f"StyleGAN3-{config.kind.upper()}, {config.size_px} px; {reals.count} images"
    if recipe.vision_aided.backbone == "none":
        return line
    behind = "random colours" if backgrounds is None else f"{backgrounds.count} backgrounds"
    backbone = {"clip": "CLIP", "encoder": "an encoder"}[recipe.vision_aided.backbone]
    return f"{line} over {behind}, with a second discriminator on {backbone}"


class GanRun:
    """The state of a run: models, log, sample grids, scores, and position."""

    def __init__(
        self,
        recipe: GanRecipe,
        options: GanOptions,
        accelerator: Accelerator,
        players: GanModels,
        reals: EndlessImages,
        state: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.recipe, self.options, self.state = recipe, options, state
        self.accelerator, self.players, self.progress = accelerator, players, progress
        every = options.every or round(recipe.snapshot_kimg * 1000 / recipe.batch_size)
        self.every = max(1, every)
        self.sheets = SampleGrids(options.out, recipe)
        self.scorer: Scorer | None = None
        self.log: Log | None = None
        self.rows: dict[str, list[Tensor]] = {}  # losses since the last row of the log
        self.began = time.perf_counter()
        self.latest: dict[str, float] = {}
        self.stepped = 0
        if accelerator.is_main_process:
            options.out.mkdir(parents=True, exist_ok=True)
            write_config(options.out / "config.json", recipe.digest() | {"origin": state["origin"]})
            self.log = Log(options.out, state["step"] * recipe.batch_size)
            if options.detector and recipe.score_pictures:
                self.scorer = Scorer(options.detector, options.folders, recipe, reals, accelerator.device)
                progress.say(f"scores: {self.scorer.about}")

    def close(self) -> None:
        """Close the log and the progress bar."""
        self.progress.close()
        if self.log is not None:
            self.log.close()

    def passes(self, reals: EndlessImages, backgrounds: EndlessImages | None, size: int) -> Iterator[Pass]:
        """Yield the inputs of all remaining passes; they do not depend on interruptions of the run."""
        steps, accelerator, accumulate = self.recipe.steps, self.accelerator, self.options.accumulate
        real_batches = self._batches(reals)
        behind_batches = None if backgrounds is None else self._batches(backgrounds)
        for step in range(self.state["step"], steps):
            for number in range(accumulate):
                # The pass's augmentation also uses this seed.
                reseed(self.recipe.seed, step, number, accelerator.process_index)
                z = torch.randn(size, self.recipe.generator.z_dim)
                colours = torch.rand(size, 3, 1, 1) * 2 - 1
                z, colours, real = (send(x, accelerator.device) for x in (z, colours, next(real_batches)))
                real = _in_signed_range(real)
                behind = colours.expand(-1, -1, *real.shape[2:])
                if behind_batches is not None:
                    behind = _in_signed_range(send(next(behind_batches), accelerator.device))
                yield Pass(z, real, behind)

    def _batches(self, images: EndlessImages) -> Iterator[Tensor]:
        """Yield (N, C, H, H) uint8, one per pass; on the run's device if the set is kept in memory."""
        accelerator, workers = self.accelerator, self.options.workers
        numbers = ResumableBatchSampler(
            *(self.state["step"], self.recipe.steps, self.recipe.batch_size),
            *(self.options.accumulate, accelerator.num_processes, accelerator.process_index),
        )
        if images.kept is not None:
            return images.batches(numbers, accelerator.device)
        return read_batches(
            open_loader(images, numbers, workers, pin_memory=accelerator.device.type != "cpu")
        )

    def step(self, step: int, passes: list[Pass]) -> None:
        """Train all models for one step.

        Raises:
            TrainingError: A loss is not finite; the last saved state is kept.
        """
        recipe, players = self.recipe, self.players
        seen = step * recipe.batch_size
        blur_px = fading_blur_px(recipe.blur_px, seen / 1000, recipe.blur_kimg)
        values = players.update_generator(passes, seen, blur_px)
        values |= players.update_discriminators(passes, step, blur_px)
        players.update_average(seen)
        players.adapt(step)
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value)
        self.stepped += 1
        done = step + 1
        if self.stepped >= STEPS_PER_ROW or done == recipe.steps or self.is_snapshot(done):
            self._write(done)
        if self.log is not None:
            self.progress.step(lambda: self._where(done), 1.0, is_last=done == recipe.steps)

    def is_snapshot(self, done: int) -> bool:
        """Tell whether a snapshot is due after a number of steps."""
        return done % self.every == 0 or done == self.recipe.steps

    def _where(self, done: int) -> str:
        losses = "".join(f"  {name} {self.latest[name]:.3f}" for name in _SHOWN if name in self.latest)
        pace = self.latest.get("images_per_s")
        return f"{done * self.recipe.batch_size / 1000:.1f}/{self.recipe.kimg:g} kimg{losses}" + (
            "" if pace is None else f"  {pace:.1f} images/s"
        )

    def _write(self, done: int) -> None:
        """Add a row to the log: means since the last row."""
        names = list(self.rows)
        means = torch.stack([torch.stack(values).mean() for values in self.rows.values()])
        means = self.accelerator.reduce(means, "mean")
        values = dict(zip(names, means.tolist(), strict=True))
        now = time.perf_counter()
        values["images_per_s"] = self.stepped * self.recipe.batch_size / (now - self.began)
        values["augment_p"] = float(self.players.augment.p)
        self.began, self.stepped, self.rows = now, 0, {}
        # All processes have the same means, so all of them stop.
        if broken := [name for name in names if not math.isfinite(values[name])]:
            kimg = done * self.recipe.batch_size / 1000
            raise TrainingError(f"loss {broken[0]} is not finite after {kimg:g} kimg; {self._kept()}")
        if self.log is None:
            return
        seen = done * self.recipe.batch_size
        self.log.write(seen, values)
        self.latest = values

    def _kept(self) -> str:
        path = self.options.out / "state.pt"
        return f"{path} is the last good state" if path.exists() else "nothing was saved before"

    def look(self, done: int) -> None:
        """Write an early sample grid, in the main process."""
        began, seen = time.perf_counter(), done * self.recipe.batch_size
        self._draw(seen)
        self.progress.say(f"  {seen / 1000:g} kimg: first images in {self.sheets.folder}")
        self.began += time.perf_counter() - began

    def _draw(self, seen: int) -> None:
        assert self.log is not None
        for name, path in self.sheets.draw(self.players.average, seen).items():
            self.log.show(name, path, seen)

    def snapshot(self, done: int) -> dict[str, float]:
        """Write sample grids, score the average, and write weights and state, in the main process."""
        assert self.log is not None
        out, seen, average = self.options.out, done * self.recipe.batch_size, self.players.average
        if not all(tensor.isfinite().all() for tensor in average.state_dict().values()):
            raise TrainingError(f"weights are not finite after {seen / 1000:g} kimg; {self._kept()}")
        began = time.perf_counter()
        self._draw(seen)
        try:
            scores = {} if self.scorer is None else self.scorer.score(average)
        except ScoreError as broken:
            raise TrainingError(f"no score after {seen / 1000:g} kimg: {broken}; {self._kept()}") from broken
        provenance: dict[str, Any] = {"recipe": self.recipe.digest(), "kimg": seen / 1000, "scores": scores}
        if self.scorer is not None:
            self.log.write(seen, scores)
            if (
                self.state.get("detector") != self.scorer.about
            ):  # scores of different detectors are not comparable
                self.state.update(detector=self.scorer.about, best=math.inf)
            shown = "  ".join(f"{name} {value:.2f}" for name, value in scores.items())
            self.progress.say(f"  {seen / 1000:g} kimg: {shown}  (detector {self.scorer.detector_name})")
            provenance["detector"] = self.scorer.about
        if self.state["origin"]:
            provenance["origin"] = self.state["origin"]
        (out / "snapshots").mkdir(exist_ok=True)
        save_generator(average, out / "snapshots" / f"{name_at(seen)}.safetensors", provenance, half=True)
        save_generator(average, out / "last.safetensors", provenance)
        if (error := scores.get("fid", -seen)) < self.state[
            "best"
        ]:  # without scores the last snapshot is the best
            self.state["best"] = error
            save_generator(average, out / "best.safetensors", provenance)
        self.state.update(step=done, players=self.players.state_dict())
        save_state(out / "state.pt", self.state)
        self.began += time.perf_counter() - began  # the rate is that of training only
        return scores


def _in_signed_range(images: Tensor) -> Tensor:
    """(N, C, H, W) uint8 → float32 in [-1, 1], the inverse of `models.gan.generator.rgba_of`."""
    return images.float() / 127.5 - 1
