"""Check the data sets of a recipe before a run: missing files, mismatches, unreadable files."""

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
from training.data.inspection import Inspection, InspectionTask, inspect
from training.data.layouts import Layout
from training.data.near_duplicates import match_hashes
from training.data.readers import (
    DataError,
    Listing,
    Sample,
    has_set,
    images_without_label,
    is_held_out,
    label_of,
    list_set,
    read_set,
    samples_of,
)
from training.data.subjects import missing_label, needed_sets

QUICK_LABELS = 100  # labels per set that the quick check decodes, spread evenly
_LITTLE, _MUCH = 0.005, 0.9  # few subjects cover less or more of their photos than this
_SAMPLED = 24  # labels per set that are inspected before a run
_NAMED = 3  # files named in one line
_SHOWN = 10  # errors shown per set


@dataclass
class SetReport:
    """Findings for one data set.

    Attributes:
        folder: Its name below the data root.
        layout: Expected layout of its files.
        kind: As in the recipe, or "validation".
        images: Number of images.
        labels: Label → number of images that have it.
        held_out: Number of images that are not trained on; for a validation set, those that are scored.
        megapixels: Mean size of its images.
        looked_into: Number of labels that were decoded, including the alphas of cut-outs.
        whole: Whether every label was decoded.
        twins: Scored images with a near duplicate in the training part; None if not checked.
        errors: Problems that stop a run or spoil its training.
        warnings: Problems that do not stop a run but may affect its scores.
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
        """Return the report as text: a line of counts, and a line for each error and warning."""
        parts = [f"{self.pictures} images with {self.megapixels:.2f} megapixels"]
        parts += [f"{count} with {label}" for label, count in self.labels.items()]
        parts += [f"{self.held_out} {'to be scored' if self.kind == 'validation' else 'held out'}"]
        if self.labels and not self.whole:
            parts.append(f"{self.looked_into} of {sum(self.labels.values())} labels inspected")
        head = f"{self.folder} ({self.kind}, layout {self.layout}): {', '.join(parts)}"
        errors = [f"  error: {e}" for e in self.errors[:_SHOWN]]
        if len(self.errors) > _SHOWN:
            errors.append(f"  and {len(self.errors) - _SHOWN} more errors")
        return [head, *errors, *(f"  warning: {w}" for w in self.warnings)]


@dataclass
class DataReport:
    """Findings for a data root.

    Attributes:
        root: The data root.
        is_full: Whether every file was decoded, or only headers and up to 100 labels per set.
        sets: One report per set.
    """

    root: str
    is_full: bool
    sets: list[SetReport]

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(len(s.errors) for s in self.sets)

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return sum(len(s.warnings) for s in self.sets)

    def lines(self) -> list[str]:
        """Return the report as text."""
        what = (
            "full check: every file was decoded"
            if self.is_full
            else f"quick check: the headers of all files, and the labels of at most {QUICK_LABELS} images "
            "per set; --full-check decodes every file and searches for near duplicates of scored images"
        )
        found = f"{self.errors} errors, {self.warnings} warnings"
        return [line for s in self.sets for line in s.lines()] + [what, found]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return dataclasses.asdict(self) | {"errors": self.errors, "warnings": self.warnings}


@dataclass
class _Set:
    """A data set during the check."""

    report: SetReport
    plan: DataSet | Validation
    samples: list[Sample] = field(default_factory=list)
    found: list[Inspection] = field(default_factory=list)

    def tasks(self, full: bool) -> Iterator[InspectionTask]:
        """Yield what to inspect."""
        step = max(1, -(-len(self.samples) // QUICK_LABELS))
        is_cutouts = self.report.kind == "cutouts"
        for number, sample in enumerate(self.samples):
            is_cutout = is_cutouts and "alpha" not in sample.labels
            yield InspectionTask(sample, full, number % step == 0, is_cutout)


def check_data(
    plan: Recipe, root: Path, full: bool = False, workers: int = 2, quiet: bool = False
) -> DataReport:
    """Check the data sets of a recipe.

    The quick check reads the first and last bytes of all files, which is enough to find empty and truncated
    files and labels of the wrong size, and decodes some labels. The full check decodes everything and
    searches for near duplicates of scored images in the training part.

    Args:
        plan: The recipe.
        root: Folder that holds its sets.
        full: Decode everything.
        workers: Threads.
        quiet: Show no progress.

    Returns:
        A report; problems with the data are listed there and raise no error.
    """
    sets = [_Set(SetReport(s.folder, s.layout, s.kind), s) for s in plan.sets]
    sets += [_Set(SetReport(v.folder, v.layout, "validation"), v) for v in plan.validation]
    for one in sets:
        _list(one, plan, root)
    tasks = [task for one in sets for task in one.tasks(full)]
    results = _inspect_all(tasks, workers)
    with tqdm(results, total=len(tasks), desc="data", unit="photo", delay=2, disable=quiet or None) as bar:
        inspections = iter(bar)
        for one in sets:
            one.found = [next(inspections) for _ in one.samples]
    for one in sets:
        _summarise(one)
    if full:
        _count_near_duplicates(sets, plan)
    return DataReport(str(root), full, [one.report for one in sets])


def label_notes(plan: Recipe, root: Path) -> list[str]:
    """Inspect a few labels of every set before a run, to tell whether they are masks or alphas.

    Args:
        plan: The recipe, prepared for the available data.
        root: Folder of its sets.

    Returns:
        Lines for the user: masks that will be scaled, and labels that look empty or inverted.

    Raises:
        DataError: A label cannot be read or is a class map, or no label of a set contains a subject.
    """
    lines: list[str] = []
    tables: list[DataSet | Validation] = [*plan.sets, *plan.validation]
    for table in tables:
        kind = table.kind if isinstance(table, DataSet) else "validation"
        if kind in ("backgrounds", "unlabelled"):
            continue
        samples = read_set(root, table.folder, table.rules)
        step = max(1, -(-len(samples) // _SAMPLED))
        one = _Set(SetReport(table.folder, table.layout, kind), table, samples[::step])
        one.found = list(_inspect_all(list(one.tasks(full=False)), workers=1))
        if problems := [problem for found in one.found for problem in found.problems]:
            raise DataError(problems[0])
        if (known := [found for found in one.found if found.covered is not None]) and not any(
            found.covered for found in known
        ):
            raise DataError(
                f"{root / table.folder}: none of {len(known)} inspected labels contains a subject"
            )
        _check_masks(one)
        lines += [f"{table.folder}: {line}" for line in (*one.report.warnings, *one.report.errors)]
    return lines


def _inspect_all(tasks: list[InspectionTask], workers: int) -> Iterator[Inspection]:
    """Inspect on several threads, results in order; OpenCV releases the GIL while it decodes."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        yield from pool.map(inspect, tasks)
    finally:  # also after Ctrl-C: drop the waiting tasks
        pool.shutdown(cancel_futures=True)


