"""`stylematte train gan/…`: photos and their mattes become a generator of RGBA pictures."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stylematte.errors import InputError, MissingError, UsageError
from stylematte_cli.commands.explain import explain_generator
from stylematte_cli.commands.progress import with_progress
from stylematte_cli.commands.toolkit import find_trained, require

if TYPE_CHECKING:
    from training.data.readers import Sample
    from training.gan.config import GanRecipe


@dataclass(frozen=True)
class Wish:
    """What the command line of `stylematte train` says that generators understand.

    Attributes:
        recipe: Name or file.
        data: Data root.
        out: Run folder.
        mattes: Folder of prepared mattes; OUT/mattes if None.
        matter: Model that mattes photos which have no alpha.
        backbone: File or folder of the vision-aided discriminator's network.
        detector: Of scores; "" takes what is at hand, "none" leaves scores out.
        device: Where all of it runs.
        accumulate: Passes a step.
        workers: Processes that read pictures.
        every: Steps between snapshots; the recipe's where None.
        resume: The run folder must hold a run.
        dry_run: Say what would be done.
        quiet: Say nothing.
        stop_after: Seconds after which the run ends; None: never.
        overrides: `key=value` for the recipe.
        say: Takes what there is to say.
    """

    recipe: str
    data: Path
    out: Path
    mattes: Path | None
    matter: str
    backbone: str
    detector: str
    device: str
    accumulate: int
    workers: int
    every: int | None
    resume: bool
    dry_run: bool
    quiet: bool
    stop_after: float | None = None
    overrides: tuple[str, ...] = ()
    say: Callable[[str], None] = typer.echo


def refuse_matting_options(given: dict[str, bool]) -> None:
    """Refuse what is said of a matting network.

    Args:
        given: Option → whether it was given.

    Raises:
        UsageError: One was; the message names the first.
    """
    for option, was_given in given.items():
        if was_given:
            raise UsageError(
                f"{option} is for recipes of matting networks, this one trains a generator",
                f"Leave out {option}",
            )


def train_generator(wish: Wish) -> dict[str, Any]:
    """Say what a recipe would do, or run it; facts for --json."""
    from training.gan.config import load_gan_recipe
    from training.gan.data import list_pictures, without_alpha

    recipe = load_gan_recipe(wish.recipe, wish.overrides)
    if not wish.data.is_dir():
        raise InputError(f"{wish.data}: no such folder", "--data is a folder of pictures, or of data sets")
    if wish.resume and not (wish.out / "state.pt").exists():
        raise InputError(f"{wish.out} holds no run to go on with", "Give its folder, or leave out --resume")
    samples = list_pictures(recipe, wish.data)
    lacking = len(without_alpha(samples, wish.mattes or wish.out / "mattes"))
    facts = {
        "recipe": wish.recipe,
        "data": str(wish.data),
        "out": str(wish.out),
        "resumed": (wish.out / "state.pt").exists(),
        "dry_run": wish.dry_run,
        "pictures": len(samples),
        "to_matte": lacking,
        "steps": recipe.steps,
    }
    if wish.dry_run:
        for line in explain_generator(wish.recipe, recipe):
            wish.say(line)
        wish.say(f"  {len(samples)} pictures to train on, {lacking} of them to be matted first")
        wish.say(f"  {recipe.steps} steps, into {wish.out}")
        return facts
    run_gan(wish, recipe, wish.data, wish.out)
    return facts | {"weights": {n: str(wish.out / f"{n}.safetensors") for n in ("best", "last")}}


def run_gan(wish: Wish, recipe: "GanRecipe", data: Path, out: Path) -> None:
    """Run a recipe, or go on with it: mattes first, then the loop."""
    from stylematte_cli.commands.torch_device import say_where, set_up_threads, usable_device
    from training.gan.loop import GanOptions, train_gan
    from training.processes import join_processes

    device = usable_device(wish.device)
    mattes = wish.mattes or out / "mattes"
    backbone, detector = _backbone(wish.backbone, recipe), _choose_detector(wish.detector)
    _check_there(recipe, backbone, detector)
    set_up_threads(device)
    processes = join_processes(device)
    quiet = wish.quiet or not processes.is_main_process
    if not quiet:
        say_where(processes, "fp32", wish.workers)
    with processes.main_process_first():
        prepare_mattes(recipe, data, mattes, wish.matter, device, quiet)
    options = GanOptions(
        *(out, mattes, device, wish.accumulate, wish.workers, wish.every, wish.stop_after),
        detector=detector,
        folders=detector_folders(),
        backbone=backbone,
    )
    train_gan(recipe, data, options, (lambda line: None) if quiet else wish.say, shows_bar=not quiet)
    processes.end_training()
    if not quiet:
        best = out / "best.safetensors"
        wish.say(f"weights: {best}; next: stylematte synth --weights {shlex.quote(str(best))} --n 1000")


def _backbone(given: str, recipe: "GanRecipe") -> Path | None:
    """The file or folder of the vision-aided discriminator's network; if none is given, nano's encoder."""
    if given in ("", "hub", "none"):
        return find_trained("nano") if recipe.vision_aided.backbone == "encoder" else None
    if recipe.vision_aided.backbone == "none":
        raise UsageError("--backbone-weights: this recipe's discriminators have no backbone", "Leave it out")
    if not Path(given).exists():
        raise MissingError(f"--backbone-weights: {given} is not there", "Give a file or folder, or hub")
    return Path(given)


def _check_there(recipe: "GanRecipe", backbone: Path | None, detector: str) -> None:
    """Open what a run needs besides pictures: before hours go into mattes."""
    from models.gan.backbones import load_backbone

    if recipe.vision_aided.backbone != "none":
        load_backbone(recipe.vision_aided.backbone, backbone)
    if detector and recipe.score_pictures:
        from training.fid import load_detector

        load_detector(detector, detector_folders())


def detector_folders() -> tuple[Path, ...]:
    """Where detectors are looked for by name: among what ships, and in the cache folder."""
    from stylematte.files import cache_folder
    from stylematte.weights import ASSETS

    return (ASSETS, cache_folder())


def _choose_detector(name: str) -> str:
    """The detector of that name; without one, the standard one where it is at hand, else a stand-in."""
    if name:
        return "" if name == "none" else name
    from training.fid import INCEPTION, MOBILENET

    for known, file in (("inception", INCEPTION), ("mobilenet", MOBILENET)):
        if any((folder / file).is_file() for folder in detector_folders()):
            return known
    print(
        "stylematte: scores by the encoder of nano: no Inception here, see `stylematte fid --help`",
        file=sys.stderr,
    )
    return "nano"


def prepare_mattes(
    recipe: "GanRecipe", data: Path, mattes: Path, weights: str, device: str, quiet: bool
) -> int:
    """Matte the photos that have no alpha, by an exported model; those already there are kept.

    Returns:
        How many were made.
    """
    from training.gan.data import list_pictures, without_alpha

    todo = without_alpha(list_pictures(recipe, data), mattes)
    if not todo:
        return 0
    require("onnxruntime", extra="cpu")
    from stylematte import load

    matter = load(weights or "nano", device=device)
    if not quiet:
        print(f"stylematte: {len(todo)} photos are matted first, into {mattes}", file=sys.stderr)
    for sample in with_progress(todo, len(todo), "matte", quiet):
        _matte_one(matter, sample, mattes)
    return len(todo)


def _matte_one(matter: Any, sample: "Sample", mattes: Path) -> None:
    import numpy as np

    from stylematte.files import write_bytes
    from stylematte.media.images import encode_image
    from training.data.pseudo_alpha import cached_paths
    from training.data.readers import read_rgb

    alpha = matter(read_rgb(sample.image)).alpha_as(np.uint8)
    # Whole or not at all: a matte cut off would count as one.
    write_bytes(cached_paths(sample, mattes)["alpha"], encode_image(alpha, "png", lossless=True))
