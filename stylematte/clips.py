"""Decode, matte, stabilise, render and encode a clip concurrently, with memory use independent of its length.

Decoding runs ahead in its own thread. Workers run the network and render several frames in parallel; their
results are put back in order. The caller's thread encodes. Every queue between them is bounded, so the
slowest stage sets the pace and the others wait.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import cv2
import numpy as np

from stylematte.batch import Network, opencv_threads, render
from stylematte.errors import InputError, StyleMatteError
from stylematte.imaging.stabilise import FrameState, Stabiliser, look_at
from stylematte.matter import Matte
from stylematte.media.animation import Animation, is_animation
from stylematte.media.clip_frame import ClipInfo, Frame
from stylematte.media.frame_sequence import PictureSequence, SequenceWriter
from stylematte.media.looped import stretched, with_backdrop
from stylematte.media.paths import DEEP_CLIP_FORMATS, Item
from stylematte.media.pattern import is_pattern
from stylematte.media.video import Clip
from stylematte.media.video_writer import VideoWriter, recipe_for
from stylematte.queues import ahead, in_order
from stylematte.requests import ClipRequest

log = logging.getLogger("stylematte")

T = TypeVar("T")

DECODED_AHEAD = 2  # frames that wait for the network, and as many that wait for the encoder
MEMORY_BYTES = 4 << 30  # limit for all frames in progress
# Per pixel and byte of depth of a frame in progress: the decoded, the rendered and the converted image.
_BYTES_A_PIXEL = 16
_FRAMES_A_WORKER = 3  # one in progress, one queued before it and one after it


Source = Clip | PictureSequence | Animation
Sink = VideoWriter | SequenceWriter


def open_source(path: Path, job: ClipRequest) -> Source:
    """Open a clip, an image sequence named by a pattern, or an animated image.

    Raises:
        InputError: See `Clip`, `PictureSequence` and `Animation`.
    """
    if is_pattern(path):
        return PictureSequence(path, job.rate, job.span, job.reduction)
    if is_animation(path):
        return Animation(path, job.span, job.reduction)
    return Clip(path, job.span, fine=job.output != "alpha", reduction=job.reduction)


def open_sink(output: Path, source: Source, job: ClipRequest) -> Sink:
    """Open a writer for the result of a clip.

    Raises:
        InputError: The result cannot be written there.
        MissingError: The encoder is not available.
    """
    channels = {"alpha": 1, "cutout": 4}.get(job.output, 3)
    facts = {"comment": describe(job)}
    if job.is_sequence:
        is_alpha, compression = channels == 1, job.exr_compression
        return SequenceWriter(output, job.kind, source.info, job.premultiplied, is_alpha, facts, compression)
    recipe = recipe_for(job.kind, channels, source.info.size, _depth(source.info, job) == 16)
    return VideoWriter(output, recipe, source.info, source.sound_streams, job.premultiplied, facts)


def describe(job: ClipRequest) -> str:
    """Return a short description of the result for the file's metadata."""
    text = f"stylematte {job.output}"
    if job.output == "cutout":
        text += f", {'premultiplied' if job.premultiplied else 'straight'} colours, linear alpha"
    return text


def matte_clip(
    item: Item, network: Network, job: ClipRequest, workers: int, resume: bool = False
) -> Generator[tuple[int, int | None], None, ClipInfo]:
    """Process one clip; yields (frames done, total frames or None) after each frame.

    If it is closed early or interrupted, no file is left; an image sequence keeps its finished frames.

    Args:
        item: The clip and its result.
        network: The network.
        job: Results to make.
        workers: Threads that run the network and render.
        resume: Keep existing frames of an image sequence. Otherwise those of an earlier run are deleted.

    Returns:
        The properties of the clip, with the number of frames done.

    Raises:
        InputError: The clip cannot be read, or the result cannot be written.
        EngineError: The runtime failed.
    """
    try:
        return (yield from _matte_clip(item, network, job, workers, resume))
    except StyleMatteError:
        raise
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise InputError(f"{item.source}: {error}") from error
        raise InputError(f"{item.source}: not enough memory", "Use fewer --workers") from None
    except Exception as error:  # decoders, filters, encoders and muxers raise many types
        log.debug("%s", item.source, exc_info=True)
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else None
        raise InputError(
            f"{item.source}: cannot be processed: {reason or f'{type(error).__name__}: {error}'}",
            "Try another --format; -v shows details",
        ) from error


