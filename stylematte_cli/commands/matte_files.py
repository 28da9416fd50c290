"""The files of `stylematte matte`: which are to be done, doing them, and saying what became of them."""

import logging
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stylematte.errors import INTERRUPTED, EngineError, StyleMatteError, UsageError
from stylematte_cli.commands import options
from stylematte_cli.commands.progress import with_frame_progress, with_progress
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from fractions import Fraction

    from stylematte.batch import Job, Outcome
    from stylematte.clips import ClipJob
    from stylematte.matter import Matter
    from stylematte.media.manifest import Manifest, State
    from stylematte.media.paths import Item
    from stylematte.media.span import Span
    from stylematte.media.video import ClipInfo

log = logging.getLogger("stylematte")

_VIDEO_HINT = "pip install 'stylematte[video]'"
MOST_NAMES = 5  # on one line of stderr


@dataclass(frozen=True)
class Model:
    """Which model is asked for, and how it is to run."""

    weights: str
    engine: str
    device: str
    size: int | None
    detail: str
    precision: str = "auto"
    policy: str = "any"

    def open(self, lanes: int) -> "Matter":
        """Open the model for as many threads as there are lanes."""
        import stylematte
        from stylematte.licences import check_policy

        matter = stylematte.load(
            self.weights,
            device=self.device,
            engine=self.engine,
            size=self.size,
            detail=self.detail,
            lanes=lanes,
            precision=self.precision,
        )
        check_policy(self.policy, self.weights, matter.engine.contract.licence)
        return matter


@dataclass(frozen=True)
class MatteRequest:
    """What is to be made of photos and of clips.

    Attributes:
        job: Of a photo, and of every frame of a clip.
        clip_kind: Format of clips; `job.kind` is that of photos.
        background: How the manifest names what is behind.
        backdrop: A clip that is behind clips.
        premultiplied: Of clips.
        is_stabilised: Of clips.
        span: Of clips.
        rate: Frames a second of sequences of pictures.
        for_clips: Options given that only clips know.
    """

    job: "Job"
    clip_kind: str
    background: str | None
    backdrop: Path | None
    premultiplied: bool
    is_stabilised: bool
    span: "Span"
    rate: "Fraction"
    for_clips: tuple[str, ...]

    def settings(self, size: int | None) -> dict[str, Any]:
        """All that a photo's result depends on."""
        job = self.job
        settings = {
            "output": job.output,
            "format": job.kind,
            "bit_depth": job.bit_depth,
            "background": self.background,
            "size": size,
        }
        if job.output == "cutout":
            settings["colours"] = "premultiplied" if job.premultiplied else "straight"
        if job.output != "alpha":
            settings |= {"profile": job.profile, "metadata": job.metadata}
        chosen = {
            "despill": job.despill,
            "light_wrap_px": job.light_wrap_px or None,
            "keep_damaged": job.keep_damaged or None,
            "layers": job.layers or None,
            "exr_compression": job.exr_compression if job.kind == "exr" else None,
        }
        return settings | {key: value for key, value in chosen.items() if value is not None}

    def clip_settings(self, size: int | None) -> dict[str, Any]:
        """All that a clip's result depends on."""
        settings = self.settings(size) | {"format": self.clip_kind, "stabilised": self.is_stabilised}
        if self.job.output == "cutout":
            settings["colours"] = "premultiplied" if self.premultiplied else "straight"
        span = {"start": self.span.start, "end": self.span.end, "rate": self.rate}
        texts = {key: None if value is None else str(value) for key, value in span.items()}
        return settings | texts | {"every": self.span.every}


@dataclass(frozen=True)
class RunOptions:
    """How the files are to be worked through, and what is to be said about it."""

    batch_size: int | None
    workers: int | None
    overwrite: bool
    dry_run: bool
    quiet: bool
    as_json: bool


