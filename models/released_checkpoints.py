"""The network as its authors published it: their checkpoints, and their padding.

Reference:
    Chicherin, Efremyan, "Adversarially-Guided Portrait Matting", arXiv 2305.02981, 2023, and the code and
    weights published with it: `stylematte_pure.pth`, `stylematte_synth.pth`.
"""

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.checkpoints import CheckpointError, check, read_torch_file
from models.stylematte import StyleMatte, build_model
from models.swin import checkpoint_key


def matte_published(model: StyleMatte, image: Tensor) -> Tensor:
    """Matte photos at full size: the network's input and the guide are both the photo itself.

    If either side is not a multiple of 8, both are mirror-padded at the top and left by 8 − (side mod 8). A
    side that is already a multiple of 8 then gets 8 more pixels.

    Args:
        model: Network in evaluation mode; `official` gives the published alpha. Encoders that need larger
            multiples, such as MobileNetV2, are padded to those.
        image: (B, 3, H, W) float32 RGB in [0, 1], each side longer than its padding.

    Returns:
        (B, 1, H, W) float32 opacity in [0, 1].
    """
    height, width = image.shape[-2:]
    step = max(8, model.encoder.multiple)
    if height % step or width % step:
        image = F.pad(image, (step - width % step, 0, step - height % step, 0), mode="reflect")
    return model(image, image).alpha[..., -height:, -width:]


def load_published(path: Path, preset: str = "official") -> StyleMatte:
    """Build the network and load a released checkpoint.

    Args:
        path: A `.pth` file: a bare state dict, with the tensor names of transformers 4.26.
        preset: A network with a Swin version 1 encoder; presets other than `official` are for tests.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: Not a file of plain tensors; or a tensor, which the message names, is missing,
            unknown or not what the network expects.
    """
    model = build_model(preset)
    tensors = read_torch_file(path)
    own = model.state_dict()
    names = {ours: _published_names(ours) for ours in own}
    expected = {theirs: own[ours] for ours, all_theirs in names.items() for theirs in all_theirs}
    tables = {_published_names(ours)[0]: table for ours, table in _position_tables(model).items()}
    check(tensors, expected | tables, str(path))
    for theirs, table in tables.items():
        if not torch.equal(tensors[theirs], table):
            raise CheckpointError(f"{path}: {theirs} is not the position table for this window size")
    for first, *others in names.values():
        for other in others:
            if not torch.equal(tensors[first], tensors[other]):
                raise CheckpointError(f"{path}: {other} and {first} differ, but the network has one")
    model.load_state_dict({ours: tensors[first] for ours, (first, *_) in names.items()})
    return model.eval()


def _published_names(name: str) -> list[str]:
    """Return a tensor's names in the released files, which repeat the shared convolution three times."""
    backbone, laterals, smooth, fuse, head = (
        "encoder.backbone.",
        "fpn.laterals.",
        "fpn.smooth.",
        "fpn.fuse.",
        "head.",
    )
    if name.startswith(backbone):
        return ["pixel_decoder.encoder." + checkpoint_key(name.removeprefix(backbone))]
    if name.startswith(smooth):
        return [f"fpn.smooth_conv.{step}.{name.removeprefix(smooth)}" for step in range(3)]
    for ours, theirs in ((laterals, "fpn.conv1x1."), (fuse, "fpn.conv_fusion."), (head, "conv.")):
        if name.startswith(ours):
            return [theirs + name.removeprefix(ours)]
    return [name]


def _position_tables(model: StyleMatte) -> dict[str, Tensor]:
    """Return the (n², n²) tables of relative positions by name: stored in files, computed by the network."""
    tables = {}
    for name, table in model.named_buffers():
        if name.endswith("relative_position_index"):
            tokens = math.isqrt(table.numel())
            tables[name] = table.view(tokens, tokens)
    return tables