def _list(one: _Set, plan: Recipe, root: Path) -> None:
    """List the files of a set, and note images and labels without a partner."""
    report, rules = one.report, one.plan.rules
    if isinstance(one.plan, DataSet) and not has_set(root, report.folder, rules):
        readers = [stage for stage in plan.stages if one.plan in needed_sets(plan, stage)]
        if all(stage.optional for stage in readers):
            names = ", ".join(stage.name for stage in readers)
            report.warnings.append(
                f"missing; these stages are skipped: {names}" if names else "missing, but not used"
            )
            return
    try:
        found = list_set(root, report.folder, rules)
    except DataError as error:
        report.errors.append(str(error))
        return
    _match(report, found, rules)
    if not found.images:
        report.errors.append(f"{found.places[0]}: no images in it")
        return
    for label in rules.needs:
        if label not in found.labels:
            report.errors.append(f"{found.places[0]}: no {label} folder beside it")
    if isinstance(one.plan, DataSet) and (lack := missing_label(one.plan, found.labels)):
        report.errors.append(lack)
    elif isinstance(one.plan, Validation) and "alpha" not in found.labels:
        report.errors.append("a validation set needs alphas")
    one.samples = samples_of(found, report.folder, rules)
    report.pictures = len(one.samples)
    report.labels = dict(Counter(label for s in one.samples for label in s.labels))
    keys = Counter(s.key for s in one.samples)
    _note(report.errors, "names shared by two images", [key for key, count in keys.items() if count > 1])
    if isinstance(one.plan, Validation):
        report.held_out = min(one.plan.photos, report.pictures)
    else:
        missing = {*one.plan.wrong, *one.plan.incomplete} - {s.image.stem for s in one.samples}
        _note(report.warnings, "listed by the recipe as wrong or incomplete, but missing", sorted(missing))
        report.held_out = sum(is_held_out(s.key, plan.held_out_every) for s in one.samples)
        if report.held_out == report.pictures:
            report.errors.append("all of its images are held out, so none are left to train on")


