"""The folder that `stylematte synth` fills: pictures, rejected ones, and a manifest of just these."""

import base64
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.files import remove_leftovers, write_bytes
from stylematte.media.images import encode_image, read_alpha, read_image
from stylematte.media.json_lines import JsonLines, read_lines
from stylematte.media.manifest import NAME

if TYPE_CHECKING:
    from stylematte_cli.commands.synth_filter import Judge
    from training.synthesis import Draft, Drawn

REJECTED = "rejected"
_WRITERS = min(8, os.cpu_count() or 1)  # a picture of 1024 px takes a core about 60 ms
_DIGITS = 8
_JUDGED, _LEAST_KEPT = 100, 0.05  # of so many the filter keeps so large a share at least
_AHEAD = 32  # pictures that wait to be written

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """All that pictures depend on but their number; a folder holds pictures of one.

    Attributes:
        weights_sha256: Of the generator.
        seed: See `training.synthesis.Plan`, as for the next three.
        truncation: Least and greatest.
        shift: Of the jitter.
        turn_deg: Of the jitter.
        size_px: Side of the pictures.
        form: `rgba`, or `pairs` of a picture and its alpha.
    """

    weights_sha256: str
    seed: int
    truncation: tuple[float, float]
    shift: float
    turn_deg: float
    size_px: int
    form: str


class SampleFolder:
    """What has been made so far. The last line of a picture in the manifest counts.

    Args:
        out: The folder, which need not exist.
        settings: Of this run.
        overwrite: Take away what the manifest tells of, and begin anew.

    Raises:
        InputError: It holds pictures of other settings, or such that no manifest tells of.
    """

    def __init__(self, out: Path, settings: Settings, overwrite: bool = False) -> None:
        self.out, self.settings = out, settings
        self.lines: dict[int, dict[str, Any]] = {}
        for line in read_lines(out / NAME):
            if isinstance(line.get("index"), int) and line.get("outcome") in ("ok", "rejected", "duplicate"):
                self.lines[line["index"]] = line
        if overwrite:
            self._clear()
        self._check()
        self.lines = {i: line for i, line in self.lines.items() if self._is_there(line)}
        self.manifest: JsonLines | None = None

    def _clear(self) -> None:
        if (self.out / NAME).is_file():  # else they are not ours
            for place in self._places():
                for path in place.glob("[0-9]" * _DIGITS + ".png"):
                    path.unlink()
            (self.out / NAME).unlink()
        self.lines = {}

    def _check(self) -> None:
        wanted = _plain(self.settings)
        for line in self.lines.values():
            if differing := [k for k, v in wanted.items() if line.get("settings", {}).get(k) != v]:
                raise InputError(
                    f"{self.out} holds pictures of other settings: "
                    f"{', '.join(name.removesuffix('_sha256') for name in differing)}",
                    "Give another --out, or --overwrite",
                )
        if not (self.out / NAME).is_file() and any(any(p.glob("*.png")) for p in self._places()):
            raise InputError(f"{self.out} holds pictures that no manifest tells of", "Give another --out")

    def _places(self) -> list[Path]:
        return [self.out / below / sub for below in ("", REJECTED) for sub in ("", "image", "alpha")]

    def _is_there(self, line: dict[str, Any]) -> bool:
        return all(path.is_file() for path in self.paths_of(line))

    def open(self) -> None:
        """Make the folder, and be ready to write.

        Raises:
            InputError: It cannot be written to.
        """
        self.manifest = JsonLines(self.out / NAME)
        remove_leftovers(self._places())

    def close(self) -> None:
        """Close the manifest."""
        if self.manifest is not None:
            self.manifest.close()

    def paths_of(self, line: dict[str, Any]) -> list[Path]:
        """Files of a line; none of a near copy."""
        if line["outcome"] == "duplicate":
            return []
        return self._paths(line["index"], line["outcome"])

    def _paths(self, index: int, outcome: str) -> list[Path]:
        below = self.out / REJECTED if outcome == "rejected" else self.out
        name = file_name(index)
        if self.settings.form == "pairs":
            return [below / "image" / name, below / "alpha" / name]
        return [below / name]

    def write(self, index: int, outcome: str, rgba: Pixels) -> None:
        """Write a picture, whole or not at all; called from several threads.

        Raises:
            InputError: It cannot be written.
        """
        parts = [rgba] if self.settings.form == "rgba" else [rgba[..., :3], rgba[..., 3]]
        for path, pixels in zip(self._paths(index, outcome), parts, strict=True):
            write_bytes(path, encode_image(np.ascontiguousarray(pixels), "png"))

    def read(self, index: int) -> Pixels:
        """Read a picture back, (H, W, 4); raises as `read_image`."""
        paths = self.paths_of(self.lines[index])
        photo = read_image(paths[0])
        alpha = read_alpha(paths[-1])
        if self.settings.form == "rgba" and photo.alpha is None:
            alpha = np.ones_like(alpha)  # opaque all over: it has no alpha channel to be read
        return np.dstack([photo.pixels, np.round(alpha * 255).astype(np.uint8)])

    def record(self, draft: "Draft", outcome: str, facts: dict[str, Any]) -> None:
        """Append a line, once its files are there.

        Raises:
            InputError: The disk is full.
        """
        line = {
            "index": draft.index,
            "outcome": outcome,
            "output": "" if outcome == "duplicate" else self._name(draft.index, outcome),
            "truncation": draft.truncation,
            "shift": list(draft.shift),
            "turn_deg": draft.turn_deg,
            **facts,
            "settings": _plain(self.settings),
        }
        self._append(line)

    def settle(self, index: int, outcome: str, facts: dict[str, Any]) -> None:
        """Move a picture where its new outcome has it, and append a line.

        Raises:
            InputError: It cannot be moved.
        """
        before = self.lines[index]
        try:
            for old, new in zip(self.paths_of(before), self._paths(index, outcome), strict=True):
                new.parent.mkdir(parents=True, exist_ok=True)
                old.replace(new)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be moved: {error.strerror}") from None
        self._append({**before, "outcome": outcome, "output": self._name(index, outcome), **facts})

    def _append(self, line: dict[str, Any]) -> None:
        assert self.manifest is not None, "open() comes first"
        try:
            self.manifest.append(line)
        except OSError as error:
            raise InputError(f"{self.out / NAME}: cannot be written: {error.strerror}") from None
        self.lines[line["index"]] = line

    def _name(self, index: int, outcome: str) -> str:
        return self._paths(index, outcome)[0].relative_to(self.out).as_posix()


