"""Fills a folder with synthetic images: draws, refuses near copies, filters, and writes beside that."""

import base64
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylematte.errors import InputError
from training.synthesis.agreement import histogram
from training.synthesis.drawing import Draft, Drawn, Gallery, small_copy
from training.synthesis.filtering import AgreementFilter
from training.synthesis.folder import REJECTED, SampleFolder

_WRITERS = min(8, os.cpu_count() or 1)  # a picture of 1024 px takes a core about 60 ms
_JUDGED, _LEAST_KEPT = 100, 0.05  # of so many the filter keeps so large a share at least
_AHEAD = 32  # pictures that wait to be written


@dataclass(frozen=True)
class Run:
    """How a folder is filled.

    Attributes:
        count: Pictures to keep.
        batch_size: Pictures a pass.
        draft: Everything random about a number.
        draw: Drafts to pictures, in one pass.
        check: Called for each picture drawn, with whether it is a near copy; raises where nearly all are.
        judge: The filter; None keeps all.
    """

    count: int
    batch_size: int
    draft: Callable[[int], Draft]
    draw: Callable[[Sequence[Draft]], list[Drawn]]
    check: Callable[[bool], None]
    judge: AgreementFilter | None = None


def fill(folder: SampleFolder, run: Run) -> Generator[tuple[int, int | None], None, None]:
    """Draw until enough pictures are kept; those that are there stay.

    Numbers go through the generator in the same passes whether or not a run was broken off, so that not even
    the rounding of a pass changes a picture.

    Yields:
        (pictures kept, pictures wanted) after each pass.

    Raises:
        InputError: A picture or the manifest cannot be written, or the filter rejects nearly all; what is
            there stays, and a later run goes on.
        InputError: Nearly all that is drawn are near copies.
    """
    if run.judge is not None:
        yield from judge_anew(folder, run.judge, run.batch_size)
    with ThreadPoolExecutor(_WRITERS) as pool:
        writing = _Writing(folder, pool)
        try:
            decide = _Decisions(folder, run, writing)
            first = kept = 0
            while kept < run.count:
                block = range(first, first + min(run.batch_size, run.count - kept))
                if any(index not in decide.outcomes for index in block):
                    decide.all_of(run.draw([run.draft(index) for index in block]))
                    yield kept, run.count
                kept += sum(decide.outcomes[index] == "ok" for index in block)
                first += len(block)
            writing.finish(0)
        finally:
            pool.shutdown(cancel_futures=True)
    yield kept, run.count


class _Writing:
    """Pictures on their way to the disk, while the next are drawn; a line follows when they are there."""

    def __init__(self, folder: SampleFolder, pool: ThreadPoolExecutor) -> None:
        self.folder, self.pool = folder, pool
        self.pending: deque[tuple[Future[None], Draft, str, dict[str, Any]]] = deque()

    def add(self, drawn: Drawn, outcome: str, facts: dict[str, Any]) -> None:
        written = self.pool.submit(self.folder.write, drawn.draft.index, outcome, drawn.rgba)
        self.pending.append((written, drawn.draft, outcome, facts))
        self.finish(_AHEAD)

    def finish(self, most: int) -> None:
        """Record what is written, and wait until no more than `most` are on their way."""
        while len(self.pending) > most or (self.pending and self.pending[0][0].done()):
            written, draft, outcome, facts = self.pending.popleft()
            written.result()
            self.folder.record(draft, outcome, facts)


class _Decisions:
    """What becomes of each picture: near copies are refused, the filter keeps or rejects the rest."""

    def __init__(self, folder: SampleFolder, run: Run, writing: _Writing) -> None:
        self.folder, self.run, self.writing = folder, run, writing
        self.outcomes = {index: line["outcome"] for index, line in folder.lines.items()}
        self.judged: deque[str] = deque(maxlen=_JUDGED)
        self.gallery = Gallery()
        for index, line in sorted(folder.lines.items()):
            if line["outcome"] != "duplicate":
                self.gallery.add(index, np.frombuffer(base64.b64decode(line["small"]), np.uint8))

    def all_of(self, drawn: Sequence[Drawn]) -> None:
        """Decide about those that are not there yet.

        Raises:
            InputError: The filter rejects nearly all: the run would never end.
        """
        new = [(d, small) for d in drawn if d.draft.index not in self.outcomes and (small := self._new(d))]
        facts: list[dict[str, Any]] = [{} for _ in new]
        if self.run.judge is not None and new:
            measured = self.run.judge.measure([(d.draft.index, d.rgba) for d, _ in new])
            facts = [{"filter": m} for m in measured]
        for (d, small), more in zip(new, facts, strict=True):
            outcome = self.run.judge.outcome(more["filter"]) if self.run.judge is not None else "ok"
            self.outcomes[d.draft.index] = outcome
            self.writing.add(d, outcome, {"small": small, **more})
            self.judged.append(outcome)
        if len(self.judged) == _JUDGED and self.judged.count("ok") < _LEAST_KEPT * _JUDGED:
            self.writing.finish(0)
            raise InputError(
                f"the filter rejected {self.judged.count('rejected')} of the last {_JUDGED} pictures",
                f"See {self.folder.out / REJECTED}; try a lower --truncation or a higher --threshold",
            )

    def _new(self, drawn: Drawn) -> str:
        """The small copy as text, or nothing for a near copy of another picture."""
        small, index = small_copy(drawn.rgba), drawn.draft.index
        near = self.gallery.near(small)
        self.run.check(near is not None)
        if near is not None:
            self.outcomes[index] = "duplicate"
            self.folder.record(drawn.draft, "duplicate", {"of": near})
            return ""
        self.gallery.add(index, small)
        return base64.b64encode(small.tobytes()).decode()


def judge_anew(
    folder: SampleFolder, judge: AgreementFilter, batch_size: int
) -> Generator[tuple[int, int | None], None, None]:
    """Measure pictures that are there and have not met this filter, and move them where they belong.

    Yields:
        (pictures looked at, pictures there).
    """
    there = [index for index, line in sorted(folder.lines.items()) if line["outcome"] != "duplicate"]
    for first in range(0, len(there), batch_size):
        some = there[first : first + batch_size]
        facts = {index: folder.lines[index].get("filter", {}) for index in some}
        unmet = [index for index in some if not judge.has_measured(facts[index])]
        measured = judge.measure([(index, folder.read(index)) for index in unmet]) if unmet else []
        facts |= dict(zip(unmet, measured, strict=True))
        for index in some:
            outcome = judge.outcome(facts[index])
            if index in unmet or outcome != folder.lines[index]["outcome"]:
                folder.settle(index, outcome, {"filter": facts[index]})
        yield first + len(some), len(there)


def filter_report(folder: SampleFolder, threshold: float) -> dict[str, Any]:
    """Kept share and histogram of all pictures of a folder that the filter has measured."""
    met = [line for line in folder.lines.values() if "filter" in line]
    outcomes = Counter(line["outcome"] for line in met)
    return {
        "threshold": threshold,
        "kept": outcomes["ok"],
        "rejected": outcomes["rejected"],
        "kept_share": round(outcomes["ok"] / max(1, len(met)), 4),
        "histogram": [
            {"from": edge, "pictures": count}
            for edge, count in histogram([line["filter"]["difference"] for line in met], threshold)
        ],
    }
