"""The loop that feeds itself, as steps of one run folder: each is done once, and known by what it left.

What the steps do is the caller's: here stands how a run remembers them, what fine-tuning changes of a
recipe, how networks are compared, and the report.
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
from training.config import DataSet, Recipe
from training.held_out import preview_sheet
from training.loop import RunOptions, make_validator

SYNTHETIC = "synthetic"  # folder of the generated pictures, below the data root
SYNTHETIC_SHARE = 0.3  # of the pictures that fine-tuning draws
_RATE = 0.25  # of the last stage's learning rate: what is known shall stay known

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One step of the cycle.

    Attributes:
        name: Of its record, and in the report.
        about: One line for people.
        settings: Plain values that decide what comes out, hashes of its inputs among them; asked for when the
            step's turn comes.
        run: Does the work, or goes on with it; returns plain values for the report.
        folder: Where it works.
        products: Files that are there when it is done.
        grows: A setting of which more may be asked for later: the step then adds what is missing.
        needs: Steps from whose products this one is made, besides those that its settings refuse.
        keeps: Its folder is put aside, not written over, when one of `needs` has grown.
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
    """Run the steps that are not done, in order.

    A step counts as done when its record tells of the same settings and all its products are as they were
    left. One that began with other settings, from another network say, is refused: hours may lie in it. One
    of which more is asked than before goes on, and those made from its products begin anew.

    Args:
        out: Run folder; gets steps/<name>.json.
        steps: In order.
        report: Takes a line for each.

    Returns:
        Step → what it returned, with `seconds`.

    Raises:
        EngineError: A step left no product that it should have left.
        InputError: A step began with other settings.
    """
    results: dict[str, Result] = {}
    for number, step in enumerate(steps, 1):
        path = out / "steps" / f"{step.name}.json"
        settings = json.loads(json.dumps(step.settings()))
        record = _read(path)
        differing = [k for k in settings if record and record["settings"].get(k) != settings[k]]
        if differing == [step.grows] and settings[step.grows] > record["settings"].get(step.grows, 0):
            for line in _set_back(out, steps, step.name):
                report(line)
            record, differing = {}, []
        if differing:
            raise InputError(
                f"{path} tells of another {', '.join(differing)}; give another --out, or take away this file "
                f"and {step.folder}, and those of the steps after it"
            )
        if "result" in record and _are_whole(out, record["products"]):
            report(f"{number}/{len(steps)} {step.name}: done before")
            results[step.name] = record["result"]
            continue
        report(f"{number}/{len(steps)} {step.name}: {step.about}")
        _write(path, {"settings": settings})  # so that work is never taken for that of other settings
        began = time.monotonic()
        result = step.run()
        if missing := [product for product in step.products if not product.is_file()]:
            raise EngineError(f"step {step.name} left no {missing[0]}; take {step.folder} away to do it anew")
        result["seconds"] = round(time.monotonic() - began, 1)
        products = {str(p.relative_to(out)): sha256_of(p) for p in step.products}
        _write(path, {"settings": settings, "result": result, "products": products})
        results[step.name] = result
    return results


def _set_back(out: Path, steps: Sequence[Step], grown: str) -> list[str]:
    """Forget the steps that were made from what a step left; hours of work are put aside, not thrown away.

    Returns:
        A line for each folder that was put aside.
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
                f"{step.folder.name}: there are more pictures now, the old one is put aside as {place}"
            )
        (out / "steps" / f"{step.name}.json").unlink(missing_ok=True)
    return lines


def _read(path: Path) -> Result:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # not done, or killed while the record was written
        return {}
    return record if isinstance(record, dict) else {}


def _write(path: Path, value: Result) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _are_whole(out: Path, products: dict[str, str]) -> bool:
    return all((out / name).is_file() and sha256_of(out / name) == known for name, known in products.items())