def _matte_clip(
    item: Item, network: Network, job: ClipRequest, workers: int, resume: bool
) -> Generator[tuple[int, int | None], None, ClipInfo]:
    done = 0
    with open_source(item.source, job) as source:
        job = _in_shape(job, source.info.pixel_shape)
        sink = open_sink(item.output, source, job)
        is_there = _existing(sink, resume)
        height, width = source.info.size
        share = height * width * _BYTES_A_PIXEL * (2 if _depth(source.info, job) == 16 else 1)
        workers = max(1, min(workers, MEMORY_BYTES // (_FRAMES_A_WORKER * share)))
        try:
            with opencv_threads(1 if workers > 1 else None):
                for frame, prepared in _frames(source, sink, network, job, workers, is_there):
                    if prepared is not None:
                        sink.write(frame, prepared)
                    done += 1
                    yield done, source.info.frames
            if not done:
                raise InputError(f"{item.source}: no frames between --start and --end")
            sink.finish(source.sound_after)
        except BaseException:
            sink.discard()
            raise
        return replace(source.info, frames=done, notes=(*source.notes, *sink.notes))


def _frames(
    source: Source,
    sink: Sink,
    network: Network,
    job: ClipRequest,
    workers: int,
    is_there: Callable[[Frame], bool],
) -> Iterator[tuple[Frame, Any]]:
    """Yield each frame of the source with what the sink writes; None if the result exists already."""
    depth = _depth(source.info, job)
    frame_job = replace(job, bit_depth=depth)

    def matte(pair: tuple[Frame, Any]) -> tuple[Matte | None, FrameState | None]:
        frame = pair[0]
        if not job.is_stabilised:
            return None if is_there(frame) else network(frame.photo.srgb), None
        found = network(frame.photo.srgb)
        return found, look_at(found.image, found.alpha_as(np.float32))

    def image(pair: tuple[tuple[Frame, Any], tuple[Matte | None, FrameState | None]]) -> Any:
        (frame, backdrop), (found, _) = pair
        if found is None or is_there(frame):
            return None
        own = frame_job if backdrop is None else replace(frame_job, background=backdrop)
        return sink.prepare(frame, render(frame.photo, found, own))

    with ThreadPoolExecutor(workers) as pool:
        frames = ahead(with_backdrop(source, job.backdrop), DECODED_AHEAD)
        mattes = in_order(pool, matte, frames, workers + 1)
        steady = steadied(mattes) if job.is_stabilised else mattes
        images = in_order(pool, image, steady, workers + 1)
        with closing(ahead(images, DECODED_AHEAD)) as results:
            for ((frame, _), _), prepared in results:
                yield frame, prepared


def steadied(
    found: Generator[tuple[T, tuple[Matte | None, FrameState | None]], None, None],
) -> Generator[tuple[T, tuple[Matte | None, FrameState | None]], None, None]:
    """Stabilise mattes over time; each is yielded once the next one has been read."""
    stabiliser = Stabiliser()
    before: tuple[T, Matte] | None = None
    with closing(found):
        for value, (matte, moment) in found:
            assert matte is not None
            assert moment is not None
            alpha = stabiliser.push(moment)
            if before is not None:
                yield before[0], (replace(before[1], given_alpha=alpha), None)
            before = value, matte
        if before is not None:
            yield before[0], (replace(before[1], given_alpha=stabiliser.flush()), None)


def _in_shape(job: ClipRequest, shape: Fraction | None) -> ClipRequest:
    """Resize a background image to compensate for the clip's non-square pixels."""
    if not isinstance(job.background, np.ndarray) or shape is None:
        return job
    return replace(job, background=stretched(job.background, None, shape))


def _depth(info: ClipInfo, job: ClipRequest) -> int:
    """Return the bits per channel of the images for the sink."""
    if job.kind in ("prores", "exr"):
        return 16
    if job.bit_depth is not None:
        return job.bit_depth
    is_deep = info.is_deep and job.output != "alpha"
    return 16 if is_deep and job.kind in (*DEEP_CLIP_FORMATS, "png", "tiff") else 8


def _existing(sink: Sink, resume: bool) -> Callable[[Frame], bool]:
    if not isinstance(sink, SequenceWriter):
        return lambda frame: False
    writer = sink
    if not resume:
        writer.clear()
    return lambda frame: resume and writer.path_of(frame.number).exists()