@dataclass
class Tally:
    """What became of a run."""

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

    def tell(self, source: Path, note: str) -> None:
        """Say something about an input that did not fail."""
        log.warning("warning: %s: %s", source, note)
        self.warnings.append({"input": str(source), "warning": note})

    def fail(self, source: Path, message: str, hint: str = "") -> None:
        """Name an input that failed, at once and in the end."""
        log.error("failed: %s%s", message, f". {hint}" if hint else "")
        self.failed.append({"input": str(source), "error": message})

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 130 interrupted."""
        return INTERRUPTED if self.is_interrupted else 1 if self.failed else 0


@dataclass(frozen=True)
class Plan:
    """Photos or clips, and what the manifest says about each."""

    items: "list[Item]"
    states: "list[State]"
    manifest: "Manifest"

    @property
    def todo(self) -> "list[tuple[Item, State]]":
        """Those that are to be done."""
        pairs = zip(self.items, self.states, strict=True)
        return [(item, state) for item, state in pairs if state in ("new", "changed", "begun")]


def matte_files(inputs: list[Path], out: Path, request: MatteRequest, model: Model, how: RunOptions) -> int:
    """Find the files, do what is not done yet, and report.

    Returns:
        The exit code.
    """
    from stylematte.engines.base import made_by, usable_cores
    from stylematte.files import remove_leftovers
    from stylematte.matter import Matter
    from stylematte.media.manifest import Manifest
    from stylematte.media.paths import CLIP_FORMATS, collect, is_there
    from stylematte.media.pattern import is_pattern
    from stylematte.media.results import SUFFIXES

    started = time.perf_counter()
    suffix = SUFFIXES[request.job.kind]
    work = collect(inputs, out, suffix, CLIP_FORMATS.get(request.clip_kind, ""))
    work.pass_over_what_needs_more(inputs)
    # What is not there is told of now: if that is all, no folder is made for it.
    there: list[Item] = []
    for item in work.items:
        if is_pattern(item.source) or is_there(item.source):
            there.append(item)
        else:
            work.problems.append((item.source, "no such file"))
    photos = [item for item in there if not item.is_clip]
    clips = [item for item in there if item.is_clip]
    clip_job = _check(request, photos, clips)
    cores = how.workers or usable_cores()
    workers = min(cores, max(1, len(photos)))
    matter = model.open(cores if clips else workers)
    made = made_by(matter.engine)

    def plan(items: "list[Item]", settings: dict[str, Any]) -> Plan:
        manifest = Manifest(out, settings, made, matter.engine.contract.licence)
        states: list[State] = ["new" if how.overwrite else manifest.state_of(item) for item in items]
        return Plan(items, states, manifest)

    looked_at_again = {} if matter.detail is None else matter.detail.settings
    clip_matter = matter
    if model.detail == "auto":  # for photos: frame by frame it takes long, and what changes there flickers
        clip_matter = Matter(matter.engine, matter.size)
    clip_detail = {} if clip_matter.detail is None else looked_at_again
    plans = [
        plan(photos, request.settings(model.size) | looked_at_again),
        plan(clips, request.clip_settings(model.size) | clip_detail),
    ]
    tally = Tally(passed_over=work.passed_over)
    for path, reason in work.problems:
        tally.fail(path, f"{path}: {reason}")
    for (title, hint), count in work.passed_over.items():
        log.warning("passed over: %d file(s) of kind %s. %s", count, title, hint)
    _tell_kept(plans)
    if how.dry_run:
        _print_plan(plans, looked_at_again, how.as_json)
        return tally.exit_code

    remove_leftovers({item.output.parent for item in there} | {item.output for item in clips})
    try:
        if plans[0].todo:  # else nothing is written, not even a folder
            _do_photos(plans[0], matter, request, how, workers, tally)
        if clip_job is None:
            for item, _ in plans[1].todo:
                tally.fail(item.source, f"{item.source}: a clip needs PyAV", _VIDEO_HINT)
        elif plans[1].todo:
            _do_clips(plans[1], clip_matter, clip_job, how, cores, tally)
    except KeyboardInterrupt:
        tally.is_interrupted = True
    seconds = time.perf_counter() - started
    states = plans[0].states + plans[1].states
    _tell_end(tally, states, seconds)
    if how.as_json:
        how_it_ran = {
            "workers": cores if clips else workers,
            "engine": matter.engine.name,
            "provider": matter.engine.provider,
            "weights_sha256": matter.engine.contract.weights_sha256,
            "model_sha256": made["model_sha256"],
            "settings": plans[0].manifest.settings,
        }
        if clips:
            how_it_ran |= {"clips": tally.clips, "clip_settings": plans[1].manifest.settings}
        options.print_json({"out": str(out), **_summary(tally, states, seconds), **how_it_ran})
    return tally.exit_code


def _check(request: MatteRequest, photos: "list[Item]", clips: "list[Item]") -> "ClipJob | None":
    """Refuse what does not go together before any work starts; gives what to make of the clips."""
    if not clips and request.for_clips:
        raise UsageError(f"{', '.join(request.for_clips)}: for clips, and there are none among the inputs")
    if photos and request.backdrop is not None:
        raise UsageError(
            f"--background {request.backdrop}: a clip can be behind clips alone",
            "Do the photos in a run of their own",
        )
    if not clips:
        return None
    if photos and find_spec("av") is None:
        return None  # the clips fail by name, the photos are done
    require("av", extra="video")
    from stylematte.clips import ClipJob

    return ClipJob(
        request.job,
        request.clip_kind,
        request.span,
        request.rate,
        request.premultiplied,
        request.is_stabilised,
        request.backdrop,
    )


def _do_photos(
    plan: Plan, matter: "Matter", request: MatteRequest, how: RunOptions, workers: int, tally: Tally
) -> None:
    from stylematte import batch

    plan.manifest.open()
    todo = [item for item, _ in plan.todo]
    outcomes = batch.run(todo, matter, request.job, plan.manifest, workers, how.batch_size)
    with closing(plan.manifest), closing(outcomes):
        for outcome in with_progress(outcomes, len(todo), "photo", how.quiet):
            tally.add(outcome)


def _do_clips(
    plan: Plan, matter: "Matter", job: "ClipJob", how: RunOptions, workers: int, tally: Tally
) -> None:
    from stylematte.batch import Network
    from stylematte.clips import matte_clip

    network = Network(matter, how.batch_size)
    plan.manifest.open()
    with closing(plan.manifest):
        for item, state in plan.todo:
            frames = matte_clip(item, network, job, workers, resume=state == "begun")
            tally.add(_do_clip(item, frames, job, plan.manifest, how.quiet, tally))


def _do_clip(
    item: "Item",
    frames: "Generator[tuple[int, int | None], None, ClipInfo]",
    job: "ClipJob",
    manifest: "Manifest",
    quiet: bool,
    tally: Tally,
) -> "Outcome":
    from stylematte.batch import Outcome
    from stylematte.media.manifest import describe_output, identify

    outcome = Outcome(item)
    facts: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        facts = identify(item.source)
        if job.is_sequence:
            manifest.record(item, "begun", facts)
        info = with_frame_progress(frames, item.source.name, quiet)
        outcome.size = info.size
        facts |= {"size": info.size, "frames": info.frames, **describe_output(item.output)}
    except EngineError as error:
        raise EngineError(f"{item.source}: {error.message}", error.hint) from error
    except StyleMatteError as error:
        if not error.message.startswith((str(item.source), str(item.output), str(item.source.parent))):
            error.message = f"{item.source}: {error.message}"
        outcome.error = error
        facts["error"] = str(error)
    outcome.seconds["clips"] = round(time.perf_counter() - started, 3)
    manifest.record(item, "failed" if outcome.error else "ok", {**facts, "seconds": outcome.seconds})
    if outcome.error is None:
        rate = round((facts["frames"] or 0) / outcome.seconds["clips"], 2)
        log.info("%s: %d frames, %.1f frames/s", item.output, facts["frames"], rate)
        tally.clips.append(
            {
                "input": str(item.source),
                "output": str(item.output),
                "frames": facts["frames"],
                "frames_per_second": rate,
            }
        )
    return outcome


def _print_plan(plans: Sequence[Plan], detail: dict[str, Any], as_json: bool) -> None:
    lines = [
        {"input": str(item.source), "output": str(item.output), "state": state}
        for plan in plans
        for item, state in zip(plan.items, plan.states, strict=True)
    ]
    if as_json:
        options.print_json({"dry_run": True, "items": lines, **detail})
        return
    if detail and plans[0].todo:
        most = "all" if detail["detail"] == "max" else f"at most {detail['detail']:g} megapixels"
        log.info("detail: of each photo %s around hair and fur looked at again", most)
    for line in lines:
        typer.echo(f"{line['state']:<8}{line['input']} -> {line['output']}")


def _tell_kept(plans: Sequence[Plan]) -> None:
    """Files that the manifest does not know may be anybody's: they stay, and that is said."""
    kept = [
        str(item.output)
        for plan in plans
        for item, state in zip(plan.items, plan.states, strict=True)
        if state == "kept"
    ]
    if kept:
        names = ", ".join(kept[:MOST_NAMES]) + (", ..." if len(kept) > MOST_NAMES else "")
        log.warning(
            "kept %d file(s) that no run of this folder's manifest made, or that were changed since "
            "(--overwrite makes them anew): %s",
            len(kept),
            names,
        )


def _tell_end(tally: Tally, states: "list[State]", seconds: float) -> None:
    parts = [f"{tally.done} done"]
    if before := states.count("done"):
        parts.append(f"{before} finished before")
    if tally.failed:
        parts.append(f"{len(tally.failed)} failed")
    if passed_over := tally.passed_over.total():
        parts.append(f"{passed_over} passed over")
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
