"""A look at the data sets of a recipe before a run: what is there, what does not fit, what cannot be read."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from training.config import DataSet, Recipe, Validation
from training.data.inspection import Look, Seen, look_at
from training.data.layouts import Layout
from training.data.near_duplicates import match_signs
from training.data.readers import (
    DataError,
    Listing,
    Sample,
    has_set,
    is_held_out,
    label_of,
    list_set,
    lonely_pictures,
    read_set,
    samples_of,
)
from training.data.subjects import needed_sets, what_lacks

QUICK_LOOKS = 100  # labels of a set that the quick pass decodes, spread evenly
_LITTLE, _MUCH = 0.005, 0.9  # shares of a photo that few subjects stay below, or go beyond
_NOTED = 24  # pictures of a set whose labels are looked into before a run
_NAMED = 3  # files that one line names
_SHOWN = 10  # errors of a set that people are shown


@dataclass
class SetReport:
    """What was found of one set.

    Attributes:
        folder: Its name below the data root.
        layout: How its files should lie.
        kind: As in the recipe, or "validation".
        pictures: How many there are.
        labels: Label → how many pictures have it.
        held_out: Pictures that are not trained on; of a validation set those that are scored.
        megapixels: Mean size of its pictures.
        looked_into: How many of its labels were decoded, the alphas of cut-outs among them.
        whole: Whether every label was decoded.
        twins: Scored pictures with a near copy among the trained ones; None where nobody looked.
        errors: What would stop a run, or train on what is not there.
        warnings: What a run survives, and its scores perhaps do not.
    """

    folder: str
    layout: str
    kind: str
    pictures: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    held_out: int = 0
    megapixels: float = 0.0
    looked_into: int = 0
    whole: bool = False
    twins: int | None = None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people: a line of counts, and one for each error and warning."""
        parts = [f"{self.pictures} pictures of {self.megapixels:.2f} megapixels"]
        parts += [f"{count} with {label}" for label, count in self.labels.items()]
        parts += [f"{self.held_out} {'to be scored' if self.kind == 'validation' else 'held out'}"]
        if self.labels and not self.whole:
            parts.append(f"{self.looked_into} of {sum(self.labels.values())} labels looked into")
        head = f"{self.folder} ({self.kind}, layout {self.layout}): {', '.join(parts)}"
        errors = [f"  error: {e}" for e in self.errors[:_SHOWN]]
        if len(self.errors) > _SHOWN:
            errors.append(f"  and {len(self.errors) - _SHOWN} errors more")
        return [head, *errors, *(f"  warning: {w}" for w in self.warnings)]


@dataclass
class DataReport:
    """What was found below a data root.

    Attributes:
        root: The data root.
        is_full: Whether every file was decoded, or headers and a hundred labels a set.
        sets: One report a set.
    """

    root: str
    is_full: bool
    sets: list[SetReport]

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return sum(len(s.errors) for s in self.sets)

    @property
    def warnings(self) -> int:
        """How many warnings there are."""
        return sum(len(s.warnings) for s in self.sets)

    def lines(self) -> list[str]:
        """For people."""
        what = (
            "full check: every file was decoded"
            if self.is_full
            else f"quick check: the headers of all files, and what is in the labels of at most {QUICK_LOOKS} "
            "pictures a set; --full-check decodes every file and looks for near copies of scored pictures"
        )
        found = f"{self.errors} errors, {self.warnings} warnings"
        return [line for s in self.sets for line in s.lines()] + [what, found]

    def as_dict(self) -> dict[str, Any]:
        """For programs: plain values, as JSON has them."""
        return dataclasses.asdict(self) | {"errors": self.errors, "warnings": self.warnings}


