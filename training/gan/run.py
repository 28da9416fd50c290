"""Runs a recipe of a generator: mattes of its photos first, then the loop."""

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import stylematte
from models.gan.backbones import load_backbone
from stylematte.errors import MissingError, UsageError
from stylematte.files import cache_folder, write_bytes
from stylematte.media.images import encode_image
from stylematte.weights import ASSETS, find_trained
from training.data.pseudo_alpha import cached_paths
from training.data.readers import Sample, read_rgb
from training.devices import say_where, set_up_threads, usable_device
from training.fid import INCEPTION, MOBILENET, load_detector
from training.gan.config import GanRecipe
from training.gan.data import list_pictures, without_alpha
from training.gan.loop import GanOptions, train_gan
from training.processes import join_processes

Progress = Callable[[Iterable[Sample], int], Iterable[Sample]]  # passes on what it is given, and counts it


def pass_on(samples: Iterable[Sample], total: int) -> Iterable[Sample]:
    """No progress."""
    return samples


@dataclass(frozen=True)
class GanRequest:
    """One run of a generator.

    Attributes:
        recipe: What to learn.
        data: Data root.
        out: Run folder.
        mattes: Folder of prepared mattes.
        matter: Model that mattes photos which have no alpha; the model that ships where empty.
        backbone: File or folder of the vision-aided discriminator's network.
        detector: Of scores; "" takes what is at hand, "none" leaves scores out.
        device: Where all of it runs.
        accumulate: Passes a step.
        workers: Processes that read pictures.
        every: Steps between snapshots; the recipe's where None.
        stop_after: Seconds after which the run ends; None: never.
        quiet: Say nothing.
        say: Takes what there is to say.
        progress: Counts the photos that are matted.
    """

    recipe: GanRecipe
    data: Path
    out: Path
    mattes: Path
    matter: str = ""
    backbone: str = ""
    detector: str = ""
    device: str = "auto"
    accumulate: int = 1
    workers: int = 0
    every: int | None = None
    stop_after: float | None = None
    quiet: bool = False
    say: Callable[[str], None] = print
    progress: Progress = pass_on


def run_gan(request: GanRequest) -> None:
    """Run a recipe, or go on with it: mattes first, then the loop."""
    device = usable_device(request.device)
    recipe, out, mattes = request.recipe, request.out, request.mattes
    backbone, detector = _backbone_file(request.backbone, recipe), _choose_detector(request.detector)
    _check_there(recipe, backbone, detector)
    set_up_threads(device)
    processes = join_processes(device)
    quiet = request.quiet or not processes.is_main_process
    if not quiet:
        say_where(processes, "fp32", request.workers)
    with processes.main_process_first():
        prepare_mattes(recipe, request.data, mattes, request.matter, device, quiet, request.progress)
    options = GanOptions(
        *(out, mattes, device, request.accumulate, request.workers, request.every, request.stop_after),
        detector=detector,
        folders=detector_folders(),
        backbone=backbone,
    )
    report = (lambda line: None) if quiet else request.say
    train_gan(recipe, request.data, options, report, shows_bar=not quiet)
    processes.end_training()
    if not quiet:
        best = out / "best.safetensors"
        request.say(f"weights: {best}; next: stylematte synth --weights {shlex.quote(str(best))} --n 1000")


def _backbone_file(given: str, recipe: GanRecipe) -> Path | None:
    """The file or folder of the vision-aided discriminator's network; if none is given, nano's encoder."""
    if given in ("", "hub", "none"):
        return find_trained("nano") if recipe.vision_aided.backbone == "encoder" else None
    if recipe.vision_aided.backbone == "none":
        raise UsageError("--backbone-weights: this recipe's discriminators have no backbone", "Leave it out")
    if not Path(given).exists():
        raise MissingError(f"--backbone-weights: {given} is not there", "Give a file or folder, or hub")
    return Path(given)


def _check_there(recipe: GanRecipe, backbone: Path | None, detector: str) -> None:
    """Open what a run needs besides pictures: before hours go into mattes."""
    if recipe.vision_aided.backbone != "none":
        load_backbone(recipe.vision_aided.backbone, backbone)
    if detector and recipe.score_pictures:
        load_detector(detector, detector_folders())


def detector_folders() -> tuple[Path, ...]:
    """Where detectors are looked for by name: among what ships, and in the cache folder."""
    return (ASSETS, cache_folder())


def _choose_detector(name: str) -> str:
    """The detector of that name; without one, the standard one where it is at hand, else a stand-in."""
    if name:
        return "" if name == "none" else name
    for known, file in (("inception", INCEPTION), ("mobilenet", MOBILENET)):
        if any((folder / file).is_file() for folder in detector_folders()):
            return known
    print(
        "stylematte: scores by the encoder of nano: no Inception here, see `stylematte fid --help`",
        file=sys.stderr,
    )
    return "nano"


def prepare_mattes(
    recipe: GanRecipe,
    data: Path,
    mattes: Path,
    weights: str,
    device: str,
    quiet: bool,
    progress: Progress = pass_on,
) -> int:
    """Matte the photos that have no alpha, by an exported model; those already there are kept.

    Returns:
        How many were made.
    """
    todo = without_alpha(list_pictures(recipe, data), mattes)
    if not todo:
        return 0
    matter = stylematte.load(weights or "nano", device=device)
    if not quiet:
        print(f"stylematte: {len(todo)} photos are matted first, into {mattes}", file=sys.stderr)
    for sample in todo if quiet else progress(todo, len(todo)):
        _matte_one(matter, sample, mattes)
    return len(todo)


def _matte_one(matter: Any, sample: Sample, mattes: Path) -> None:
    alpha = matter(read_rgb(sample.image)).alpha_as(np.uint8)
    # Whole or not at all: a matte cut off would count as one.
    write_bytes(cached_paths(sample, mattes)["alpha"], encode_image(alpha, "png", lossless=True))
