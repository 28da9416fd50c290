"""Fill a folder with synthetic images: generate, reject near duplicates, filter, and write in parallel."""

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
from training.synthesis.drawing import Draft, Gallery, GeneratedImage, small_copy
from training.synthesis.filtering import AgreementFilter
from training.synthesis.folder import REJECTED, SampleFolder

_WRITERS = min(8, os.cpu_count() or 1)  # an image of 1024 px takes about 60 ms on one core
_RECENT, _MIN_KEPT = 100, 0.05  # of the last 100 images the filter must keep at least 5 %
_AHEAD = 32  # images that may wait to be written


@dataclass(frozen=True)
class Run:
    """How to fill a folder.

    Attributes:
        count: Number of images to keep.
        batch_size: Images per pass.
        draft: Returns the random inputs of an image number.
        generate: Generates images from drafts, in one pass.
        check: Called with whether an image is a near duplicate; raises an error if most are.
        image_filter: The filter; None keeps all images.
    """

    count: int
    batch_size: int
    draft: Callable[[int], Draft]
    generate: Callable[[Sequence[Draft]], list[GeneratedImage]]
    check: Callable[[bool], None]
    image_filter: AgreementFilter | None = None


def fill(folder: SampleFolder, run: Run) -> Generator[tuple[int, int | None], None, None]:
    """Generate until enough images are kept; existing images stay.

    Images are generated in the same batches whether or not a run was interrupted, so that not even rounding
    changes them.

    Yields:
        (images kept, images to keep) after each pass.

    Raises:
        InputError: An image or the manifest cannot be written; the filter rejects nearly all images; or most
            images are near duplicates. Existing images stay, and a later run resumes.
    """
    if run.image_filter is not None:
        yield from refilter(folder, run.image_filter, run.batch_size)
    with ThreadPoolExecutor(_WRITERS) as pool:
        writing = _Writing(folder, pool)
        try:
            decide = _Decisions(folder, run, writing)
            first = kept = 0
            while kept < run.count:
                block = range(first, first + min(run.batch_size, run.count - kept))
                if any(index not in decide.outcomes for index in block):
                    decide.all_of(run.generate([run.draft(index) for index in block]))
                    yield kept, run.count
                kept += sum(decide.outcomes[index] == "ok" for index in block)
                first += len(block)
            writing.finish(0)
        finally:
            pool.shutdown(cancel_futures=True)
    yield kept, run.count


class _Writing:
    """Writes images while the next ones are generated; records each once it is on disk."""

    def __init__(self, folder: SampleFolder, pool: ThreadPoolExecutor) -> None:
        self.folder, self.pool = folder, pool
        self.pending: deque[tuple[Future[None], Draft, str, dict[str, Any]]] = deque()

    def add(self, drawn: GeneratedImage, outcome: str, facts: dict[str, Any]) -> None:
        written = self.pool.submit(self.folder.write, drawn.draft.index, outcome, drawn.rgba)
        self.pending.append((written, drawn.draft, outcome, facts))
        self.finish(_AHEAD)

    def finish(self, most: int) -> None:
        """Record written images, and wait until at most `most` are pending."""
        while len(self.pending) > most or (self.pending and self.pending[0][0].done()):
            written, draft, outcome, facts = self.pending.popleft()
            written.result()
            self.folder.record(draft, outcome, facts)


class _Decisions:
    """Decides about each image: near duplicates are rejected, and the filter keeps or rejects the rest."""

    def __init__(self, folder: SampleFolder, run: Run, writing: _Writing) -> None:
        self.folder, self.run, self.writing = folder, run, writing
        self.outcomes = {index: line["outcome"] for index, line in folder.lines.items()}
        self.recent: deque[str] = deque(maxlen=_RECENT)
        self.gallery = Gallery()
        for index, line in sorted(folder.lines.items()):
            if line["outcome"] != "duplicate":
                self.gallery.add(index, np.frombuffer(base64.b64decode(line["small"]), np.uint8))

    def all_of(self, drawn: Sequence[GeneratedImage]) -> None:
        """Decide about the images that are new.

        Raises:
            InputError: The filter rejects nearly all images, so the run would never end.
        """
        new = [(d, small) for d in drawn if d.draft.index not in self.outcomes and (small := self._new(d))]
        facts: list[dict[str, Any]] = [{} for _ in new]
        if self.run.image_filter is not None and new:
            measured = self.run.image_filter.measure([(d.draft.index, d.rgba) for d, _ in new])
            facts = [{"filter": m} for m in measured]
        for (d, small), more in zip(new, facts, strict=True):
            outcome = (
                self.run.image_filter.outcome(more["filter"]) if self.run.image_filter is not None else "ok"
            )
            self.outcomes[d.draft.index] = outcome
            self.writing.add(d, outcome, {"small": small, **more})
            self.recent.append(outcome)
        if len(self.recent) == _RECENT and self.recent.count("ok") < _MIN_KEPT * _RECENT:
            self.writing.finish(0)
            raise InputError(
                f"the filter rejected {self.recent.count('rejected')} of the last {_RECENT} images",
                f"See {self.folder.out / REJECTED}; try a lower --truncation or a higher --threshold",
            )

    def _new(self, drawn: GeneratedImage) -> str:
        """Return the thumbnail as text, or "" for a near duplicate."""
        small, index = small_copy(drawn.rgba), drawn.draft.index
        near = self.gallery.near(small)
        self.run.check(near is not None)
        if near is not None:
            self.outcomes[index] = "duplicate"
            self.folder.record(drawn.draft, "duplicate", {"of": near})
            return ""
        self.gallery.add(index, small)
        return base64.b64encode(small.tobytes()).decode()


def refilter(
    folder: SampleFolder, image_filter: AgreementFilter, batch_size: int
) -> Generator[tuple[int, int | None], None, None]:
    """Filter existing images that this filter has not measured, and move them accordingly.

    Yields:
        (images measured, images in total).
    """
    there = [index for index, line in sorted(folder.lines.items()) if line["outcome"] != "duplicate"]
    for first in range(0, len(there), batch_size):
        some = there[first : first + batch_size]
        facts = {index: folder.lines[index].get("filter", {}) for index in some}
        unmet = [index for index in some if not image_filter.has_measured(facts[index])]
        measured = _measure(folder, image_filter, unmet) if unmet else []
        facts |= dict(zip(unmet, measured, strict=True))
        for index in some:
            outcome = image_filter.outcome(facts[index])
            if index in unmet or outcome != folder.lines[index]["outcome"]:
                folder.settle(index, outcome, {"filter": facts[index]})
        yield first + len(some), len(there)


def _measure(
    folder: SampleFolder, image_filter: AgreementFilter, indices: Sequence[int]
) -> list[dict[str, Any]]:
    there = [(index, folder.read(index)) for index in indices]
    if folder.backdrop is None:
        return image_filter.measure(there)
    return image_filter.measure_composites([(rgba[..., :3], rgba[..., 3]) for _, rgba in there])


def filter_report(folder: SampleFolder, threshold: float) -> dict[str, Any]:
    """Return the kept fraction and the histogram of all images that the filter has measured."""
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
