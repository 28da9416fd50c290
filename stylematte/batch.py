"""Read, matte, render and write many images in parallel, with memory use independent of their number.

Each worker takes one image through all stages. On a CPU, each worker runs the network in its own lane with
one thread, so no core waits for another stage. On a GPU, the images that wait for the network share a batch.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte.errors import EngineError, InputError, StyleMatteError
from stylematte.files import write_bytes
from stylematte.imaging import compose
from stylematte.imaging.foreground import estimate_foreground
from stylematte.imaging.geometry import ImageArray, convert
from stylematte.imaging.light import composite_light, estimate_foreground_light
from stylematte.matter import Matte, Matter
from stylematte.media import colour, exr
from stylematte.media.decode import decode_image, measure
from stylematte.media.images import DEEP_FORMATS
from stylematte.media.manifest import Manifest, describe_output, read_and_identify
from stylematte.media.paths import Item
from stylematte.media.photo import Photo
from stylematte.media.results import encode_result
from stylematte.requests import PhotoRequest

STAGES = ("read", "network", "render", "write")

GPU_BATCH = 4
GPU_LANES = 2  # one prepares its batch on the CPU while the other's batch is on the GPU
MEMORY_BYTES = 3 << 29  # limit for all images in progress; an image that needs more is processed alone
# Peak bytes per pixel and byte of depth: the image, its results and the encoder's copy.
_BYTES_A_PIXEL = {"alpha": 6, "foreground": 14, "composite": 14, "cutout": 14}
_BYTES_A_PIXEL_LAYERS = 20  # added if layers are written
_UNKNOWN = 4000, 6000, 2  # height, width and bytes per channel assumed if the header does not state them


@dataclass
class Outcome:
    """The outcome for one image or clip.

    Attributes:
        item: Source and result paths.
        error: Why it failed; None if the result was written.
        size: (height, width); None if it could not be read.
        frames: Number of frames of a clip.
        seconds: Time spent in each of `STAGES`, including waiting.
        notes: Messages for the user, one line each.
    """

    item: Item
    error: StyleMatteError | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(data: bytes, name: str, request: PhotoRequest, page: int | None = None) -> Photo:
    """Decode a photo as requested; raises the errors of `decode_image`."""
    photo = decode_image(data, name, page, request.keep_damaged)
    return photo.in_srgb() if request.profile == "srgb" else photo


def run(
    items: Sequence[Item],
    matter: Matter,
    request: PhotoRequest,
    manifest: Manifest | None = None,
    workers: int = 1,
    batch_size: int | None = None,
) -> Generator[Outcome, None, None]:
    """Process all items; yields the outcome of each as soon as it is known, in no fixed order.

    If the caller stops early or presses Ctrl-C, no new image is started and those in progress are finished.

    Args:
        items: Result of `collect`.
        matter: Matter whose engine has a lane for each worker, or runs on a GPU.
        request: Results to make.
        manifest: Open manifest; gets a line for each item.
        workers: Number of images processed in parallel.
        batch_size: Largest number of images in one network pass. None: 1 on a CPU, 4 on a GPU.

    Raises:
        EngineError: The runtime failed; the remaining items are not tried.
    """
    workers = max(1, min(workers, len(items)))
    results: SimpleQueue[Outcome | BaseException] = SimpleQueue()
    waiting = deque(items)
    worker = _Worker(request, Network(matter, batch_size), _Budget(MEMORY_BYTES), manifest)

    def work() -> None:
        while True:
            try:
                item = waiting.popleft()
            except IndexError:  # all items are done or in progress
                return
            try:
                results.put(worker.do(item))
            except BaseException as error:
                waiting.clear()
                results.put(error)

    with opencv_threads(1 if workers > 1 else None):
        threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(len(items)):
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            waiting.clear()
            for thread in threads:
                thread.join()


def render(photo: Photo, matte: Matte, request: PhotoRequest) -> NDArray[Any]:
    """Make the pixels of the result; transparent parts of the photo stay transparent, except in a foreground.

    Returns:
        (H, W) alpha, (H, W, 4) cut-out, or (H, W, 3) foreground or composite; with the channels that
        `exr.with_layers` appends if layers are requested. uint8 or uint16; float32 light if the photo is
        scene-linear and the result an exr.
    """
    depth = request.bit_depth
    if depth is None:
        keeps = request.output != "alpha" and request.kind in DEEP_FORMATS
        depth = 16 if request.kind == "exr" or (keeps and photo.pixels.dtype == np.uint16) else 8
    dtype = np.uint16 if depth == 16 else np.uint8
    if photo.light is not None and request.output != "alpha":
        return _render_light(photo, matte, request, photo.light.primaries, dtype)
    alpha = matte.alpha_as(dtype)
    opacity = alpha
    if photo.alpha is not None:
        opacity = cv2.multiply(alpha, convert(photo.alpha, dtype), scale=1 / np.iinfo(dtype).max)
        opacity = opacity.reshape(alpha.shape)
    if request.output == "alpha":
        return opacity
    image = convert(photo.pixels, dtype)
    foreground = estimate_foreground(image, alpha)
    if request.despill is not None:
        foreground = compose.despill(foreground, request.despill)
    if request.output == "foreground":
        return foreground
    if request.output == "cutout":
        pixels = compose.cutout(foreground, opacity)
        return exr.with_layers(pixels, opacity, foreground, None) if request.layers else pixels
    background = request.background
    assert background is not None  # PhotoRequest has seen to it
    if isinstance(background, compose.Blur):
        background = compose.blur_background(image, opacity, background.radius_px)
    elif isinstance(background, tuple):
        background = colour.color_from_srgb(background, photo.icc)
    elif not colour.is_srgb(photo.icc):
        background = colour.from_srgb(compose.cover(background, alpha.shape), photo.icc)
    pixels = compose.composite(foreground, opacity, background, request.light_wrap_px)
    if not request.layers:
        return pixels
    behind = compose.composite(foreground, np.zeros_like(opacity), background)
    return exr.with_layers(pixels, opacity, foreground, behind)


def _render_light(
    photo: Photo, matte: Matte, request: PhotoRequest, primaries: colour.Primaries, dtype: DTypeLike
) -> NDArray[Any]:
    """Make the colours of a result in scene-linear light; convert them to sRGB for formats other than exr."""
    if request.light_wrap_px:
        raise InputError("--light-wrap does not work with scene-linear images", "Leave out --light-wrap")
    alpha = matte.alpha
    opacity = alpha if photo.alpha is None else alpha * photo.alpha
    foreground = estimate_foreground_light(photo.pixels, alpha)
    if request.despill is not None:
        foreground = compose.despill(foreground, request.despill, is_light=True)
    colours, behind = foreground, None
    if request.output == "composite":
        background = request.background
        if isinstance(background, compose.Blur):
            behind = compose.blur_background(photo.pixels, opacity, background.radius_px)
        elif isinstance(background, tuple):
            behind = exr.light_of(np.array(background, np.float32).reshape(1, 1, 3) / 255, primaries)
        else:
            assert background is not None  # PhotoRequest has seen to it
            behind = exr.light_of(compose.cover(background, alpha.shape), primaries)
        colours = composite_light(foreground, opacity, behind)
    if request.kind != "exr":
        colours = convert(exr.srgb_of(colours, primaries), dtype)
    pixels = compose.cutout(colours, opacity) if request.output == "cutout" else colours
    if not request.layers:
        return pixels
    behind = None if behind is None else np.broadcast_to(behind, foreground.shape)
    return exr.with_layers(pixels, opacity, foreground, behind)


def encode(photo: Photo, pixels: NDArray[Any], request: PhotoRequest) -> bytes:
    """Encode a result as `encode_result` does."""
    is_alpha = request.output == "alpha"
    return encode_result(
        photo,
        pixels,
        request.kind,
        is_alpha=is_alpha,
        premultiplied=request.premultiplied,
        policy=request.metadata,
        compression=request.exr_compression,
    )


class _Worker:
    """Takes images through all stages; thread-safe."""

    def __init__(
        self, request: PhotoRequest, network: "Network", budget: "_Budget", manifest: Manifest | None
    ) -> None:
        self._request = request
        self._network = network
        self._budget = budget
        self._manifest = manifest

    def do(self, item: Item) -> Outcome:
        outcome = Outcome(item)
        identity: dict[str, Any] = {}
        try:
            clock = _Clock(outcome.seconds)
            data, identity = read_and_identify(item.source)
            with self._budget.share(self._bytes_for(data)):
                photo = read(data, str(item.source), self._request, item.page)
                del data
                outcome.notes = photo.notes
                outcome.size = photo.pixels.shape[:2]
                clock.stop("read")
                matte = self._network(photo.srgb)
                clock.stop("network")
                pixels = render(photo, matte, self._request)
                clock.stop("render")
                encoded = encode(photo, pixels, self._request)
                write_bytes(item.output, encoded)
                identity |= describe_output(item.output, encoded)
                clock.stop("write")
        except EngineError as error:
            raise EngineError(f"{item.source}: {error.message}", error.hint) from error
        except StyleMatteError as error:
            if not error.message.startswith((str(item.source), str(item.output))):
                error.message = f"{item.source}: {error.message}"
            outcome.error = error
        except (MemoryError, cv2.error) as error:
            if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
                raise
            outcome.error = InputError(f"{item.source}: not enough memory", "Use fewer --workers")
        if self._manifest is not None:
            facts = {**identity, "size": outcome.size, "seconds": outcome.seconds}
            error_text = {"error": str(outcome.error)} if outcome.error else {}
            self._manifest.record(item, "failed" if outcome.error else "ok", {**facts, **error_text})
        return outcome

    def _bytes_for(self, data: bytes) -> int:
        height, width, depth_bytes = measure(data) or _UNKNOWN
        depth_bytes = 2 if self._request.bit_depth == 16 else depth_bytes
        pixel_bytes = _BYTES_A_PIXEL[self._request.output] + (
            _BYTES_A_PIXEL_LAYERS if self._request.layers else 0
        )
        return height * width * depth_bytes * pixel_bytes


class Network:
    """A matter for several threads: the thread that gets a lane runs a batch of the waiting images.

    No thread waits for a batch to fill. Images queue while the lanes are busy, so batches grow only when the
    network is the slowest stage.
    """

    def __init__(self, matter: Matter, batch_size: int | None) -> None:
        is_cpu = matter.engine.provider == "CPUExecutionProvider"
        self._matter = matter
        self._batch_size = batch_size or (1 if is_cpu else GPU_BATCH)
        self._lanes = threading.Semaphore(matter.engine.lanes if is_cpu else GPU_LANES)
        self._lock = threading.Lock()
        self._waiting: list[tuple[ImageArray, Future[Matte]]] = []

    def __call__(self, image: ImageArray) -> Matte:
        """Matte one image; raises the errors of `Matter`."""
        own: Future[Matte] = Future()
        with self._lock:
            self._waiting.append((image, own))
        # Each image has a thread that comes through here and takes the oldest images, so none is left over.
        with self._lanes:
            with self._lock:
                batch = self._waiting[: self._batch_size]
                del self._waiting[: self._batch_size]
            if batch:
                self._run(batch)
        return own.result()

    def _run(self, batch: list[tuple[ImageArray, "Future[Matte]"]]) -> None:
        try:
            mattes = self._matter.batch([image for image, _ in batch], copy=False)
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), matte in zip(batch, mattes, strict=True):
            future.set_result(matte)


class _Budget:
    """A limit on the memory in use: a request waits until enough is free; one above the limit runs alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def share(self, wanted: int) -> Iterator[None]:
        wanted = min(wanted, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._used + wanted <= self._total)
            self._used += wanted
        try:
            yield
        finally:
            with self._changed:
                self._used -= wanted
                self._changed.notify_all()


class _Clock:
    """A stopwatch that stores the time since its last stop in a dictionary."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] = round(now - self._last, 5)
        self._last = now


@contextmanager
def opencv_threads(count: int | None) -> Iterator[None]:
    """Limit OpenCV's own threads while several workers share the cores."""
    before = cv2.getNumThreads()
    if count is not None:
        cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
