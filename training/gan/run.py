"""Run a generator's recipe: matte its photos first, then train."""

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import stylematte
from models.gan.backbones import load_frozen
from stylematte.errors import MissingError, UsageError
from stylematte.files import cache_folder, write_bytes
from stylematte.media.images import encode_image
from stylematte.weights import ASSETS, find_trained
from training.data.pseudo_alpha import cached_paths
from training.data.readers import Sample, read_rgb
from training.devices import say_where, set_up_threads
from training.fid import INCEPTION, MOBILENET, load_detector
from training.gan.config import GanRecipe
from training.gan.data import list_samples, without_alpha
from training.gan.loop import GanOptions, train_gan
from training.processes import join_processes

Progress = Callable[[Iterable[Sample], int], Iterable[Sample]]  # yields its input and counts it


def pass_on(samples: Iterable[Sample], total: int) -> Iterable[Sample]:
    """Show no progress."""
    return samples


@dataclass(frozen=True)
class GanRequest:
    """One training run of a generator.

    Attributes:
        recipe: The recipe.
        data: Data root.
        options: Options of the run; detector and backbone are found by the names given here.
        matter: Model that mattes photos without an alpha; empty: the bundled model.
        backbone: File or folder of the vision-aided discriminator's network.
        detector: Feature extractor for scores; "" uses the best available, "none" turns scores off.
        quiet: Print nothing.
        say: Called with each line of output.
        progress: Shows the progress of matting photos.
    """

    recipe: GanRecipe
    data: Path
    options: GanOptions
    matter: str = ""
    backbone: str = ""
    detector: str = ""
    quiet: bool = False
    say: Callable[[str], None] = print
    progress: Progress = pass_on


def run_gan(request: GanRequest) -> None:
    """Run a recipe or resume it: matte the photos first, then train."""
    recipe, data, options = request.recipe, request.data, request.options
    backbone, detector = _backbone_file(request.backbone, recipe), _choose_detector(request.detector)
    _check_available(recipe, backbone, detector)
    set_up_threads(options.device)
    processes = join_processes(options.device)
    quiet = request.quiet or not processes.is_main_process
    if not quiet:
        say_where(processes, "fp32", options.workers)
    with processes.main_process_first():
        prepare_mattes(
            *(recipe, data, options.mattes, request.matter, options.device, quiet, request.progress)
        )
    report = (lambda line: None) if quiet else request.say
    options = replace(options, detector=detector, folders=detector_folders(), backbone=backbone)
    train_gan(recipe, data, options, report, shows_bar=not quiet)
    processes.end_training()
    if not quiet:
        best = options.out / "best.safetensors"
        request.say(f"weights: {best}; next: stylematte synth --weights {shlex.quote(str(best))} --n 1000")


def _backbone_file(given: str, recipe: GanRecipe) -> Path | None:
    """Return the file or folder of the vision-aided discriminator's network; nano's encoder by default."""
    if given in ("", "hub", "none"):
        return find_trained("nano") if recipe.vision_aided.backbone == "encoder" else None
    if recipe.vision_aided.backbone == "none":
        raise UsageError(
            "--backbone-weights: this recipe's discriminators have no backbone", "Omit the option"
        )
    if not Path(given).exists():
        raise MissingError(f"--backbone-weights: {given} does not exist", "Give a file or folder, or hub")
    return Path(given)


def _check_available(recipe: GanRecipe, backbone: Path | None, detector: str) -> None:
    """Load the networks that a run needs before spending hours on mattes."""
    if recipe.vision_aided.backbone != "none":
        load_frozen(recipe.vision_aided.backbone, backbone)
    if detector and recipe.score_pictures:
        load_detector(detector, detector_folders())


def detector_folders() -> tuple[Path, ...]:
    """Return the folders in which detectors are searched by name: the bundled assets and the cache folder."""
    return (ASSETS, cache_folder())


def _choose_detector(name: str) -> str:
    """Return the named detector, or else the best available one."""
    if name:
        return "" if name == "none" else name
    for known, file in (("inception", INCEPTION), ("mobilenet", MOBILENET)):
        if any((folder / file).is_file() for folder in detector_folders()):
            return known
    print(
        "stylematte: scoring with nano's encoder, because Inception is not installed; see "
        "`stylematte fid --help`",
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
    """Matte the photos without an alpha with an exported model; existing mattes are kept.

    Returns:
        Number of new mattes.
    """
    todo = without_alpha(list_samples(recipe, data), mattes)
    if not todo:
        return 0
    matter = stylematte.load(weights or "nano", device=device)
    if not quiet:
        print(f"stylematte: matting {len(todo)} photos first, into {mattes}", file=sys.stderr)
    for sample in todo if quiet else progress(todo, len(todo)):
        _matte_one(matter, sample, mattes)
    return len(todo)


def _matte_one(matter: Any, sample: Sample, mattes: Path) -> None:
    alpha = matter(read_rgb(sample.image)).alpha_as(np.uint8)
    # Written atomically: a truncated matte would count as finished.
    write_bytes(cached_paths(sample, mattes)["alpha"], encode_image(alpha, "png", lossless=True))
