"""Generators on disk: safetensors, with configuration and provenance in the metadata."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from models.checkpoints import CheckpointError, fill, read_tensors, write_tensors
from models.gan.generator import Generator, GeneratorConfig
from stylematte.errors import InputError
from stylematte.weights import GENERATOR


def save_generator(generator: Generator, path: Path, provenance: dict[str, Any], half: bool = False) -> None:
    """Write a generator atomically; the same weights give the same file, byte for byte.

    Args:
        generator: Network whose state dict is written, float32.
        path: Target, `.safetensors`.
        provenance: How the weights were made; stored as JSON in the metadata.
        half: Write parameters as float16, which halves the file; running means and filters stay float32.
    """
    metadata = {
        "network": GENERATOR,
        "config": json.dumps(dataclasses.asdict(generator.config)),
        "provenance": json.dumps(provenance),
    }
    learnt = {name for name, _ in generator.named_parameters()} if half else set()
    tensors = generator.state_dict()
    write_tensors(path, {n: t.half() if n in learnt else t for n, t in tensors.items()}, metadata)


def load_generator(path: Path) -> tuple[Generator, dict[str, Any]]:
    """Build the generator that a file describes and load its weights.

    Returns:
        The network in evaluation mode, and the provenance written with it.

    Raises:
        CheckpointError: Not a safetensors file, not a generator, one that this version cannot build, or
            tensors that do not fit.
    """
    tensors, metadata, provenance = read_tensors(path)
    if metadata.get("network") != GENERATOR:
        preset = metadata.get("preset")
        what = f"a matting network, {preset}" if preset else "weights of another tool"
        raise CheckpointError(f"{path}: this is not a generator, but {what}")
    try:
        generator = Generator(GeneratorConfig(**json.loads(metadata.get("config", "{}"))))
    except (TypeError, ValueError, ArithmeticError, RuntimeError, InputError) as error:
        raise CheckpointError(f"{path}: this version cannot build the generator: {error}") from None
    fill(generator, tensors, str(path))
    return generator.eval(), provenance
