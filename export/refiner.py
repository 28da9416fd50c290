"""A refiner's weights become the ONNX file that lies beside a model file (docs/model-contract.md)."""

import json
import logging
import warnings

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from export.functions import OPSET
from export.onnx import ExportError, Origin
from models.refiner import Refiner

CONTRACT_VERSION = "1"
TILES = 4  # in one pass


class _Named(nn.Module):
    """Gives inputs and output the contract's names."""

    def __init__(self, model: Refiner) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, coarse: Tensor) -> Tensor:
        return self.model(image, coarse)


def export_refiner(model: Refiner, origin: Origin, tiles: int = TILES) -> onnx.ModelProto:
    """Write a refiner as a plain ONNX model of one static shape.

    Args:
        model: In evaluation mode, on the CPU.
        origin: Goes into the metadata.
        tiles: In one pass.

    Returns:
        A model that passes `onnx.checker`.

    Raises:
        ExportError: The network cannot be traced, or the result is no valid model.
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
    except Exception as error:  # torch raises many kinds here, none of them documented
        raise ExportError(f"torch cannot export this refiner: {error}") from error
    assert program is not None  # None comes only with the exporter that dynamo replaces
    result = program.model_proto
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
        raise ExportError(f"the exported refiner is not valid ONNX: {error}") from None
    return result
