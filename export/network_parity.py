"""Does the float32 file say what the network in torch says?"""

from typing import Any

import onnx
import torch
from torch import nn

from export.contract import Float
from export.divergence import Taps, first_divergence, tapped
from export.parity import LIMITS, Parity, again_with_prior, cases_of, compare, run_onnx
from models.stylematte import StyleMatte


def check_parity(model: StyleMatte, exported: onnx.ModelProto, photos: dict[str, Float]) -> Parity:
    """Run the network and its float32 file side by side.

    Args:
        model: Network in evaluation mode, on the CPU.
        exported: What `export.onnx.export_onnx` made of it.
        photos: (3, H, W) float32 RGB in [0, 1] by name; noise is added, and a batch of two.

    Raises:
        ParityError: A difference above `LIMITS`, or a value that is no number.
    """

    @torch.inference_mode()
    def network(*case: Float) -> Float:
        return model(*map(torch.from_numpy, case)).alpha.numpy()

    def where(image: Float, guide: Float, prior: Float | None = None) -> str:
        modules = taps_of_network(model, image, prior)
        return first_divergence(modules, tapped(exported, image, modules, prior))

    cases = cases_of(photos, model.preset.working_size, model.preset.stride)
    if model.preset.prior:
        cases |= again_with_prior(cases, network)
    return compare(cases, network, run_onnx(exported), LIMITS["fp32"], "torch", where)


def taps_of_network(model: StyleMatte, image: Float, prior: Float | None = None) -> Taps:
    """Results of all modules that have modules inside, by the names that `export.names` gives, in order.

    A module without any inside may have been fused with the next one, so its own result is in no file.

    Args:
        model: Network in evaluation mode, on the CPU.
        image: (N, 3, h, w) float32 RGB in [0, 1].
        prior: (N, 1, h, w), where it takes one.
    """
    taps: Taps = {}
    hooks = []
    for name, module in model.named_modules():
        if name and any(module.children()):
            hooks.append(module.register_forward_hook(_keeper(taps, name)))
    try:
        with torch.inference_mode():
            coarse = model.coarse(*(torch.from_numpy(x) for x in (image, prior) if x is not None))
    finally:
        for hook in hooks:
            hook.remove()
    return taps | {"coarse_logits": coarse.logits.numpy(), "coarse_guide": coarse.guide.numpy()}


def _keeper(taps: Taps, name: str) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            taps[name] = output.detach().numpy()

    return keep