def _plain(settings: Settings) -> dict[str, Any]:
    return {**asdict(settings), "truncation": list(settings.truncation)}


def file_name(index: int) -> str:
    """What the file of a picture is called."""
    return f"{index:0{_DIGITS}}.png"


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
    draft: "Callable[[int], Draft]"
    draw: "Callable[[Sequence[Draft]], list[Drawn]]"
    check: Callable[[bool], None]
    judge: "Judge | None" = None


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

    def add(self, drawn: "Drawn", outcome: str, facts: dict[str, Any]) -> None:
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
        from training.synthesis import Gallery

        self.folder, self.run, self.writing = folder, run, writing
        self.outcomes = {index: line["outcome"] for index, line in folder.lines.items()}
        self.judged: deque[str] = deque(maxlen=_JUDGED)
        self.gallery = Gallery()
        for index, line in sorted(folder.lines.items()):
            if line["outcome"] != "duplicate":
                self.gallery.add(index, np.frombuffer(base64.b64decode(line["small"]), np.uint8))

    def all_of(self, drawn: "Sequence[Drawn]") -> None:
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

    def _new(self, drawn: "Drawn") -> str:
        """The small copy as text, or nothing for a near copy of another picture."""
        from training.synthesis import small_copy

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
    folder: SampleFolder, judge: "Judge", batch_size: int
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