def _match(report: SetReport, found: Listing, rules: Layout) -> None:
    """Note images without labels, labels without images, and listed names without images."""
    _note(report.errors, f"listed in {rules.listed}, but missing", found.missing)
    for label, files in found.labels.items():
        unlabelled = images_without_label(found, label, rules)
        _note(report.errors, f"images without {label}", [p.name for p in unlabelled])
        used = {label_of(files, below, image, rules) for below, image in found.images}
        strays = [] if rules.listed else [p.name for p in files.values() if p not in used]
        _note(report.warnings, f"files in {label} without an image", strays)


def _summarise(one: _Set) -> None:
    """Summarise the inspections of single files in the set's report."""
    report = one.report
    report.errors += [problem for found in one.found for problem in found.problems]
    sizes = [found.size for found in one.found if found.size is not None]
    report.megapixels = float(np.mean([h * w for h, w in sizes]) / 1e6) if sizes else 0.0
    names = [s.key for s in one.samples]
    pairs = list(zip(names, one.found, strict=True))
    for what in ("empty", "full"):
        value = 0 if what == "empty" else 255
        constant = [name for name, found in pairs if getattr(found, what)]
        _note(report.warnings, f"labels that are {value} everywhere", constant)
    hardness = [found.is_hard for found in one.found if found.is_hard is not None]
    report.looked_into = sum(found.decoded for found in one.found)
    report.whole = report.looked_into >= sum(report.labels.values())
    if hard := sum(hardness):
        report.warnings.append(
            f"{hard} of {len(hardness)} inspected alphas ({100 * hard / len(hardness):.0f} %) contain only 0 "
            "and 255: they may be masks instead of soft mattes"
        )
    _check_masks(one)
    values = sorted({value for found in one.found for value in found.odd_values})
    _note(
        report.warnings,
        f"trimaps with values other than 0, 128 and 255 ({_some(map(str, values))}), which count as unknown "
        "here, but which the published trimap scores ignore",
        [name for name, found in pairs if found.odd_values],
    )


def _check_masks(one: _Set) -> None:
    """Note masks that will be scaled, and labels that may be empty or inverted."""
    report = one.report
    scaled: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for sample, found in zip(one.samples, one.found, strict=True):
        for kind, values in found.scaled.items():
            scaled.setdefault((kind, values), []).append(sample.key)
    for (kind, values), names in scaled.items():
        numbers = " and ".join(map(str, values))
        what = f"labels in {kind} contain only {numbers}: they are masks, and are scaled to 0 and 255"
        _note(report.warnings, what, names)
    covered = [(found.covered, found.border) for found in one.found if found.covered is not None]
    if not covered:
        return
    count = len(covered)
    little = sum(share < _LITTLE for share, _ in covered)
    much = sum(share > _MUCH for share, _ in covered)
    border = sum(share > 0.5 for _, share in covered)
    if 2 * little >= count:
        report.errors.append(
            f"labels may be empty: {little} of {count} inspected labels cover less than {100 * _LITTLE:g} "
            "% of "
            "their photos"
        )
    if report.kind == "cutouts":  # often cropped close to the subject
        return
    if 2 * much >= count:
        report.errors.append(
            f"labels may be inverted: {much} of {count} inspected labels cover more than {100 * _MUCH:g} % "
            "of "
            "their photos; the subject must be 255"
        )
    elif 2 * border > count:
        report.errors.append(
            f"labels may be inverted: in {border} of {count} inspected labels the subject covers most of the "
            "border; the subject must be 255, and everything else 0"
        )


def _count_near_duplicates(sets: list[_Set], plan: Recipe) -> None:
    """Note scored images that have a near duplicate in the training part."""
    trained: dict[int, list] = {}
    for number, one in enumerate(sets):
        if one.report.kind in ("photos", "mattes"):
            trained[number] = _hashes(one, plan, held_out=False)
    for number, one in enumerate(sets):
        if one.report.kind == "validation":
            scored, others = _hashes(one, plan, held_out=None), [s for part in trained.values() for s in part]
            what = "images"
        elif number in trained:
            scored, others = _hashes(one, plan, held_out=True), trained[number]
            what = "held-out images"
        else:
            continue
        one.report.twins = sum(match_hashes(scored, others))
        if one.report.twins:
            one.report.warnings.append(
                f"{one.report.twins} of {len(scored)} {what} have a near duplicate in the training part; "
                "scores on them are too good"
            )


def _hashes(one: _Set, plan: Recipe, held_out: bool | None) -> list:
    """Return hashes of the images that are held out, that are not, or (None) of all."""
    return [
        found.hash
        for sample, found in zip(one.samples, one.found, strict=True)
        if found.hash is not None and held_out in (None, is_held_out(sample.key, plan.held_out_every))
    ]


def _note(lines: list[str], what: str, names: list[str]) -> None:
    if names:
        lines.append(f"{len(names)} {what}: {_some(names)}")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
