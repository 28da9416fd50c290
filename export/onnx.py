"""Export weights to one ONNX file that follows the model contract (docs/model-contract.md)."""

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.branches import run_only_if_given
from export.contract import CONTRACT_VERSION
from export.functions import DOMAIN, OPSET, fgf_apply, fgf_coefficients, opset_imports, plain
from export.names import name_after_modules
from export.traceable import traceable
from models.stylematte import MEAN, STD, StyleMatte
from stylematte.errors import EngineError
from stylematte.files import writing


@dataclass(frozen=True)
class Origin:
    """Where a model file comes from, for its metadata.

    Attributes:
        weights_sha256: Hash of the safetensors file.
        tool_version: Version of this program.
        licence: Licence of the weights, an SPDX name.
        provenance: Data sets, stages and steps, as recorded in training.
    """

    weights_sha256: str
    tool_version: str
    licence: str
    provenance: dict[str, Any]


class _Coarse(nn.Module):
    """The part of the network that runs at working size; the fast guided filter is added by hand."""

    def __init__(self, model: StyleMatte) -> None:
        super().__init__()
        self.model = model
        by_hand = model.preset.upsampler == "fast_gf"
        self.outputs = ["coarse_guide", "coarse_logits"] if by_hand else ["coefficients"]
        self.inputs = ["image", "prior"] if model.preset.prior else ["image"]

    def forward(self, image: Tensor, prior: Tensor | None = None) -> tuple[Tensor, ...]:
        coarse = self.model.coarse(image, prior)
        if "coefficients" in self.outputs:
            return (self.model.coefficients(coarse),)
        return coarse.guide, coarse.logits


def export_onnx(model: StyleMatte, origin: Origin) -> onnx.ModelProto:
    """Convert a network to a plain ONNX model with dynamic batch size, working size and full size.

    Args:
        model: Network in evaluation mode, on the CPU.
        origin: Origin of the weights, for the metadata; the preset's fields are added.

    Returns:
        A model that passes `onnx.checker`; for the parity check see `export.parity`.

    Raises:
        EngineError: The network cannot be traced, or the result is not a valid model.
    """
    exported = _trace(model)
    graph = exported.graph
    name_after_modules(graph, keep={"coarse_logits", "coarse_guide", "coefficients"})
    if model.preset.prior:
        run_only_if_given(graph, "prior", "selection")
    grey_weights = np.array([1 / (3 * s) for s in STD], np.float32).reshape(1, 3, 1, 1)
    grey_offset = -np.mean([m / s for m, s in zip(MEAN, STD, strict=True)])
    graph.initializer.extend(
        [
            numpy_helper.from_array(grey_weights, "grey_weights"),
            numpy_helper.from_array(np.array([grey_offset], np.float32), "grey_offset"),
        ]
    )
    node = helper.make_node
    functions = [fgf_apply()]
    preset = model.preset
    if preset.upsampler == "fast_gf":
        fit = fgf_coefficients(preset.radius_px, preset.eps, preset.averaged)
        functions.insert(0, fit)
        inputs = ["coarse_guide", "coarse_logits"]
        graph.node.append(node(fit.name, inputs, ["coefficients"], name=fit.name, domain=DOMAIN))
    graph.node.extend(
        [
            node("Conv", ["guide", "grey_weights", "grey_offset"], ["fine_guide"], name="grey"),
            node("fgf_apply", ["coefficients", "fine_guide"], ["alpha"], name="fgf_apply", domain=DOMAIN),
        ]
    )
    del graph.input[:], graph.output[:]
    tensor = helper.make_tensor_value_info
    graph.input.extend(
        [
            tensor("image", TensorProto.FLOAT, ["n", 3, "h", "w"]),
            tensor("guide", TensorProto.FLOAT, ["n", 3, "H", "W"]),
        ]
    )
    if preset.prior:
        graph.input.append(tensor("prior", TensorProto.FLOAT, ["n", 1, "h", "w"]))
    graph.output.extend(
        [
            tensor("alpha", TensorProto.FLOAT, ["n", 1, "H", "W"]),
            tensor("coefficients", TensorProto.FLOAT, ["n", 2, "gh", "gw"]),
        ]
    )
    graph.name = f"stylematte_{preset.name}"
    result = helper.make_model(
        graph,
        functions=functions,
        opset_imports=opset_imports(),
        ir_version=9,
        producer_name="stylematte",
        producer_version=origin.tool_version,
    )
    helper.set_model_props(result, metadata(model, origin))
    result = plain(result)
    try:
        onnx.checker.check_model(result, full_check=True)
    except onnx.checker.ValidationError as error:
        raise EngineError(f"the exported model is not valid ONNX: {error}") from None
    return result


def metadata(model: StyleMatte, origin: Origin) -> dict[str, str]:
    """Return the contract's metadata as strings."""
    preset = model.preset
    values = {
        "contract": CONTRACT_VERSION,
        "preset": preset.name,
        "working_size": str(preset.working_size),
        "stride": str(preset.stride),
        "good_sizes": f"{preset.least_size},{preset.most_size}" if preset.most_size else "",
        "fit": "keep",
        "mean": ",".join(map(str, MEAN)),
        "std": ",".join(map(str, STD)),
        "upsampler": preset.upsampler,
        "radius_px": str(preset.radius_px),
        "eps": repr(preset.eps),
        "weights_sha256": origin.weights_sha256,
        "tool_version": origin.tool_version,
        "licence": origin.licence,
        "provenance": json.dumps(origin.provenance),
        "refiner": "",
        "refiner_sha256": "",
        "precision": "fp32",
        "parity": "{}",
    }
    return {f"stylematte.{key}": value for key, value in values.items()}


def _trace(model: StyleMatte) -> onnx.ModelProto:
    stride = model.preset.stride
    rows, columns = torch.export.Dim("rows", min=1, max=256), torch.export.Dim("columns", min=1, max=256)
    sizes = {0: torch.export.Dim("n", min=1, max=256), 2: stride * rows, 3: stride * columns}
    # Use several attention windows in both directions at every level: with only one window, the trace would
    # assume that there is never another.
    coarse = _Coarse(model)
    channels = {"image": 3, "prior": 1}
    examples = tuple(torch.rand(2, channels[name], 10 * stride, 12 * stride) for name in coarse.inputs)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), traceable(model):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                coarse,
                examples,
                input_names=coarse.inputs,
                output_names=coarse.outputs,
                dynamic_shapes=dict.fromkeys(coarse.inputs, sizes),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch documents no exception types here
        raise EngineError(f"torch cannot export this network: {error}") from error
    assert program is not None  # only the exporter before dynamo returns None
    return program.model_proto


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model file atomically."""
    with writing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
