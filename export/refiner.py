"""Export a refiner's weights to the ONNX file beside a model file (docs/model-contract.md)."""

import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from export.functions import OPSET
from export.names import name_after_modules
from export.onnx import Origin, save_onnx
from export.parity import ParityError
from export.precision import set_metadata
from models.refiner import Refiner, load_refiner
from stylematte.errors import EngineError
from stylematte.files import sha256_of

CONTRACT_VERSION = "1"
TILES = 4  # batch size
MAX_DIFFERENCE = 1e-4  # of alpha from torch


class _Named(nn.Module):
    """Names the inputs and the output as in the contract."""

    def __init__(self, model: Refiner) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, coarse: Tensor) -> Tensor:
        return self.model(image, coarse)


def export_refiner(model: Refiner, origin: Origin, tiles: int = TILES) -> onnx.ModelProto:
    """Convert a refiner to a plain ONNX model with static shapes.

    Args:
        model: Refiner in evaluation mode, on the CPU.
        origin: Origin of the weights, for the metadata.
        tiles: Batch size.

    Returns:
        A model that passes `onnx.checker`.

    Raises:
        EngineError: The network cannot be traced, or the result is not a valid model.
        ParityError: The file's output differs from the network's.
    """
    side = model.shape.tile_px
    examples = (torch.rand(tiles, 3, side, side), torch.rand(tiles, 1, side, side))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Named(model),
                examples,
                input_names=["image", "coarse"],
                output_names=["alpha"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch documents no exception types here
        raise EngineError(f"torch cannot export this refiner: {error}") from error
    assert program is not None  # only the exporter before dynamo returns None
    result = program.model_proto
    name_after_modules(result.graph, keep={"alpha"})
    result.producer_name, result.producer_version = "stylematte", origin.tool_version
    values = {
        "refiner_contract": CONTRACT_VERSION,
        "refiner": model.shape.name,
        "weights_sha256": origin.weights_sha256,
        "tool_version": origin.tool_version,
        "licence": origin.licence,
        "provenance": json.dumps(origin.provenance),
    }
    helper.set_model_props(result, {f"stylematte.{key}": value for key, value in values.items()})
    try:
        onnx.checker.check_model(result, full_check=True)
    except onnx.checker.ValidationError as error:
        raise EngineError(f"the exported refiner is not valid ONNX: {error}") from None
    _check_parity(model, result)
    return result


def save_beside(model: onnx.ModelProto, refiner: Path, path: Path, origin: Origin) -> Path:
    """Export a refiner to a model file's folder, and name it in the model's metadata.

    Args:
        model: The model; its metadata is changed.
        refiner: The refiner's weights.
        path: Path of the refiner's file, in the folder of the model file.
        origin: Origin of the refiner; its provenance is only used if the weights have none.

    Returns:
        Path of the refiner's file.

    Raises:
        CheckpointError: Not the weights of a refiner.
        EngineError: The refiner cannot be exported.
        ParityError: The file's output differs from the network's.
    """
    network, provenance = load_refiner(refiner)
    origin = replace(origin, provenance=provenance or origin.provenance)
    save_onnx(export_refiner(network, origin), path)
    set_metadata(model, "refiner", path.name)
    set_metadata(model, "refiner_sha256", sha256_of(path))
    return path


def _check_parity(model: Refiner, exported: onnx.ModelProto) -> None:
    """Compare the file with torch on multi-scale noise with alphas from clear to opaque.

    Raises:
        ParityError: The outputs differ by more than `MAX_DIFFERENCE`.
    """
    import onnxruntime

    shape = [d.dim_value for d in exported.graph.input[0].type.tensor_type.shape.dim]
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand(shape[0], 4, cells, cells, generator=generator) for cells in (3, 20, shape[2])]
    scales = torch.stack([F.interpolate(n, shape[2:], mode="bilinear") for n in noise])
    image, coarse = (scales.sum(0) * 1.4 - 1.6).clamp(0, 1).split([3, 1], dim=1)
    with torch.inference_mode():
        expected = model(image, coarse).numpy()
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["alpha"], {"image": image.numpy(), "coarse": coarse.numpy()})
    worst = float(np.abs(found - expected).max())
    if not worst <= MAX_DIFFERENCE:  # also true for NaN
        raise ParityError(f"the exported refiner differs from torch by {worst:.1e}")
