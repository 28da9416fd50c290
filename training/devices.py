"""The device of torch that `--device` means, and what a run takes of the machine."""

import sys
from typing import TYPE_CHECKING

import torch

from stylematte.engines.base import usable_cores
from stylematte.errors import MissingError
from training.processes import choose_threads, describe

if TYPE_CHECKING:
    from accelerate import Accelerator


def usable_device(device: str) -> str:
    """Name a device that is here; `auto` and `cuda` are the first card, `auto` the CPU where there is none.

    Raises:
        MissingError: There is no such device.
    """
    there_are = {"cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))}
    if device in ("auto", "cuda"):
        device = "cuda:0" if device == "cuda" or len(there_are) > 1 else "cpu"
    if device not in there_are:
        raise MissingError(f"--device {device}: torch has no such device here", "Use --device cpu")
    return device


def set_up_threads(device: str) -> None:
    """Choose how many threads a run has, before the first of them starts."""
    choose_threads(device, usable_cores())


def say_where(processes: "Accelerator", precision: str, workers: int) -> None:
    """Say on stderr what a run takes of the machine."""
    print(f"stylematte: {describe(processes, precision, workers)}", file=sys.stderr)
