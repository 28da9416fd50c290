"""Many images give what each gives alone; memory is bounded; failures stay with their image."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stylematte import batch
from stylematte.batch import render, run
from stylematte.engines import open_engine
from stylematte.errors import EngineError, InputError, UsageError
from stylematte.imaging.compose import Blur
from stylematte.matter import Matter
from stylematte.media.paths import Item
from stylematte.media.photo import Photo
from stylematte.requests import PhotoRequest
from tests.images import assert_is_red_matte, load, red_image, red_region, save


@pytest.fixture
def matter(red_model: Path) -> Matter:
    return Matter(open_engine(red_model, device="cpu", lanes=3))


def make_items(folder: Path, count: int) -> list[Item]:
    """Red rectangles of several shapes."""
    shapes = [(96, 128), (128, 96), (100, 100), (40, 200)]
    items = []
    for number in range(count):
        source = save(folder / "in" / f"{number}.png", red_image(*shapes[number % len(shapes)]))
        items.append(Item(source, folder / "out" / f"{number}.png"))
    return items


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (3, 1), (4, 3), (8, 20)])
def test_every_image_is_done_once_and_right(
    tmp_path: Path, matter: Matter, workers: int, batch_size: int
) -> None:
    items = make_items(tmp_path, 12)
    outcomes = list(run(items, matter, PhotoRequest(), workers=workers, batch_size=batch_size))
    assert sorted(str(outcome.item.output) for outcome in outcomes) == sorted(str(i.output) for i in items)
    for outcome in outcomes:
        assert outcome.error is None
        assert set(outcome.seconds) == set(batch.STAGES)
        alpha = load(outcome.item.output)
        assert alpha.shape == outcome.size
        assert_is_red_matte(alpha)


def test_opencv_gets_its_threads_back(tmp_path: Path, matter: Matter) -> None:
    before = cv2.getNumThreads()
    outcomes = run(make_items(tmp_path, 4), matter, PhotoRequest(), workers=2)
    next(outcomes)
    outcomes.close()
    assert cv2.getNumThreads() == before


def test_failures_stay_with_their_image(tmp_path: Path, matter: Matter) -> None:
    items = make_items(tmp_path, 4)
    items[1].source.write_bytes(b"")
    items[2].source.unlink()
    errors = {outcome.item: outcome.error for outcome in run(items, matter, PhotoRequest(), workers=2)}
    assert [errors[item] is None for item in items] == [True, False, False, True]
    assert isinstance(errors[items[1]], InputError)
    assert str(items[2].source) in errors[items[2]].message
    assert [item.output.exists() for item in items] == [True, False, False, True]


def test_encoder_limits_name_the_image(tmp_path: Path, matter: Matter) -> None:
    source = save(tmp_path / "strip.png", np.zeros((3, 20000, 3), np.uint8))
    (outcome,) = run([Item(source, tmp_path / "out.webp")], matter, PhotoRequest(kind="webp"))
    assert outcome.error is not None
    assert outcome.error.message.startswith(f"{source}: webp holds at most 16383")


class _Engine:
    """Stands in for an engine: notes the batches, or fails."""

    name, provider, lanes = "fake", "FakeExecutionProvider", 1

    def __init__(self, real: Matter, on_call: Callable[[int], None]) -> None:
        self.contract = real.engine.contract
        self._real = real.engine
        self._on_call = on_call

    def coefficients(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self._on_call(len(images))
        return self._real.coefficients(images)


def test_engine_failure_stops_the_run_and_names_the_image(tmp_path: Path, matter: Matter) -> None:
    calls = []

    def fail(_: int) -> None:
        calls.append(1)
        raise EngineError("out of device memory")

    items = make_items(tmp_path, 20)
    with pytest.raises(EngineError, match=r"in/\d+\.png: out of device memory"):
        list(run(items, Matter(_Engine(matter, fail)), PhotoRequest(), workers=2, batch_size=1))
    assert len(calls) <= 3, "the rest was not tried"


def test_images_that_wait_for_a_gpu_share_a_pass(tmp_path: Path, matter: Matter) -> None:
    sizes: list[int] = []
    lock = threading.Lock()

    def slow(count: int) -> None:
        with lock:
            sizes.append(count)
        time.sleep(0.05)

    (first,) = make_items(tmp_path, 1)
    items = [Item(first.source, tmp_path / "out" / f"{number}.png") for number in range(24)]
    assert len(list(run(items, Matter(_Engine(matter, slow)), PhotoRequest(), workers=8, batch_size=3))) == 24
    assert sum(sizes) == 24
    assert max(sizes) == 3


def test_stopping_early_begins_nothing_new_and_leaves_whole_files(tmp_path: Path, matter: Matter) -> None:
    items = make_items(tmp_path, 30)
    outcomes = run(items, matter, PhotoRequest(), workers=2)
    next(outcomes)
    outcomes.close()
    done = [item for item in items if item.output.exists()]
    assert 1 <= len(done) < 30
    for item in done:
        assert_is_red_matte(load(item.output))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png"}


def test_budget_lets_one_big_image_in_alone() -> None:
    budget = batch._Budget(100)
    inside, most = 0, 0
    lock = threading.Lock()

    def work(wanted: int) -> None:
        nonlocal inside, most
        with budget.share(wanted):
            with lock:
                inside += min(wanted, 100)
                most = max(most, inside)
            time.sleep(0.005)
            with lock:
                inside -= min(wanted, 100)

    threads = [threading.Thread(target=work, args=(wanted,)) for wanted in [40, 5000, 60, 30, 100, 70] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert 0 < most <= 100


def test_transparent_places_of_the_photo_stay_transparent(matter: Matter) -> None:
    image = red_image()
    own = np.full(image.shape[:2], 255, np.uint8)
    own[:, :40] = 0
    own[:, 40:60] = 100
    photo = Photo(image, own)
    matte = matter(image)
    plain = render(Photo(image), matte, PhotoRequest())
    alpha = render(photo, matte, PhotoRequest())
    np.testing.assert_allclose(alpha, plain * (own / 255.0), atol=0.51)
    assert render(photo, matte, PhotoRequest(bit_depth=16)).dtype == np.uint16
    np.testing.assert_array_equal(render(photo, matte, PhotoRequest("cutout"))[:, :, 3], alpha)
    composite = render(photo, matte, PhotoRequest("composite", background=(0, 0, 255)))
    assert np.all(composite[:, :40] == (0, 0, 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_kinds_and_depths(matter: Matter, dtype: type) -> None:
    image = red_image(dtype=dtype)
    photo, matte = Photo(image), matter(image)
    white = np.iinfo(dtype).max
    inside = tuple(slice(side.start + 6, side.stop - 6) for side in red_region(*image.shape[:2]))

    assert render(photo, matte, PhotoRequest()).dtype == np.uint8
    deep = render(photo, matte, PhotoRequest(bit_depth=16))
    assert deep.dtype == np.uint16
    np.testing.assert_allclose(deep, matte.alpha * 65535.0, atol=0.6)

    cutout = render(photo, matte, PhotoRequest("cutout"))
    assert cutout.dtype == dtype
    np.testing.assert_array_equal(cutout[inside], np.broadcast_to([white, 0, 0, white], cutout[inside].shape))
    assert render(photo, matte, PhotoRequest("cutout", bit_depth=8)).dtype == np.uint8
    assert render(photo, matte, PhotoRequest("foreground", "jpg")).dtype == np.uint8

    composite = render(photo, matte, PhotoRequest("composite", background=(0, 255, 0)))
    assert composite.shape == image.shape
    np.testing.assert_allclose(composite[-1, -1], [0, white, 0], atol=white / 1000)
    np.testing.assert_allclose(composite[inside][0, 0], [white, 0, 0], atol=white / 1000)
    blurred = render(photo, matte, PhotoRequest("composite", background=Blur(5)))
    assert abs(int(blurred[-1, -1, 0]) - int(image[-1, -1, 0])) <= white / 50


@pytest.mark.parametrize(
    "wanted",
    [
        {"output": "composite"},
        {"output": "cutout", "background": (0, 0, 0)},
        {"output": "cutout", "kind": "jpg"},
        {"kind": "jpg", "bit_depth": 16},
        {"kind": "webp", "bit_depth": 16},
    ],
)
def test_requests_that_cannot_be_meant(wanted: dict) -> None:
    with pytest.raises(UsageError) as caught:
        PhotoRequest(**wanted)
    assert caught.value.hint
