"""Weights on disk: safetensors with the preset's name, and any changes to it, in the metadata."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models.archives import check_archive
from models.encoder import Encoder
from models.encoders import MobileNet, build_encoder, from_signed_range, load_folded
from models.presets import PRESETS, Preset, preset_of
from models.stylematte import MEAN, STD, StyleMatte, build_model
from stylematte.errors import InputError
from stylematte.files import writing
from stylematte.weights import GENERATOR


class CheckpointError(InputError):
    """Weights that cannot be loaded; the message names the file and what is wrong with it."""


def save_weights(model: StyleMatte, path: Path, provenance: dict | None = None, half: bool = False) -> None:
    """Write a network's weights atomically; the same weights give the same file, byte for byte.

    Args:
        model: Network whose state dict is written, float32.
        path: Target, `.safetensors`.
        provenance: How the weights were made; stored as JSON in the metadata.
        half: Write convolution kernels as float16, which halves the file; norms stay float32.
    """
    tensors = model.state_dict()
    if half:
        tensors = {name: tensor.half() if tensor.ndim == 4 else tensor for name, tensor in tensors.items()}
    metadata = {"preset": model.preset.name, "provenance": json.dumps(provenance or {})}
    if changes := changed_fields(model.preset):
        metadata["network"] = json.dumps(changes)
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; the same content gives the same file, byte for byte."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(path) as temporary:
        temporary.write_bytes(_sorted_header(save(plain, metadata=metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], dict]:
    """Read a safetensors file: its tensors, its metadata, and the provenance parsed from the metadata.

    Raises:
        CheckpointError: The file is damaged or missing.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata, json.loads(metadata.get("provenance", "{}"))
    except Exception as error:  # safetensors raises no specific exception for a damaged file
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def changed_fields(preset: Preset) -> dict[str, Any]:
    """Return the fields that differ from the preset of the same name in `models.presets.PRESETS`."""
    plain = dataclasses.asdict(PRESETS[preset.name])
    return {key: value for key, value in dataclasses.asdict(preset).items() if value != plain[key]}


def _sorted_header(file: bytes) -> bytes:
    """Sort a safetensors file's header: the library writes the metadata in a different order every time."""
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensor data starts at a multiple of 8
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def load_weights(path: Path) -> tuple[StyleMatte, dict]:
    """Build the network that a file describes and load its weights.

    Returns:
        The network in evaluation mode, and the provenance written with it.

    Raises:
        CheckpointError: Not a safetensors file of ours, an unknown preset, or tensors that do not fit.
    """
    tensors, metadata, provenance = read_tensors(path)
    return _network_of(path, tensors, metadata), provenance


def _network_of(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> StyleMatte:
    if metadata.get("network") == GENERATOR:
        raise CheckpointError(
            f"{path}: this is a generator, not a matting network; use it with `stylematte synth`"
        )
    try:
        preset = preset_of(metadata)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        model = build_model(preset)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: this version cannot build the network: {error}") from None
    fill(model, with_selection(model, tensors), str(path))
    return model.eval()


def with_selection(model: StyleMatte, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add an untrained selection, which ignores priors, to weights without one, so that they load.

    Weights of 0.1 may instead have an earlier selection, or a kernel in the stem for the prior, which had no
    effect.
    """
    earlier = ["encoder.stem.conv.prior"]
    if "selection.gate.weight" in tensors:
        earlier += [name for name in tensors if name.startswith("selection.")]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in earlier}
    if model.selection is None or any(name.startswith("selection.") for name in tensors):
        return tensors
    return {f"selection.{name}": tensor for name, tensor in model.selection.state_dict().items()} | tensors


def fill(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load a state dict strictly.

    Raises:
        CheckpointError: A tensor is missing, unknown, or of another shape; the message names the first.
    """
    check(tensors, model.state_dict(), where)
    model.load_state_dict(tensors)


def check(tensors: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Compare names and shapes.

    Args:
        tensors: What a file holds.
        expected: What it should hold; the values do not matter.
        where: Name of the file, for messages.

    Raises:
        CheckpointError: A tensor is missing, unknown, or of another shape; the message names the first.
    """
    if missing := [name for name in expected if name not in tensors]:
        raise CheckpointError(f"{where}: {len(missing)} tensors are missing, first {missing[0]}")
    if unknown := [name for name in tensors if name not in expected]:
        raise CheckpointError(f"{where}: {len(unknown)} tensors are unknown, first {unknown[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(tensor.shape)}, the network expects {tuple(expected[name].shape)}"
            )


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Read a `torch.save` file that holds named tensors, without running any code in it.

    Raises:
        CheckpointError: The file is damaged, a zip bomb, or holds anything else, which the message names.
    """
    with path.open("rb") as file:
        try:
            check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except InputError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except OSError:
            raise
        except Exception as error:  # torch raises many types for a damaged or rejected file
            raise CheckpointError(f"{path}: damaged, or not a file of plain tensors") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor")
    return content


def load_encoder(path: Path, folded_name: str = "mobilenet_v2") -> tuple[Encoder, str]:
    """Load a frozen feature extractor: the encoder of trained weights, or a MobileNetV2 from ImageNet.

    Args:
        path: Weights of this project; or safetensors of a MobileNetV2 with folded batch norms, for RGB in
            [-1, 1].
        folded_name: Encoder that the folded weights belong to.

    Returns:
        The encoder in evaluation mode, for RGB normalised by `models.stylematte.MEAN` and `STD`; its name.

    Raises:
        CheckpointError: The file cannot be read, or belongs to another network.
    """
    folded, metadata, _ = read_tensors(path)
    if "stem.weight" not in folded:  # weights of this project
        return _network_of(path, folded, metadata).encoder, f"encoder of {path.stem}"
    encoder = build_encoder(folded_name)
    assert isinstance(encoder, MobileNet)
    # Each norm undoes the statistics it measures, so any images give the same function; fixed noise also
    # gives the same numbers every time.
    noise = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    try:
        load_folded(encoder, from_signed_range(folded, MEAN, STD), noise)
    except (KeyError, RuntimeError) as error:  # torch raises RuntimeError for a wrong kernel shape
        raise CheckpointError(f"{path}: not a MobileNetV2 with folded batch norms: {error}") from None
    return encoder.eval(), "mobilenet"
