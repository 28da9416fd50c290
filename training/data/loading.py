"""Data loaders that pass on errors of worker processes unchanged, and start workers undisturbed by Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from stylematte.errors import StyleMatteError


class ErrorsAsSamples(Dataset[Any]):
    """A data set that returns a sample's error instead of raising it.

    An error raised in a `DataLoader` worker would arrive as another type, with a traceback in its message.
    """

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, key: Any) -> Any:
        """Return a sample, or the error that it raised."""
        try:
            return self.samples[key]
        except StyleMatteError as error:
            return error


def collate(samples: list[Any]) -> Any:
    """Stack samples into a batch; if there are errors, return the first error."""
    return next((s for s in samples if isinstance(s, StyleMatteError)), None) or default_collate(samples)


def open_loader(
    samples: Dataset[Any], batches: Sampler[list[Any]], workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """Open a loader, to be read with `read_batches`."""
    return DataLoader(
        ErrorsAsSamples(samples),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        # A forked child would inherit the thread pools of OpenCV and torch without their threads and hang.
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin_memory,
    )


def read_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield batches.

    Raises:
        StyleMatteError: The error of a sample.
    """
    with deferred_interrupts():
        batches = iter(loader)  # starts the workers
    for batch in batches:
        if isinstance(batch, StyleMatteError):
            raise batch
        yield batch


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Handle Ctrl-C only after the block; processes started in it never see Ctrl-C.

    A process that is interrupted while it starts, or whose parent is, prints a traceback. Worker processes
    end with their parent.
    """
    if threading.current_thread() is not threading.main_thread():  # has no say in signals
        yield
        return
    interrupts: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *arguments: interrupts.append(arguments))
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    if can_block:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by new processes
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if interrupts and callable(before):
            before(*interrupts[0])
