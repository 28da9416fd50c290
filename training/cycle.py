"""The training cycle as resumable steps in one run folder: each step is recorded with its products.

The steps themselves are in `training.cycle_steps`. This module records and resumes them, makes the recipe of
the fine-tuning, compares networks and writes the report.
"""

import dataclasses
import html
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints import load_weights
from stylematte.errors import EngineError, InputError
from stylematte.files import sha256_of, write_text
from training.config import DataSet, Recipe, RecipeError, Stage
from training.held_out import preview_sheet
from training.validator import make_validator

SYNTHETIC = "synthetic"  # folder of the generated images, below the data root
_RATE = 0.25  # of the last stage's learning rate, to avoid forgetting

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One step of the cycle.

    Attributes:
        name: Name of its record and in the report.
        about: One-line description for users.
        settings: Plain values that determine the result, including hashes of the inputs; called just before
            the step runs.
        run: Does the work or resumes it; returns plain values for the report.
        folder: Folder of the step.
        products: Files that exist when the step is done.
        grows: A setting that may be increased later: the step then adds what is missing.
        needs: Steps whose products this step uses, besides those that its settings refer to.
        keeps: Its folder is renamed instead of overwritten when one of `needs` has grown.
    """

    name: str
    about: str
    settings: Callable[[], Result]
    run: Callable[[], Result]
    folder: Path
    products: tuple[Path, ...]
    grows: str = ""
    needs: tuple[str, ...] = ()
    keeps: bool = False


def run_steps(out: Path, steps: Sequence[Step], report: Callable[[str], None]) -> dict[str, Result]:
    """Run the steps that are not done yet, in order.

    A step is done when its record has the same settings and all its products are unchanged. A step that was
    started with other settings, such as another network, raises an error, because hours of work may be in
    it. A step whose growing setting was increased continues, and the steps that use its products start over.

    Args:
        out: Run folder; gets steps/<name>.json.
        steps: The steps, in order.
        report: Called with a line for each step.

    Returns:
        Step name → its result, with `seconds`.

    Raises:
        EngineError: A step did not write one of its products.
        InputError: A step was started with other settings.
    """
    results: dict[str, Result] = {}
    for number, step in enumerate(steps, 1):
        path = out / "steps" / f"{step.name}.json"
        settings = json.loads(json.dumps(step.settings()))
        record = _read(path)
        differing = [k for k in settings if record and record["settings"].get(k) != settings[k]]
        if differing == [step.grows] and settings[step.grows] > record["settings"].get(step.grows, 0):
            for line in _reset_dependents(out, steps, step.name):
                report(line)
            record, differing = {}, []
        if differing:
            raise InputError(
                f"{path} has a different {', '.join(differing)}; give another --out, or delete this file and "
                f"{step.folder}, and those of the following steps"
            )
        if "result" in record and _are_whole(out, record["products"]):
            report(f"{number}/{len(steps)} {step.name}: already done")
            results[step.name] = record["result"]
            continue
        report(f"{number}/{len(steps)} {step.name}: {step.about}")
        _write(path, {"settings": settings})  # first, so that work is never attributed to other settings
        began = time.monotonic()
        result = step.run()
        if missing := [product for product in step.products if not product.is_file()]:
            raise EngineError(
                f"step {step.name} did not write {missing[0]}; delete {step.folder} to repeat it"
            )
        result["seconds"] = round(time.monotonic() - began, 1)
        products = {str(p.relative_to(out)): sha256_of(p) for p in step.products}
        _write(path, {"settings": settings, "result": result, "products": products})
        results[step.name] = result
    return results


def _reset_dependents(out: Path, steps: Sequence[Step], grown: str) -> list[str]:
    """Forget the steps that depend on a step that has grown; rename their folders instead of deleting them.

    Returns:
        A line for each renamed folder.
    """
    lines, stale = [], {grown}
    for step in steps:
        if not stale & set(step.needs):
            continue
        stale.add(step.name)
        if step.keeps and step.folder.exists():
            places = (step.folder.with_name(f"{step.folder.name}_before_{n}") for n in itertools.count(1))
            place = next(place for place in places if not place.exists())
            step.folder.rename(place)
            lines.append(
                f"{step.folder.name}: there are more images now; the old folder was renamed to {place}"
            )
        (out / "steps" / f"{step.name}.json").unlink(missing_ok=True)
    return lines


def _read(path: Path) -> Result:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # not done, or killed while writing the record
        return {}
    return record if isinstance(record, dict) else {}


def _write(path: Path, value: Result) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _are_whole(out: Path, products: dict[str, str]) -> bool:
    return all((out / name).is_file() and sha256_of(out / name) == known for name, known in products.items())


def gather_data(root: Path, synthetic: Path, target: Path) -> Path:
    """Make a data root of symbolic links to everything below `root` and to the generated images.

    Args:
        root: Folder of the data sets.
        synthetic: Folder of the generated images; it replaces a set of that name.
        target: The new root.
    """
    target.mkdir(parents=True, exist_ok=True)
    sources = {entry.name: entry for entry in root.iterdir() if entry.is_dir()} | {SYNTHETIC: synthetic}
    for name, source in sources.items():
        link = target / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(source.resolve(), target_is_directory=True)
    return target


def fine_tuning(recipe: Recipe, steps: int, share: float, with_synthetic: bool = True) -> Recipe:
    """Return the recipe of the fine-tuning: one stage, with generated images added.

    The stage is like the last one that trains the whole network. If the recipe already has one for the set
    `synthetic`, that is used; `steps` replaces its epochs.

    Args:
        recipe: Recipe that the network was trained with.
        steps: Steps of the stage.
        share: Fraction of generated images among the samples; not used if the recipe has such a stage.
        with_synthetic: False leaves out only the generated images, as a control for the effect of more
            training.

    Raises:
        RecipeError: No stage trains the whole network.
    """
    known = {s.folder for s in recipe.sets}
    own = [t for t in recipe.stages if t.shares.get(SYNTHETIC, 0) > 0] if SYNTHETIC in known else []
    last = own[-1] if own else _last_stage(recipe)
    shares = {s.folder: last.shares.get(s.folder, s.share) for s in recipe.sets}
    sets = recipe.sets
    if not own:
        shares.pop(SYNTHETIC, None)
        others = sum(shares.values())
        shares[SYNTHETIC] = others * share / (1 - share)
        generated = DataSet(SYNTHETIC, "cutouts", shares[SYNTHETIC])
        sets = (*(s for s in recipe.sets if s.folder != SYNTHETIC), generated)
    if not with_synthetic:
        del shares[SYNTHETIC]
        sets = tuple(s for s in sets if s.folder != SYNTHETIC)
    stage = dataclasses.replace(
        last,
        name=SYNTHETIC if with_synthetic else "control",
        steps=steps,
        epochs=0.0,
        learning_rate=last.learning_rate * (1.0 if own else _RATE),
        warmup_steps=min(last.warmup_steps, steps // 10),
        shares=shares,
        optional=False,
    )
    return dataclasses.replace(recipe, sets=sets, stages=(stage,))


def _last_stage(recipe: Recipe) -> Stage:
    """Return the last stage that changes what the network does without a prior.

    Raises:
        RecipeError: There is none.
    """
    for stage in reversed(recipe.stages):
        if not stage.only_selection:
            return stage
    raise RecipeError("no stage of the recipe trains the whole network: all have only_selection")


def compare(
    recipe: Recipe, root: Path, mattes: Path, weights: dict[str, Path], images: Path, device: str
) -> dict[str, dict[str, float]]:
    """Score networks on the same held-out images, and draw preview sheets.

    Args:
        recipe: Recipe of the networks: its validation sets are used, or the held-out part of its sets.
        root: Folder of the data sets.
        mattes: Folder of prepared mattes.
        weights: Name of a network → its weights.
        images: Folder for `<name>.png`, with image, label, alpha and composite in each row.
        device: Device of the networks.

    Returns:
        Name → scores, see `training.held_out.score` and `training.validation.score`.

    Raises:
        DataError: No images are held out.
        CheckpointError: Weights cannot be read.
    """
    validator = make_validator(recipe, root, mattes)
    side = float(_last_stage(recipe).side[1])
    scores = {}
    for name, path in weights.items():
        model = load_weights(path)[0].to(device)
        scores[name] = {key: round(value, 6) for key, value in validator.score(model, side).items()}
        preview_sheet(model, validator.shown(), side, images / f"{name}.png")
    return scores


def write_report(out: Path, settings: Result, results: dict[str, Result], scores: dict[str, Any]) -> None:
    """Write report.json, and report.md for reading.

    Args:
        out: Run folder.
        settings: Settings of the whole cycle.
        results: Result of `run_steps`.
        scores: Result of `compare`.
    """
    _write(out / "report.json", {"settings": settings, "steps": results, "scores": scores})
    lines = ["# Cycle", "", "| step | result | time |", "|---|---|---|"]
    for name, result in results.items():
        facts = ", ".join(f"{k} {_text(v)}" for k, v in result.items() if k not in ("seconds", "scores"))
        lines.append(f"| {name} | {facts} | {result['seconds']:g} s |")
    names = list(scores)
    lines += ["", "## Scores on held-out images", ""]
    lines += [f"| score | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for key in scores[names[0]]:
        lines.append(f"| {key} | {' | '.join(f'{scores[name][key]:.4f}' for name in names)} |")
    lines += [
        "",
        "Higher is better for `iou`, lower for all others. Preview sheets of all networks are in pictures/.",
        "",
    ]
    write_text(out / "report.md", "\n".join(lines))


def _text(value: Any) -> str:
    """Format a value for a table cell, with characters escaped that Markdown or HTML would interpret."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(html.escape(str(value), quote=False).replace("|", "&#124;").split())
