"""What a clip will cost, from a few of its frames: how long the work takes and how large the result is."""

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
_WARM_UP = 4  # frames before the pace counts: queues fill, memory is taken
_KEY_FRAMES_APART = 250  # of the encoders that have others between


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of a clip.

    Attributes:
        frames: How many are to be done; None where the file does not say.
        seconds: Length of the result; None likewise.
        bytes: Size of the result, about; None likewise.
        work_seconds: How long the work takes, about; None likewise.
    """

    frames: int | None
    seconds: float | None
    bytes: int | None
    work_seconds: float | None


@dataclass(frozen=True)
class _Pace:
    """Of frames of one size: seconds each, bytes of a key frame, and bytes of all others each."""

    seconds: float
    key_bytes: float
    bytes: float


class Estimator:
    """Estimates clips of one run; of clips of one size only the first is tried.

    Args:
        network: As for the run.
        request: Likewise.
        workers: Likewise.
    """

    def __init__(self, network: Network, request: ClipRequest, workers: int) -> None:
        self._network = network
        self._request = request
        self._workers = workers
        self._paces: dict[tuple[int, int], _Pace] = {}

    def __call__(self, item: Item) -> Estimate:
        """Estimate a clip; nothing is left of the frames that are tried.

        Raises:
            InputError: It cannot be read, or not be done.
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
    """Bytes of the first frame beyond what all others have; of sound and headers each frame has its share."""
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(container.streams.video[0]) if packet.size]
    rest = path.stat().st_size - sum(sizes)
    usual = sum(sizes[1:]) / (len(sizes) - 1) if len(sizes) > 1 else sizes[0]
    return _Pace(seconds, max(0.0, sizes[0] - usual), usual + rest / frames)
