"""The pipeline: order, bounds, and that it ends cleanly wherever it is left."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from stylematte.batch import Network
from stylematte.clips import matte_clip
from stylematte.engines import open_engine
from stylematte.errors import InputError
from stylematte.matter import Matte, Matter
from stylematte.media.paths import Item
from stylematte.queues import ahead, in_order
from stylematte.requests import ClipRequest
from tests.clips import draw_clip, probe


class Source:
    """Numbers that say how many were taken, and whether they were closed."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.taken = 0
        self.is_closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                if number == self.fail_at:
                    raise InputError("broken")
                self.taken += 1
                yield number
        finally:
            self.is_closed = True


def iterate(source: Source) -> Iterator[int]:
    yield from source


def test_ahead_gives_all_in_order_and_no_further_than_it_may() -> None:
    source = Source(50)
    results = ahead(iterate(source), 3)
    assert next(results) == 0
    time.sleep(0.2)
    assert source.taken <= 1 + 3 + 1, "one taken, three waiting, one that wants to be put"
    assert list(results) == list(range(1, 50))
    assert source.is_closed


def test_ahead_passes_errors_on_after_what_came_before() -> None:
    results = ahead(iterate(Source(50, fail_at=5)), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="broken"):
        next(results)


def test_leaving_early_closes_the_source_and_ends_the_thread() -> None:
    source = Source(1000)
    threads = threading.active_count()
    with closing(ahead(iterate(source), 2)) as results:
        assert next(results) == 0
    assert source.is_closed
    assert threading.active_count() == threads


def test_in_order_keeps_the_order_and_its_bound() -> None:
    source = Source(40)
    most = 0

    def work(number: int) -> int:
        time.sleep(0.003 * (number % 3))
        return number * number

    with ThreadPoolExecutor(4) as pool:
        for number, (value, square) in enumerate(in_order(pool, work, iterate(source), 5)):
            assert (value, square) == (number, number * number)
            most = max(most, source.taken - number)
    assert most <= 5
    assert source.is_closed


def test_in_order_passes_errors_on() -> None:
    def work(number: int) -> int:
        if number == 7:
            raise InputError("seven")
        return number

    source = Source(1000)
    with ThreadPoolExecutor(2) as pool, pytest.raises(InputError, match="seven"):
        list(in_order(pool, work, iterate(source), 4))
    assert source.is_closed
    assert source.taken < 20


@pytest.fixture
def network(red_model: Path) -> Network:
    return Network(Matter(open_engine(red_model, device="cpu", lanes=2)), None)


@pytest.mark.parametrize("stabilised", [False, True])
def test_leaving_a_clip_early_leaves_no_file(tmp_path: Path, network: Network, stabilised: bool) -> None:
    item = Item(draw_clip(tmp_path / "clip.mp4", frames=40), tmp_path / "out" / "clip.mp4", True)
    frames = matte_clip(item, network, ClipRequest(kind="mp4", is_stabilised=stabilised), workers=2)
    assert next(frames) == (1, 40)
    while not list((tmp_path / "out").iterdir()):  # the encoder looks ahead before it writes
        next(frames)
    threads = threading.active_count()
    frames.close()
    assert list((tmp_path / "out").iterdir()) == []
    assert threading.active_count() < threads


def test_a_failing_network_leaves_no_file(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail_later(self: Matter, images: list, copy: bool = True) -> list[Matte]:
        calls.append(1)
        if len(calls) > 6:
            raise InputError("no more")
        return batch(self, images, copy=copy)

    batch = Matter.batch
    monkeypatch.setattr(Matter, "batch", fail_later)
    item = Item(draw_clip(tmp_path / "clip.mp4", frames=40), tmp_path / "out" / "clip.mov", True)
    with pytest.raises(InputError, match="no more"):
        list(matte_clip(item, network, ClipRequest(kind="prores"), workers=2))
    assert list((tmp_path / "out").iterdir()) == []


def test_stabilised_clips_have_all_their_frames(tmp_path: Path, network: Network) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=9)
    found = {}
    for stabilised in (False, True):
        item = Item(clip, tmp_path / f"{stabilised}.mkv", True)
        list(matte_clip(item, network, ClipRequest(kind="ffv1", is_stabilised=stabilised), workers=2))
        found[stabilised] = probe(item.output)
    assert found[True].times == found[False].times
    for plain, steady in zip(found[False].frames, found[True].frames, strict=True):
        assert np.abs(plain.astype(int) - steady).mean() < 0.01 * 65535, "it moves with the subject"


def test_workers_change_nothing(tmp_path: Path, network: Network) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=7)
    frames = []
    for workers in (1, 2, 5):
        item = Item(clip, tmp_path / f"{workers}.mkv", True)
        list(matte_clip(item, network, ClipRequest("cutout", "ffv1"), workers))
        frames.append(np.stack(probe(item.output).frames))
    assert np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[0], frames[2])
