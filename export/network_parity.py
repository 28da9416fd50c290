"""Parity of the float32 file with the torch network."""

from typing import Any

import onnx
import torch
from torch import nn

from export.contract import Float
from export.divergence import LayerOutputs, first_divergence, layer_outputs
from export.parity import LIMITS, Parity, cases_of, compare, run_onnx, with_prior
from models.stylematte import StyleMatte


def check_parity(model: StyleMatte, exported: onnx.ModelProto, photos: dict[str, Float]) -> Parity:
    """Run the network and its float32 file side by side.

    Args:
        model: Network in evaluation mode, on the CPU.
        exported: Result of `export.onnx.export_onnx`.
        photos: (3, H, W) float32 RGB in [0, 1] by name; noise and a batch of two are added.

    Raises:
        ParityError: A difference exceeds `LIMITS`, or a value is not finite.
    """

    @torch.inference_mode()
    def network(*case: Float) -> Float:
        return model(*map(torch.from_numpy, case)).alpha.numpy()

    def where(image: Float, guide: Float, prior: Float | None = None) -> str:
        modules = module_outputs(model, image, prior)
        return first_divergence(modules, layer_outputs(exported, image, modules, prior))

    cases = cases_of(photos, model.preset.working_size, model.preset.stride)
    if model.preset.prior:
        cases |= with_prior(cases, network)
    return compare(cases, network, run_onnx(exported), LIMITS["fp32"], "torch", where)


def module_outputs(model: StyleMatte, image: Float, prior: Float | None = None) -> LayerOutputs:
    """Return the outputs of all modules that contain modules, in order, by their names in `export.names`.

    A leaf module may be fused with the next one, so its own output may not be in the file.

    Args:
        model: Network in evaluation mode, on the CPU.
        image: (N, 3, h, w) float32 RGB in [0, 1].
        prior: (N, 1, h, w), if the network takes one.
    """
    outputs: LayerOutputs = {}
    hooks = []
    for name, module in model.named_modules():
        if name and any(module.children()):
            hooks.append(module.register_forward_hook(_recorder(outputs, name)))
    try:
        with torch.inference_mode():
            coarse = model.coarse(*(torch.from_numpy(x) for x in (image, prior) if x is not None))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs | {"coarse_logits": coarse.logits.numpy(), "coarse_guide": coarse.guide.numpy()}


def _recorder(outputs: LayerOutputs, name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs[name] = output.detach().numpy()

    return record
