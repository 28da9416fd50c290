"""Processing of files by `stylematte matte`: checks, progress and summary."""

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stylematte.errors import INTERRUPTED, InputError, UsageError
from stylematte_cli.commands import options
from stylematte_cli.commands.matte_layout import as_dataset, place_photos
from stylematte_cli.commands.matte_options import Requests, WorkOptions
from stylematte_cli.commands.progress import with_frame_progress, with_progress
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from stylematte.batch import Outcome
    from stylematte.estimate import Estimate
    from stylematte.folder import Found, Plan
    from stylematte.matter import Matter
    from stylematte.media.manifest import State
    from stylematte.requests import ClipRequest

log = logging.getLogger("stylematte")

_VIDEO_HINT = "pip install 'stylematte[video]'"
MAX_NAMES = 5  # in one line of stderr


@dataclass
class Tally:
    """Results of a run."""

    done: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    is_interrupted: bool = False
    passed_over: "Counter[tuple[str, str]]" = field(default_factory=Counter)

    def add(self, outcome: "Outcome") -> None:
        """Count one photo or clip."""
        for stage, seconds in outcome.seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        for note in outcome.notes:
            self.tell(outcome.item.source, note)
        if outcome.error is None:
            self.done += 1
        else:
            self.fail(outcome.item.source, outcome.error.message, outcome.error.hint)

    def add_clip(self, outcome: "Outcome") -> None:
        """Count a clip, and log its speed."""
        if outcome.error is None:
            rate = round((outcome.frames or 0) / outcome.seconds["clips"], 2)
            log.info("%s: %d frames, %.1f frames/s", outcome.item.output, outcome.frames, rate)
            self.clips.append(
                {
                    "input": str(outcome.item.source),
                    "output": str(outcome.item.output),
                    "frames": outcome.frames,
                    "frames_per_second": rate,
                }
            )
        self.add(outcome)

    def tell(self, source: Path, note: str) -> None:
        """Record a warning about an input."""
        log.warning("warning: %s: %s", source, note)
        self.warnings.append({"input": str(source), "warning": note})

    def fail(self, source: Path, message: str, hint: str = "") -> None:
        """Record and log a failed input."""
        log.error("failed: %s%s", message, f". {hint}" if hint else "")
        self.failed.append({"input": str(source), "error": message})

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 130 interrupted."""
        return INTERRUPTED if self.is_interrupted else 1 if self.failed else 0


def matte_files(
    inputs: list[Path],
    out: Path,
    requests: Requests,
    model: options.ModelOptions,
    work: WorkOptions,
    output: options.Output,
) -> int:
    """Process all files that are not done yet, and report.

    Returns:
        The exit code.
    """
    from stylematte.engines.base import usable_cores
    from stylematte.folder import find, for_clips, make_plan, matte_clips, matte_photos

    started = time.perf_counter()
    found = find(
        inputs, out, requests.photo.kind, requests.clip_kind, ".preview" if requests.is_preview else ""
    )
    if requests.is_preview and found.photos and found.clips:
        log.info("--preview: %d photo(s) left out", len(found.photos))
        found = replace(found, photos=[])
    clip_request = _check(requests, found)
    if work.layout == "dataset":
        found = as_dataset(found, out)
    cores = work.workers or usable_cores()
    workers = min(cores, max(1, len(found.photos)))
    matter = model.open(cores if found.clips else workers)
    clip_matter = for_clips(matter, model.detail)
    photos = make_plan(found.photos, out, requests.photo, matter, work.overwrite)
    clips = make_plan(found.clips, out, clip_request or requests.photo, clip_matter, work.overwrite)
    tally = Tally(passed_over=found.passed_over)
    _tell_found(found, (photos, clips), tally)
    if work.dry_run:
        detail = {} if matter.detail is None else matter.detail.settings
        costs: dict[Path, Estimate] = {}
        if clip_request is not None and find_spec("av") is not None:
            costs = _estimate(clips, clip_matter, clip_request, cores, work.batch_size, tally)
        _print_plan((photos, clips), detail, costs, output.as_json)
        return tally.exit_code

    for plan in (photos, clips):
        plan.remove_leftovers()
    try:
        with ending_as_interrupted():
            outcomes = matte_photos(photos, matter, requests.photo, workers, work.batch_size)
            with closing(outcomes):
                for outcome in with_progress(outcomes, len(photos.todo), "photo", output.quiet):
                    tally.add(outcome)
            if work.layout == "dataset":
                place_photos(found.photos, out)
            if clip_request is not None and find_spec("av") is not None:
                watch = partial(with_frame_progress, quiet=output.quiet)
                for outcome in matte_clips(clips, clip_matter, clip_request, cores, work.batch_size, watch):
                    tally.add_clip(outcome)
            else:  # without PyAV the clips fail, but the photos are done
                for item, _ in clips.todo:
                    tally.fail(item.source, f"{item.source}: a clip needs PyAV", _VIDEO_HINT)
    except KeyboardInterrupt:
        tally.is_interrupted = True
    seconds = time.perf_counter() - started
    states = photos.states + clips.states
    _tell_end(tally, states, seconds)
    if output.as_json:
        how_it_ran = _how_it_ran(matter, photos, cores if found.clips else workers)
        if found.clips:
            how_it_ran |= {"clips": tally.clips, "clip_settings": clips.manifest.settings}
        options.print_json({"out": str(out), **_summary(tally, states, seconds), **how_it_ran})
    return tally.exit_code


def _check(requests: Requests, found: "Found") -> "ClipRequest | None":
    """Reject invalid combinations before any work starts; returns the request for clips."""
    if not found.clips and requests.for_clips:
        raise UsageError(f"{', '.join(requests.for_clips)}: for clips, but there are none among the inputs")
    if found.photos and requests.backdrop is not None:
        raise UsageError(
            f"--background {requests.backdrop}: a clip can only be the background of clips",
            "Process the photos in a separate run",
        )
    if not found.clips:
        return None
    if not found.photos:
        require("av", extra="video")
    return requests.make_clip()


def _tell_found(found: "Found", plans: "Sequence[Plan]", tally: Tally) -> None:
    for path, reason in found.problems:
        tally.fail(path, f"{path}: {reason}")
    for (title, hint), count in found.passed_over.items():
        log.warning("skipped: %d file(s) of type %s. %s", count, title, hint)
    _tell_kept(plans)


def _how_it_ran(matter: "Matter", photos: "Plan", workers: int) -> dict[str, Any]:
    return {
        "workers": workers,
        "engine": matter.engine.name,
        "provider": matter.engine.provider,
        "weights_sha256": matter.engine.contract.weights_sha256,
        "model_sha256": photos.manifest.model["model_sha256"],
        "settings": photos.manifest.settings,
    }


@contextmanager
def ending_as_interrupted() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the process like Ctrl-C, so that no incomplete file remains."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _estimate(
    plan: "Plan",
    matter: "Matter",
    request: "ClipRequest",
    workers: int,
    batch_size: int | None,
    tally: Tally,
) -> "dict[Path, Estimate]":
    """Estimate the clips to be done; those that cannot be estimated are reported as failed."""
    from stylematte.batch import Network
    from stylematte.estimate import Estimator

    estimator = Estimator(Network(matter, batch_size), request, workers)
    costs = {}
    for item, _ in plan.todo:
        try:
            costs[item.output] = estimator(item)
        except InputError as error:
            tally.fail(item.source, error.message, error.hint)
    return costs


def _told(cost: "Estimate") -> str:
    """Describe the estimated cost of a clip in a few words."""
    if cost.frames is None or cost.seconds is None or cost.bytes is None or cost.work_seconds is None:
        return "  length not known"
    size = f"{cost.bytes / 1e6:.3g} MB" if cost.bytes < 1e9 else f"{cost.bytes / 1e9:.3g} GB"
    length, work = (str(timedelta(seconds=round(value))) for value in (cost.seconds, cost.work_seconds))
    return f"  {cost.frames} frames, {length} long, about {size}, about {work} of work"


def _print_plan(
    plans: "Sequence[Plan]", detail: dict[str, Any], costs: "dict[Path, Estimate]", as_json: bool
) -> None:
    lines = [
        {"input": str(item.source), "output": str(item.output), "state": state}
        | (asdict(costs[item.output]) if item.output in costs else {})
        for plan in plans
        for item, state in zip(plan.items, plan.states, strict=True)
    ]
    if as_json:
        options.print_json({"dry_run": True, "items": lines, **detail})
        return
    if detail.get("refiner_sha256") and plans[0].todo:
        most = "all" if detail["detail"] == "max" else f"at most {detail['detail']:g} megapixels"
        log.info("detail: %s of hair and fur in each photo will be refined", most)
    for line in lines:
        cost = costs.get(Path(line["output"]))
        typer.echo(f"{line['state']:<8}{line['input']} -> {line['output']}{_told(cost) if cost else ''}")


def _tell_kept(plans: "Sequence[Plan]") -> None:
    """Warn about kept files that are not in the manifest, since anybody may have made them."""
    kept = [
        str(item.output)
        for plan in plans
        for item, state in zip(plan.items, plan.states, strict=True)
        if state == "kept"
    ]
    if kept:
        names = ", ".join(kept[:MAX_NAMES]) + (", ..." if len(kept) > MAX_NAMES else "")
        log.warning(
            "kept %d existing file(s) that are not in this folder's manifest or were changed since "
            "(--overwrite replaces them): %s",
            len(kept),
            names,
        )


def _tell_end(tally: Tally, states: "list[State]", seconds: float) -> None:
    parts = [f"{tally.done} done"]
    if before := states.count("done"):
        parts.append(f"{before} already done")
    if tally.failed:
        parts.append(f"{len(tally.failed)} failed")
    if passed_over := tally.passed_over.total():
        parts.append(f"{passed_over} skipped")
    photos = tally.done - len(tally.clips)
    rate = f", {photos / seconds:.2f} photos/s" if photos and not tally.clips else ""
    log.info("%s%s in %.1f s%s", "interrupted: " * tally.is_interrupted, ", ".join(parts), seconds, rate)
    total = sum(tally.stage_seconds.values())
    if total:
        shares = (f"{stage} {value / total:.0%}" for stage, value in tally.stage_seconds.items())
        log.debug("share of the workers' time: %s", ", ".join(shares))


def _summary(tally: Tally, states: "list[State]", seconds: float) -> dict[str, Any]:
    return {
        "done": tally.done,
        "finished_before": states.count("done"),
        "kept": states.count("kept"),
        "failed": tally.failed,
        "warnings": tally.warnings,
        "passed_over": {title: count for (title, _), count in tally.passed_over.items()},
        "interrupted": tally.is_interrupted,
        "seconds": round(seconds, 3),
        "stage_seconds": {stage: round(value, 3) for stage, value in tally.stage_seconds.items()},
    }
