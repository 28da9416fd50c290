"""Folders of photos and clips: which of them are to be done, and doing them, so that a second run goes on.

matter, request = stylematte.load(lanes=4), stylematte.PhotoRequest("cutout", "webp")
found = find([Path("photos")], Path("cutouts"), request.kind)
plan = make_plan(found.photos, Path("cutouts"), request, matter)
for outcome in matte_photos(plan, matter, request, workers=4):
    print(outcome.item.output, outcome.error or "done")
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylematte.batch import Network, Outcome, run
from stylematte.engines.base import made_by
from stylematte.errors import EngineError, StyleMatteError
from stylematte.files import remove_leftovers
from stylematte.matter import Matter
from stylematte.media.manifest import Manifest, State, describe_output, identify
from stylematte.media.paths import CLIP_FORMATS, Item, collect, is_there
from stylematte.media.pattern import is_pattern
from stylematte.media.results import SUFFIXES
from stylematte.requests import ClipRequest, PhotoRequest

if TYPE_CHECKING:
    from stylematte.media.clip_frame import ClipInfo

Frames = Generator[tuple[int, int | None], None, "ClipInfo"]  # as `stylematte.clips.matte_clip` gives them


@dataclass(frozen=True)
class Found:
    """What there is to do.

    Attributes:
        photos: Each with its result.
        clips: Likewise; sequences of images among them.
        problems: Inputs that cannot be done, each with the reason.
        passed_over: (kind of file, what it needs) of files that this installation cannot read → how many.
    """

    photos: list[Item]
    clips: list[Item]
    problems: list[tuple[Path, str]]
    passed_over: "Counter[tuple[str, str]]"


def find(
    inputs: Sequence[Path], out: Path, photo_kind: str = "png", clip_kind: str = "mp4", clip_mark: str = ""
) -> Found:
    """Look for photos and clips, and say what their results will be called.

    Args:
        inputs: Files, folders and patterns of sequences.
        out: Folder for the results; folders of input are mirrored below it.
        photo_kind: Format of photos, see `PhotoRequest`.
        clip_kind: Format of clips, see `ClipRequest`.
        clip_mark: Between the name of a clip's result and its suffix, `.preview`.

    Raises:
        UsageError: Two inputs would write one file, or a result would replace an input.
    """
    work = collect(list(inputs), out, SUFFIXES[photo_kind], clip_mark + CLIP_FORMATS.get(clip_kind, ""))
    work.pass_over_what_needs_more(list(inputs))
    # What is not there is told of now: if that is all, no folder is made for it.
    there: list[Item] = []
    for item in work.items:
        if is_pattern(item.source) or is_there(item.source):
            there.append(item)
        else:
            work.problems.append((item.source, "no such file"))
    photos = [item for item in there if not item.is_clip]
    clips = [item for item in there if item.is_clip]
    return Found(photos, clips, work.problems, work.passed_over)


@dataclass(frozen=True)
class Plan:
    """Photos or clips, and what the manifest of the folder says about each."""

    items: list[Item]
    states: list[State]
    manifest: Manifest

    @property
    def todo(self) -> list[tuple[Item, State]]:
        """Those that are to be done."""
        pairs = zip(self.items, self.states, strict=True)
        return [(item, state) for item, state in pairs if state in ("new", "changed", "begun")]

    def remove_leftovers(self) -> None:
        """Take away what a run that was killed left half written."""
        remove_leftovers(
            {item.output.parent for item in self.items} | {item.output for item in self.items if item.is_clip}
        )


def make_plan(
    items: list[Item], out: Path, request: PhotoRequest, matter: Matter, overwrite: bool = False
) -> Plan:
    """Tell what is to be done from what the folder's manifest says was done before.

    Args:
        items: From `find`: photos for a `PhotoRequest`, clips for a `ClipRequest`.
        out: Folder of the results.
        request: What is to be made.
        matter: What is to make it.
        overwrite: Do all of them.

    Raises:
        InputError: The manifest cannot be read.
    """
    detail = {} if matter.detail is None else matter.detail.settings
    manifest = Manifest(
        out, request.settings(matter.size) | detail, made_by(matter.engine), matter.engine.contract.licence
    )
    return Plan(items, ["new" if overwrite else manifest.state_of(item) for item in items], manifest)


def matte_photos(
    plan: Plan, matter: Matter, request: PhotoRequest, workers: int = 1, batch_size: int | None = None
) -> Generator[Outcome, None, None]:
    """Do the photos of a plan; yields and raises as `stylematte.batch.run`."""
    todo = [item for item, _ in plan.todo]
    if not todo:  # nothing is written, not even a folder
        return
    plan.manifest.open()
    with (
        closing(plan.manifest),
        closing(run(todo, matter, request, plan.manifest, workers, batch_size)) as done,
    ):
        yield from done


def without_auto_detail(matter: Matter, detail: str) -> Matter:
    """The `Matter` for clips: what `auto` looks at again takes long frame by frame, and would flicker.

    Args:
        matter: For photos.
        detail: As given to `stylematte.load`.
    """
    return Matter(matter.engine, matter.size) if detail == "auto" else matter


def matte_clips(
    plan: Plan,
    matter: Matter,
    request: ClipRequest,
    workers: int = 1,
    batch_size: int | None = None,
    watch: "Callable[[Frames, str], ClipInfo] | None" = None,
) -> Generator[Outcome, None, None]:
    """Do the clips of a plan, one after another; yields what became of each.

    Args:
        plan: Of clips.
        matter: See `without_auto_detail`.
        request: What to make.
        workers: Frames in work at once.
        batch_size: The most frames in one network pass.
        watch: Runs the frames of a clip to their end, with its name, and tells of progress.

    Raises:
        EngineError: The runtime failed; the rest is not tried.
    """
    if not plan.todo:
        return
    from stylematte.clips import matte_clip  # PyAV is an extra

    network = Network(matter, batch_size)
    plan.manifest.open()
    with closing(plan.manifest):
        for item, state in plan.todo:
            frames = matte_clip(item, network, request, workers, resume=state == "begun")
            yield _matte_one_clip(item, frames, request, plan.manifest, watch or _run_to_end)


def _run_to_end(frames: Frames, name: str) -> "ClipInfo":
    while True:
        try:
            next(frames)
        except StopIteration as end:
            info: ClipInfo = end.value
            return info


def _matte_one_clip(
    item: Item,
    frames: Frames,
    request: ClipRequest,
    manifest: Manifest,
    watch: "Callable[[Frames, str], ClipInfo]",
) -> Outcome:
    outcome = Outcome(item)
    facts: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        facts = identify(item.source)
        if request.is_sequence:
            manifest.record(item, "begun", facts)
        info = watch(frames, item.source.name)
        outcome.size, outcome.frames, outcome.notes = info.size, info.frames, info.notes
        facts |= {"size": info.size, "frames": info.frames, "notes": info.notes}
        facts |= describe_output(item.output)
    except EngineError as error:
        raise EngineError(f"{item.source}: {error.message}", error.hint) from error
    except StyleMatteError as error:
        if not error.message.startswith((str(item.source), str(item.output), str(item.source.parent))):
            error.message = f"{item.source}: {error.message}"
        outcome.error = error
        facts["error"] = str(error)
    outcome.seconds["clips"] = round(time.perf_counter() - started, 3)
    manifest.record(item, "failed" if outcome.error else "ok", {**facts, "seconds": outcome.seconds})
    return outcome
