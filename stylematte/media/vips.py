"""Configure libvips, and exchange arrays with it."""

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from stylematte.media.formats import LOADERS

T = TypeVar("T")
Array = NDArray[Any]

_FORMATS = {np.dtype(np.uint8): "uchar", np.dtype(np.uint16): "ushort", np.dtype(np.float32): "float"}
# (Colour channels, bytes per channel) → interpretation.
_MEANINGS = {(1, 1): "b-w", (1, 2): "grey16", (3, 1): "srgb", (3, 2): "rgb16"}


_preparing = threading.Lock()


def library() -> Any:
    """Import pyvips and restrict it for the whole process.

    Loaders that no supported format needs are blocked: this libvips also renders SVGs, which can refer to
    other files, and opens raw, CSV and its own files. Nothing is cached between images, and each image uses
    one thread, because several images are processed in parallel.
    """
    with _preparing:  # blocking all loaders a second time would fail images that other threads decode
        return _prepared()


@cache
def _prepared() -> Any:
    logging.getLogger("pyvips").addHandler(logging.NullHandler())  # keeps its warnings off stderr
    pyvips: Any = importlib.import_module("pyvips")
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    pyvips.operation_block_set("VipsForeignLoad", True)
    for loader in LOADERS:
        pyvips.operation_block_set(loader, False)
    _count_errors(pyvips.Error)
    return pyvips


def _count_errors(error: Any) -> None:
    """Count errors: each one empties the message buffer, which may hold messages about another image."""
    construct = error.__init__

    def count_and_construct(self: Any, *arguments: Any) -> None:
        with messages.emptying():
            construct(self, *arguments)

    error.__init__ = count_and_construct


def image_of(pixels: Array, icc: bytes | None = None, meaning: str = "") -> Any:
    """Pass an array to libvips without a copy.

    Args:
        pixels: (H, W) or (H, W, C) uint8, uint16 or float32; must not change while the image exists.
        icc: Profile of the colours.
        meaning: libvips's interpretation; by default grey for one or two channels, RGB for more.
    """
    pyvips = library()
    pixels = np.ascontiguousarray(pixels)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    height, width = pixels.shape[:2]
    image = pyvips.Image.new_from_memory(pixels.data, width, height, channels, _FORMATS[pixels.dtype])
    meaning = meaning or _MEANINGS[1 if channels < 3 else 3, 2 if pixels.dtype == np.uint16 else 1]
    image = image.copy(interpretation=meaning)
    if icc is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    return image


def array_of(image: Any) -> Array:
    """Compute an image into a new (H, W, C) array."""
    pixels = cast(Array, image.numpy())
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def blob_of(image: Any, name: str) -> bytes | None:
    """Return a metadata field as bytes; None if it is missing."""
    return bytes(image.get(name)) if image.get_typeof(name) else None


@contextlib.contextmanager
def profile_name(icc: bytes | None) -> Iterator[str]:
    """Yield a profile's name, since libvips takes targets only by name; "srgb", libvips's own, for None."""
    if icc is None:
        yield "srgb"
        return
    import tempfile  # takes 6 ms to import, and few photos need it

    with tempfile.NamedTemporaryFile(suffix=".icc") as file:
        file.write(icc)
        file.flush()
        yield file.name


class Messages:
    """Attributes libvips's messages to images, although the process has a single message buffer.

    The JPEG decoder continues after damage and reports it only in that buffer. Images are decoded in
    parallel; if any message appeared meanwhile, the image is decoded again on its own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._errors = 0
        self._emptying = 0  # errors that have been counted, but may not have emptied the buffer yet
        self._is_alone = False

    def run(self, work: Callable[[], T], sign: str) -> tuple[T, bool]:
        """Run work in parallel with other threads.

        Returns:
            Its result, and whether a message containing `sign` may have appeared meanwhile.
        """
        with self.shared():
            before, emptying = self._errors, self._emptying
            result = work()
            # Evaluate in this order: an error is counted before it empties the buffer.
            return result, sign in self._text() or emptying > 0 or self._errors != before

    def run_alone(self, work: Callable[[], T]) -> tuple[T, str]:
        """Run work while no other thread is in `run` or `shared`.

        Returns:
            Its result, and the messages that appeared.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._running and not self._is_alone)
            self._is_alone = True
        try:
            while True:
                self._clear()
                before, emptying = self._errors, self._emptying
                result = work()
                text = self._text()
                if not emptying and self._errors == before:
                    return result, text
        finally:
            self._clear()
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Block `run_alone` during decoding that might leave messages."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def emptying(self) -> Iterator[None]:
        """Count an error, which empties the buffer."""
        with self._changed:
            self._errors += 1
            self._emptying += 1
        try:
            yield
        finally:
            with self._changed:
                self._emptying -= 1

    @staticmethod
    def _text() -> str:
        pyvips = library()
        return str(pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()).decode("utf-8", "replace"))

    @staticmethod
    def _clear() -> None:
        library().vips_lib.vips_error_clear()


messages = Messages()
