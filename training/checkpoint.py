"""What a run resumes or starts from: its own state in one file, or trained weights."""

import os
from pathlib import Path
from typing import Any

import torch

from models.archives import check_archive
from models.checkpoints import CheckpointError, load_weights
from models.presets import Preset
from models.stylematte import StyleMatte
from stylematte.errors import EngineError, InputError
from stylematte.files import writing


class TrainingError(EngineError):
    """A run cannot continue; the message says why."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state atomically: the old state stays until the new one is completely on disk."""
    with writing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def load_state(path: Path) -> dict[str, Any]:
    """Read a run's state: only tensors and plain containers, so that a file cannot run code.

    Raises:
        InputError: The file is damaged, or contains anything else.
    """
    try:
        with path.open("rb") as file:
            check_archive(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise InputError(f"{path}: not a readable training state") from error


def load_start(path: Path, preset: Preset) -> StyleMatte:
    """Load trained weights to start from.

    Raises:
        CheckpointError: The weights cannot be read, or belong to another network.
    """
    model, _ = load_weights(path)
    if model.preset != preset:
        raise CheckpointError(
            f"{path}: weights of preset {model.preset.name}, but the recipe trains {preset.name}"
            + (" with other changes" if model.preset.name == preset.name else "")
        )
    return model
