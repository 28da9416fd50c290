"""Find and process the photos and clips in folders; a second run continues the first.

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

Frames = Generator[tuple[int, int | None], None, "ClipInfo"]  # type of `stylematte.clips.matte_clip`


@dataclass(frozen=True)
class Found:
    """The photos and clips found in the inputs.

    Attributes:
        photos: Photos with their results.
        clips: Clips with their results, including image sequences.
        problems: Inputs that cannot be processed, each with the reason.
        passed_over: (kind of file, what it requires) → number of files that this installation cannot read.
    """

    photos: list[Item]
    clips: list[Item]
    problems: list[tuple[Path, str]]
    passed_over: "Counter[tuple[str, str]]"


def find(
    inputs: Sequence[Path], out: Path, photo_kind: str = "png", clip_kind: str = "mp4", clip_mark: str = ""
) -> Found:
    """Find photos and clips, and choose the paths of their results.

    Args:
        inputs: Files, folders and patterns of image sequences.
        out: Folder of the results; input folders are mirrored below it.
        photo_kind: Result format of photos, see `PhotoRequest`.
        clip_kind: Result format of clips, see `ClipRequest`.
        clip_mark: Text before the suffix of a clip's result, such as `.preview`.

    Raises:
        UsageError: Two inputs have the same result path, or a result would overwrite an input.
    """
    work = collect(list(inputs), out, SUFFIXES[photo_kind], clip_mark + CLIP_FORMATS.get(clip_kind, ""))
    work.pass_over_what_needs_more(list(inputs))
    # Report missing files now: if there is nothing else, no output folder is created.
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
    """Photos or clips, each with its state in the folder's manifest."""

    items: list[Item]
    states: list[State]
    manifest: Manifest

    @property
    def todo(self) -> list[tuple[Item, State]]:
        """The items to process."""
        pairs = zip(self.items, self.states, strict=True)
        return [(item, state) for item, state in pairs if state in ("new", "changed", "begun")]

    def remove_leftovers(self) -> None:
        """Delete temporary files of killed runs."""
        remove_leftovers(
            {item.output.parent for item in self.items} | {item.output for item in self.items if item.is_clip}
        )


def make_plan(
    items: list[Item], out: Path, request: PhotoRequest, matter: Matter, overwrite: bool = False
) -> Plan:
    """Decide from the folder's manifest which items to process.

    Args:
        items: Result of `find`: photos for a `PhotoRequest`, clips for a `ClipRequest`.
        out: Folder of the results.
        request: Results to make.
        matter: Matter that makes them.
        overwrite: Process all items, also those already done.

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
    """Process the photos of a plan; see `stylematte.batch.run` for the outcomes and errors."""
    todo = [item for item, _ in plan.todo]
    if not todo:  # nothing is written, not even a folder
        return
    plan.manifest.open()
    with (
        closing(plan.manifest),
        closing(run(todo, matter, request, plan.manifest, workers, batch_size)) as done,
    ):
        yield from done


def for_clips(matter: Matter, detail: str) -> Matter:
    """Return the `Matter` for clips: without closer looks, and without `auto` refinement.

    Both are slow for each frame and flicker.

    Args:
        matter: Matter for photos.
        detail: The argument of `stylematte.load`.
    """
    if matter.detail is None or detail == "auto":
        return Matter(matter.engine, matter.size)
    return Matter(matter.engine, matter.size, matter.detail._replace(looks_closer=False))


def matte_clips(
    plan: Plan,
    matter: Matter,
    request: ClipRequest,
    workers: int = 1,
    batch_size: int | None = None,
    watch: "Callable[[Frames, str], ClipInfo] | None" = None,
) -> Generator[Outcome, None, None]:
    """Process the clips of a plan, one after another; yields the outcome of each.

    Args:
        plan: Plan of clips.
        matter: See `for_clips`.
        request: Results to make.
        workers: Number of frames processed in parallel.
        batch_size: Largest number of frames in one network pass.
        watch: Function that consumes a clip's frames and reports progress; also gets the clip's name.

    Raises:
        EngineError: The runtime failed; the remaining clips are not tried.
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
