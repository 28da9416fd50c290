"""Data loaders whose processes hand over errors as they are."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from stylematte.errors import StyleMatteError


class Guarded(Dataset[Any]):
    """A data set that returns the error of a sample in its place.

    An error raised in a process of a `DataLoader` arrives as another one, with a traceback in its message.
    """

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, key: Any) -> Any:
        """A sample, or the error it met."""
        try:
            return self.samples[key]
        except StyleMatteError as error:
            return error


def collate(samples: list[Any]) -> Any:
    """Stack samples to a batch; the first error among them is the batch."""
    return next((s for s in samples if isinstance(s, StyleMatteError)), None) or default_collate(samples)


def open_loader(
    samples: Dataset[Any], batches: Sampler[list[Any]], workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """Open a loader; read it with `read_batches`."""
    return DataLoader(
        Guarded(samples),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        # A forked child would inherit the thread pools of OpenCV and torch without their threads, and hang.
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin_memory,
    )


def read_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield batches.

    Raises:
        StyleMatteError: As it was raised for a sample.
    """
    for batch in loader:
        if isinstance(batch, StyleMatteError):
            raise batch
        yield batch