@dataclass
class _Set:
    """A set on its way through the check."""

    report: SetReport
    plan: DataSet | Validation
    samples: list[Sample] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def looks(self, full: bool) -> Iterator[Look]:
        """What to look at."""
        step = max(1, -(-len(self.samples) // QUICK_LOOKS))
        is_cutouts = self.report.kind == "cutouts"
        for number, sample in enumerate(self.samples):
            is_cutout = is_cutouts and "alpha" not in sample.labels
            yield Look(sample, full, number % step == 0, is_cutout)


def check_data(
    plan: Recipe, root: Path, full: bool = False, workers: int = 2, quiet: bool = False
) -> DataReport:
    """Check the data sets of a recipe.

    The quick pass reads the first and last bytes of all files, which is enough to find files that are empty
    or cut off and pictures whose labels have another size, and decodes some labels. The full pass decodes
    everything and looks for near copies of scored pictures among the trained ones.

    Args:
        plan: The recipe.
        root: Folder that holds its sets.
        full: Decode everything.
        workers: Threads.
        quiet: Show no progress.

    Returns:
        A report; what is wrong with the data stands there and raises nothing.
    """
    sets = [_Set(SetReport(s.folder, s.layout, s.kind), s) for s in plan.sets]
    sets += [_Set(SetReport(v.folder, v.layout, "validation"), v) for v in plan.validation]
    for one in sets:
        _list(one, plan, root)
    looks = [look for one in sets for look in one.looks(full)]
    results = _each(looks, workers)
    with tqdm(results, total=len(looks), desc="data", unit="photo", delay=2, disable=quiet or None) as bar:
        seen = iter(bar)
        for one in sets:
            one.seen = [next(seen) for _ in one.samples]
    for one in sets:
        _sum_up(one)
    if full:
        _find_twins(sets, plan)
    return DataReport(str(root), full, [one.report for one in sets])


def label_notes(plan: Recipe, root: Path) -> list[str]:
    """Look into a few labels of every set before a run: are they masks or alphas at all?

    Args:
        plan: The recipe, made ready for the data that is there.
        root: Folder that holds its sets.

    Returns:
        Lines to be said: masks that are scaled, and what looks empty or inverted.

    Raises:
        DataError: A label cannot be read or is a map of classes, or no label of a set shows a subject.
    """
    lines: list[str] = []
    tables: list[DataSet | Validation] = [*plan.sets, *plan.validation]
    for table in tables:
        kind = table.kind if isinstance(table, DataSet) else "validation"
        if kind in ("backgrounds", "unlabelled"):
            continue
        samples = read_set(root, table.folder, table.rules)
        step = max(1, -(-len(samples) // _NOTED))
        one = _Set(SetReport(table.folder, table.layout, kind), table, samples[::step])
        one.seen = list(_each(list(one.looks(full=False)), workers=1))
        if problems := [problem for seen in one.seen for problem in seen.problems]:
            raise DataError(problems[0])
        if (known := [seen for seen in one.seen if seen.covered is not None]) and not any(
            seen.covered for seen in known
        ):
            raise DataError(f"{root / table.folder}: no subject in any of {len(known)} labels looked into")
        _judge_masks(one)
        lines += [f"{table.folder}: {line}" for line in (*one.report.warnings, *one.report.errors)]
    return lines


def _each(looks: list[Look], workers: int) -> Iterator[Seen]:
    """Look at each on several threads, results in order; OpenCV lets go of the lock while it decodes."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        yield from pool.map(look_at, looks)
    finally:  # after Ctrl-C, too: what waits is dropped
        pool.shutdown(cancel_futures=True)


def _list(one: _Set, plan: Recipe, root: Path) -> None:
    """Find the files of a set, and what lacks its partner."""
    report, rules = one.report, one.plan.rules
    if isinstance(one.plan, DataSet) and not has_set(root, report.folder, rules):
        readers = [stage for stage in plan.stages if one.plan in needed_sets(plan, stage)]
        if all(stage.optional for stage in readers):
            names = ", ".join(stage.name for stage in readers)
            report.warnings.append(
                f"not there; left out with it: {names}" if names else "not there, not used"
            )
            return
    try:
        found = list_set(root, report.folder, rules)
    except DataError as error:
        report.errors.append(str(error))
        return
    _match(report, found, rules)
    if not found.pictures:
        report.errors.append(f"{found.places[0]}: no pictures in it")
        return
    for label in rules.needs:
        if label not in found.labels:
            report.errors.append(f"{found.places[0]}: no {label} beside it")
    if isinstance(one.plan, DataSet) and (lack := what_lacks(one.plan, found.labels)):
        report.errors.append(lack)
    elif isinstance(one.plan, Validation) and "alpha" not in found.labels:
        report.errors.append("a validation set needs alphas")
    one.samples = samples_of(found, report.folder, rules)
    report.pictures = len(one.samples)
    report.labels = dict(Counter(label for s in one.samples for label in s.labels))
    keys = Counter(s.key for s in one.samples)
    _note(report.errors, "names that two pictures have", [key for key, count in keys.items() if count > 1])
    if isinstance(one.plan, Validation):
        report.held_out = min(one.plan.photos, report.pictures)
    else:
        missing = {*one.plan.wrong, *one.plan.incomplete} - {s.image.stem for s in one.samples}
        _note(report.warnings, "that the recipe calls wrong or incomplete, but not there", sorted(missing))
        report.held_out = sum(is_held_out(s.key, plan.held_out_every) for s in one.samples)
        if report.held_out == report.pictures:
            report.errors.append("every picture of it is held out, none is left to train on")


def _match(report: SetReport, found: Listing, rules: Layout) -> None:
    """Note pictures without labels, labels without pictures, and names of the set's list without pictures."""
    _note(report.errors, f"in {rules.listed}, but not there", found.unlisted)
    for label, files in found.labels.items():
        lonely = lonely_pictures(found, label, rules)
        _note(report.errors, f"pictures without {label}", [p.name for p in lonely])
        used = {label_of(files, below, picture, rules) for below, picture in found.pictures}
        strays = [] if rules.listed else [p.name for p in files.values() if p not in used]
        _note(report.warnings, f"files in {label} without a picture", strays)


def _sum_up(one: _Set) -> None:
    """Turn what was seen of single files into a report of the set."""
    report = one.report
    report.errors += [problem for seen in one.seen for problem in seen.problems]
    sizes = [seen.size for seen in one.seen if seen.size is not None]
    report.megapixels = float(np.mean([h * w for h, w in sizes]) / 1e6) if sizes else 0.0
    names = [s.key for s in one.samples]
    pairs = list(zip(names, one.seen, strict=True))
    for what in ("empty", "full"):
        value = 0 if what == "empty" else 255
        hollow = [name for name, seen in pairs if getattr(seen, what)]
        _note(report.warnings, f"labels that are {value} all over", hollow)
    soft = [seen.is_hard for seen in one.seen if seen.is_hard is not None]
    report.looked_into = sum(seen.decoded for seen in one.seen)
    report.whole = report.looked_into >= sum(report.labels.values())
    if hard := sum(soft):
        report.warnings.append(
            f"{hard} of {len(soft)} alphas looked into ({100 * hard / len(soft):.0f} %) are 0 and 255 alone: "
            "masks, perhaps, where soft mattes are wanted"
        )
    _judge_masks(one)
    values = sorted({value for seen in one.seen for value in seen.odd_values})
    _note(
        report.warnings,
        f"trimaps with values besides 0, 128 and 255 ({_some(map(str, values))}), which count as unknown "
        "here, and which the published trimap scores pass over",
        [name for name, seen in pairs if seen.odd_values],
    )


def _judge_masks(one: _Set) -> None:
    """Say which masks are scaled, and whether they cover nothing, or all but the subject."""
    report = one.report
    scaled: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for sample, seen in zip(one.samples, one.seen, strict=True):
        for kind, values in seen.scaled.items():
            scaled.setdefault((kind, values), []).append(sample.key)
    for (kind, values), names in scaled.items():
        numbers = " and ".join(map(str, values))
        what = f"labels in {kind} have {numbers} alone: masks, which are scaled to 0 and 255"
        _note(report.warnings, what, names)
    covered = [(seen.covered, seen.border) for seen in one.seen if seen.covered is not None]
    if not covered:
        return
    count = len(covered)
    little = sum(share < _LITTLE for share, _ in covered)
    much = sum(share > _MUCH for share, _ in covered)
    border = sum(share > 0.5 for _, share in covered)
    if 2 * little >= count:
        report.errors.append(
            f"empty, perhaps: {little} of {count} labels looked into cover less than {100 * _LITTLE:g} % of "
            "their photos"
        )
    if report.kind == "cutouts":  # often cut close around the subject
        return
    if 2 * much >= count:
        report.errors.append(
            f"inverted, perhaps: {much} of {count} labels looked into cover more than {100 * _MUCH:g} % of "
            "their photos; the subject is to be 255"
        )
    elif 2 * border > count:
        report.errors.append(
            f"inverted, perhaps: in {border} of {count} labels looked into the subject fills most of the "
            "border; it is to be 255, and all else 0"
        )


def _find_twins(sets: list[_Set], plan: Recipe) -> None:
    """Note scored pictures of which the trained part has a near copy."""
    trained: dict[int, list] = {}
    for number, one in enumerate(sets):
        if one.report.kind in ("photos", "mattes"):
            trained[number] = _signs(one, plan, held_out=False)
    for number, one in enumerate(sets):
        if one.report.kind == "validation":
            scored, others = _signs(one, plan, held_out=None), [s for part in trained.values() for s in part]
            what = "pictures"
        elif number in trained:
            scored, others = _signs(one, plan, held_out=True), trained[number]
            what = "held-out pictures"
        else:
            continue
        one.report.twins = sum(match_signs(scored, others))
        if one.report.twins:
            one.report.warnings.append(
                f"{one.report.twins} of {len(scored)} {what} have a near copy in the trained part; "
                "scores on them flatter"
            )


def _signs(one: _Set, plan: Recipe, held_out: bool | None) -> list:
    """Looks of the pictures that are held out, that are not, or (None) of all."""
    return [
        seen.signs
        for sample, seen in zip(one.samples, one.seen, strict=True)
        if seen.signs is not None and held_out in (None, is_held_out(sample.key, plan.held_out_every))
    ]


def _note(lines: list[str], what: str, names: list[str]) -> None:
    if names:
        lines.append(f"{len(names)} {what}: {_some(names)}")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
