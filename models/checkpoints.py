"""Weights on disk: safetensors, with the preset in the metadata: its name, and what was changed of it."""

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
from models.encoders import PRIOR, MobileNet, build_encoder, from_signed_range, load_folded
from models.presets import PRESETS, Preset, preset_of
from models.stylematte import MEAN, STD, StyleMatte, build_model
from stylematte.errors import InputError
from stylematte.files import writing

GENERATOR = "stylegan3"  # what a generator's file says of itself


class CheckpointError(InputError):
    """Weights that cannot be loaded; the message names the file and what is wrong with it."""


def save_weights(model: StyleMatte, path: Path, provenance: dict | None = None, half: bool = False) -> None:
    """Write a network's weights, whole or not at all; the same weights make the same file, byte for byte.

    Args:
        model: Network whose state dict is written, float32.
        path: Target, `.safetensors`.
        provenance: What made the weights; kept as JSON in the metadata.
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
    """Write a safetensors file, whole or not at all; the same content makes the same file, byte for byte."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(path) as temporary:
        temporary.write_bytes(_sorted_header(save(plain, metadata=metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], dict]:
    """Read a safetensors file: its tensors, its metadata, and the provenance that is part of it.

    Raises:
        CheckpointError: It is damaged, or no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata, json.loads(metadata.get("provenance", "{}"))
    except Exception as error:  # the library has no exception of its own for a damaged file
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def changed_fields(preset: Preset) -> dict[str, Any]:
    """What differs from the preset of the same name; empty for those in `models.presets.PRESETS`."""
    plain = dataclasses.asdict(PRESETS[preset.name])
    return {key: value for key, value in dataclasses.asdict(preset).items() if value != plain[key]}


def _sorted_header(file: bytes) -> bytes:
    """Sort a safetensors file's header: the library writes the metadata in another order every time."""
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of 8
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def load_weights(path: Path) -> tuple[StyleMatte, dict]:
    """Build the network a file belongs to and fill it.

    Returns:
        The network in evaluation mode, and the provenance written with it.

    Raises:
        CheckpointError: Not a safetensors file of ours, an unknown preset, or tensors that do not fit.
    """
    tensors, metadata, provenance = read_tensors(path)
    return _network_of(path, tensors, metadata), provenance


def _network_of(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> StyleMatte:
    if metadata.get("network") == GENERATOR:
        raise CheckpointError(f"{path}: draws pictures, and mattes none; `stylematte synth` takes it")
    try:
        preset = preset_of(metadata)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        model = build_model(preset)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: a network that this version cannot build: {error}") from None
    fill(model, without_prior(model) | tensors, str(path))
    return model.eval()


def without_prior(model: StyleMatte) -> dict[str, Tensor]:
    """What weights that know no prior lack, by name: zeros, with which the function is theirs."""
    name = f"encoder.{PRIOR}"
    return {name: torch.zeros_like(model.state_dict()[name])} if model.preset.prior else {}


def fill(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load a state dict strictly.

    Raises:
        CheckpointError: A tensor is missing, unknown, or of another shape; the message names the first.
    """
    check(tensors, model.state_dict(), where)
    model.load_state_dict(tensors)


def check(tensors: dict[str, Tensor], wanted: dict[str, Tensor], where: str) -> None:
    """Compare names and shapes.

    Args:
        tensors: What a file holds.
        wanted: What it should hold; values do not matter.
        where: Names the file in messages.

    Raises:
        CheckpointError: A tensor is missing, unknown, or of another shape; the message names the first.
    """
    if missing := [name for name in wanted if name not in tensors]:
        raise CheckpointError(f"{where}: {len(missing)} tensors are missing, first {missing[0]}")
    if unknown := [name for name in tensors if name not in wanted]:
        raise CheckpointError(f"{where}: {len(unknown)} tensors are unknown, first {unknown[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(tensor.shape)}, the network wants {tuple(wanted[name].shape)}"
            )


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read a file of `torch.save` that holds tensors by name; nothing in it is run.

    Raises:
        CheckpointError: It is damaged, a bomb, or holds something else; the message names the first thing.
    """
    with path.open("rb") as file:
        try:
            check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except InputError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except OSError:
            raise
        except Exception as error:  # torch raises many kinds for a damaged or refused file
            raise CheckpointError(f"{path}: damaged, or not a file of plain tensors") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not tensors by name, but {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is no tensor, but {type(value).__name__}")
    return content


def load_encoder(path: Path, folded_name: str = "mobilenet_v2") -> tuple[Encoder, str]:
    """Read the encoder of trained weights, or MobileNetV2 as ImageNet left it; to look with, not to train.

    Args:
        path: Weights of ours; or safetensors of a MobileNetV2 with batch norms folded, for RGB in [-1, 1].
        folded_name: Encoder that folded weights are of.

    Returns:
        In evaluation mode, for RGB normalised by `models.stylematte.MEAN` and `STD`; and what to call it.

    Raises:
        CheckpointError: It cannot be read, or is of another network.
    """
    folded, metadata, _ = read_tensors(path)
    if "stem.weight" not in folded:  # a network of ours
        return _network_of(path, folded, metadata).encoder, f"encoder of {path.stem}"
    encoder = build_encoder(folded_name)
    assert isinstance(encoder, MobileNet)
    # What the norms measure they undo: any pictures give the same function, these always the same numbers.
    noise = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    try:
        load_folded(encoder, from_signed_range(folded, MEAN, STD), noise)
    except (KeyError, RuntimeError) as error:  # torch has no narrower one for kernels of other shapes
        raise CheckpointError(f"{path}: not a MobileNetV2 with batch norms folded: {error}") from None
    return encoder.eval(), "mobilenet"
