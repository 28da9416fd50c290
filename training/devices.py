"""The torch device for `--device`, and the threads of a run."""

import sys
from typing import TYPE_CHECKING

import torch

from stylematte.engines.base import usable_cores
from stylematte.errors import MissingError
from training.processes import choose_threads, describe

if TYPE_CHECKING:
    from accelerate import Accelerator


def usable_device(device: str) -> str:
    """Resolve a device name: `cuda` is the first GPU; `auto` is the first GPU, or the CPU if there is none.

    Raises:
        MissingError: The device is not available.
    """
    available = {"cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))}
    if device in ("auto", "cuda"):
        device = "cuda:0" if device == "cuda" or len(available) > 1 else "cpu"
    if device not in available:
        raise MissingError(f"--device {device}: torch does not find this device", "Use --device cpu")
    return device


def set_up_threads(device: str) -> None:
    """Set the number of threads, before the first thread starts."""
    choose_threads(device, usable_cores())


def say_where(processes: "Accelerator", precision: str, workers: int) -> None:
    """Print on stderr which devices, precision and workers a run uses."""
    print(f"stylematte: {describe(processes, precision, workers)}", file=sys.stderr)
