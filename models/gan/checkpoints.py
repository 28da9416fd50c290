"""Generators on disk: safetensors, with the configuration and what made them in the metadata."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save

from models.checkpoints import CheckpointError, _sorted_header, fill
from models.gan.generator import Generator, GeneratorConfig


def save_generator(generator: Generator, path: Path, provenance: dict[str, Any]) -> None:
    """Write a generator, whole or not at all; the same weights make the same file, byte for byte."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    metadata = {
        "network": "stylegan3",
        "config": json.dumps(dataclasses.asdict(generator.config)),
        "provenance": json.dumps(provenance),
    }
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(_sorted_header(save(tensors, metadata=metadata)))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_generator(path: Path) -> tuple[Generator, dict[str, Any]]:
    """Build the generator a file holds, in evaluation mode, and read what made it.

    Raises:
        CheckpointError: Not a file of `save_generator`, or one that this version cannot build.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
        config = GeneratorConfig(**json.loads(metadata["config"]))
    except Exception as error:  # the library has no exception of its own for a damaged file
        raise CheckpointError(f"{path}: not a readable generator: {error}") from None
    generator = Generator(config)
    fill(generator, tensors, str(path))
    return generator.eval(), json.loads(metadata.get("provenance", "{}"))
