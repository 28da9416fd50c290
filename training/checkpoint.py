"""Everything a run needs to go on as if it had never stopped, in one file."""

import os
from pathlib import Path
from typing import Any

import torch


class StateError(ValueError):
    """A run's state that cannot be read; the message names the file."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state; the old one stays until the new one is whole on disk."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Any]:
    """Read a run's state; tensors and plain containers only, so that a file cannot run code.

    Raises:
        StateError: The file is damaged, or holds something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for one damaged file
        raise StateError(f"{path}: not a readable state of a run ({type(error).__name__})") from error
