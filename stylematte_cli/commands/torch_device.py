"""The device of torch that `--device` means; not in `toolkit`, which the runtime's commands import too."""

import torch

from stylematte_cli.errors import MissingError


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