def gather_data(root: Path, synthetic: Path, target: Path) -> Path:
    """Make a data root of links: everything below `root`, and the generated pictures.

    Args:
        root: Folder of the data sets.
        synthetic: Folder of the generated pictures; it takes the place of a set of that name.
        target: The new root.
    """
    target.mkdir(parents=True, exist_ok=True)
    wanted = {entry.name: entry for entry in root.iterdir() if entry.is_dir()} | {SYNTHETIC: synthetic}
    for name, source in wanted.items():
        link = target / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(source.resolve(), target_is_directory=True)
    return target


def fine_tuning(recipe: Recipe, steps: int, with_synthetic: bool = True) -> Recipe:
    """The recipe of the last step: a stage like the last one, with generated pictures among the others.

    A recipe that has a stage for the set `synthetic` keeps that one as it is; where it counts epochs, `steps`
    takes their place.

    Args:
        recipe: What the network was trained by.
        steps: Of the stage.
        with_synthetic: False leaves the generated pictures out, and nothing else: what more training alone
            would have brought.
    """
    known = {s.folder for s in recipe.sets}
    own = [t for t in recipe.stages if t.shares.get(SYNTHETIC, 0) > 0] if SYNTHETIC in known else []
    last = (own or recipe.stages)[-1]
    shares = {s.folder: last.shares.get(s.folder, s.share) for s in recipe.sets}
    sets = recipe.sets
    if not own:
        shares.pop(SYNTHETIC, None)
        others = sum(shares.values())
        shares[SYNTHETIC] = others * SYNTHETIC_SHARE / (1 - SYNTHETIC_SHARE)
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


def compare(
    recipe: Recipe, root: Path, mattes: Path, weights: dict[str, Path], pictures: Path, device: str
) -> dict[str, dict[str, float]]:
    """Score networks on the same held-out pictures, and draw them side by side.

    Args:
        recipe: What they were trained by: its validation sets, or the held-out part of its sets.
        root: Folder of the data sets.
        mattes: Folder of prepared mattes.
        weights: What to call a network → its weights.
        pictures: Gets `<name>.png`: picture, label, alpha and composite a row.
        device: Where they run.

    Returns:
        Name → scores, see `training.held_out.score` and `training.validation.score`.

    Raises:
        DataError: Nothing is held out to score on.
        CheckpointError: Weights that cannot be read.
    """
    judge = make_validator(recipe, root, RunOptions(pictures, mattes), teacher=None)
    side = float(recipe.stages[-1].side[1])
    scores = {}
    for name, path in weights.items():
        model = load_weights(path)[0].to(device)
        scores[name] = {key: round(value, 6) for key, value in judge.score(model, side).items()}
        preview_sheet(model, judge.shown(), side, pictures / f"{name}.png")
    return scores


def write_report(out: Path, settings: Result, results: dict[str, Result], scores: dict[str, Any]) -> None:
    """Write report.json, and report.md for people.

    Args:
        out: Run folder.
        settings: Of the whole cycle.
        results: Of `run_steps`.
        scores: Of `compare`.
    """
    _write(out / "report.json", {"settings": settings, "steps": results, "scores": scores})
    lines = ["# Cycle", "", "| step | what came out | time |", "|---|---|---|"]
    for name, result in results.items():
        facts = ", ".join(f"{k} {_text(v)}" for k, v in result.items() if k not in ("seconds", "scores"))
        lines.append(f"| {name} | {facts} | {result['seconds']:g} s |")
    names = list(scores)
    lines += ["", "## Scores on held-out pictures", ""]
    lines += [f"| score | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for key in scores[names[0]]:
        lines.append(f"| {key} | {' | '.join(f'{scores[name][key]:.4f}' for name in names)} |")
    lines += ["", "`iou`: more is better; everything else: less is. Sheets of all of them: pictures/.", ""]
    write_text(out / "report.md", "\n".join(lines))


def _text(value: Any) -> str:
    """A value for a cell of a table: names of files may hold what a page reads as its own."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(html.escape(str(value), quote=False).replace("|", "&#124;").split())
