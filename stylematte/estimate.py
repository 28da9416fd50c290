"""Estimate a clip's processing time and the size of its result from a few of its frames."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import av

from stylematte.batch import Network
from stylematte.clips import matte_clip, open_source
from stylematte.media.clip_frame import ClipInfo
from stylematte.media.paths import Item
from stylematte.media.span import Span
from stylematte.requests import ClipRequest

SAMPLE_FRAMES = 16
_WARM_UP = 4  # untimed frames: queues fill and memory is allocated
_KEY_FRAMES_APART = 250  # key frame interval of the encoders that use inter frames


@dataclass(frozen=True)
class Estimate:
    """The estimate for a clip; all values are None if the file does not state its number of frames.

    Attributes:
        frames: Number of frames to process.
        seconds: Duration of the result.
        bytes: Approximate size of the result.
        work_seconds: Approximate processing time.
    """

    frames: int | None
    seconds: float | None
    bytes: int | None
    work_seconds: float | None


@dataclass(frozen=True)
class _Pace:
    """Cost of a frame of one size: seconds, bytes, and the additional bytes of a key frame."""

    seconds: float
    key_bytes: float
    bytes: float


class Estimator:
    """Estimates the clips of one run; only the first clip of each size is tried.

    Args:
        network: The network of the run.
        request: The request of the run.
        workers: Number of workers of the run.
    """

    def __init__(self, network: Network, request: ClipRequest, workers: int) -> None:
        self._network = network
        self._request = request
        self._workers = workers
        self._paces: dict[tuple[int, int], _Pace] = {}

    def __call__(self, item: Item) -> Estimate:
        """Estimate a clip; the frames that are tried leave no files.

        Raises:
            InputError: The clip cannot be read or processed.
        """
        with open_source(item.source, self._request) as source:
            info = source.info
        pace = self._paces.get(info.size)
        if pace is None:
            pace = self._paces[info.size] = self._try(item, info)
        if info.frames is None:
            return Estimate(None, None, None, None)
        size = pace.bytes * info.frames + pace.key_bytes * (1 + info.frames // _KEY_FRAMES_APART)
        return Estimate(
            info.frames, float(info.frames / info.rate), round(size), round(pace.seconds * info.frames, 1)
        )

    def _try(self, item: Item, info: ClipInfo) -> _Pace:
        every = self._request.span.every
        count = min(SAMPLE_FRAMES, info.frames or SAMPLE_FRAMES)
        span = Span(info.first_number, info.first_number + count * every - 1, every)
        request = replace(self._request, span=span)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / item.output.name
            clock = [time.perf_counter()]
            for _ in matte_clip(replace(item, output=output), self._network, request, self._workers):
                clock.append(time.perf_counter())
            first = min(_WARM_UP, len(clock) - 2)
            seconds = (clock[-1] - clock[first]) / (len(clock) - 1 - first)
            frames = len(clock) - 1
            if output.is_dir():
                sizes = [path.stat().st_size for path in output.iterdir()]
                return _Pace(seconds, 0.0, sum(sizes) / frames)
            return _sizes(output, seconds, frames)


def _sizes(path: Path, seconds: float, frames: int) -> _Pace:
    """Return the cost of a frame; sound and headers are divided among the frames.

    The additional bytes of a key frame are those of the first frame above the mean of the others.
    """
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(container.streams.video[0]) if packet.size]
    rest = path.stat().st_size - sum(sizes)
    usual = sum(sizes[1:]) / (len(sizes) - 1) if len(sizes) > 1 else sizes[0]
    return _Pace(seconds, max(0.0, sizes[0] - usual), usual + rest / frames)
