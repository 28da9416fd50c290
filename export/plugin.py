"""The two kernels as TensorRT plug-ins. Their PTX is stored in the engine, which then runs without Python.

They use TensorRT's ahead-of-time plug-ins ("AOT QDP", module `tensorrt.plugin`), as of TensorRT 11.4. Each
node is one kernel launch. Engines do not store attributes, so radius and eps are compiled in.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from export.functions import DOMAIN
from stylematte.engines.guided_filter.kernels import ApplyKernel, CoefficientsKernel, Kernel
from stylematte.engines.guided_filter.nvrtc import ARCHITECTURE, compile_ptx, version
from stylematte.errors import InputError

# No `from __future__ import annotations`: TensorRT needs types in the annotations of `_define`'s functions.

NODES = (CoefficientsKernel.name, ApplyKernel.name)
# Attributes that TensorRT's ONNX parser looks for. Without the namespace it uses the function's body.
NODE_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}


@dataclass(frozen=True)
class _Settings:
    radius_px: int
    eps: float
    architecture: str
    folder: Path | None


_settings: _Settings | None = None


def register(
    radius_px: int, eps: float, architecture: str = ARCHITECTURE, folder: Path | None = None
) -> None:
    """Register `matte::fgf_coefficients` and `matte::fgf_apply` with TensorRT in this process.

    TensorRT allows one definition per process. A second call therefore only changes the parameters, for the
    engines that are built after it.

    Args:
        radius_px: Box radius in coarse pixels, from the contract of the model to be built.
        eps: Regulariser, from the same contract.
        architecture: See `stylematte.engines.guided_filter.nvrtc.compile_ptx`.
        folder: See `compile_ptx`.

    Raises:
        ImportError: TensorRT is not installed.
        InputError: The kernels do not support the radius or eps.
        EngineError: NVRTC is not installed.
    """
    global _settings
    CoefficientsKernel(radius_px, eps)
    version()  # fail now and not during a build
    if _settings is None:
        _define()
    _settings = _Settings(radius_px, eps, architecture, folder)


def with_plugin_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Mark the nodes of a contract file that TensorRT has to run as plug-ins; other runtimes are unaffected.

    Args:
        model: Contract file, see docs/model-contract.md.

    Returns:
        A copy whose two nodes have the attributes that TensorRT's parser looks for. The bodies stay.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if node.domain == DOMAIN and node.op_type in NODES:
            node.attribute.extend(helper.make_attribute(*item) for item in NODE_ATTRIBUTES.items())
    for function in result.functions:
        if function.domain == DOMAIN and function.name in NODES:
            function.attribute.extend(NODE_ATTRIBUTES)  # a function declares the attributes of its nodes
    return result


def _define() -> None:
    """Register the nodes' shapes and launches with TensorRT, which calls back during a build."""
    import tensorrt as trt
    import tensorrt.plugin as trtp

    storage = {trt.float32: "float32", trt.float16: "float16"}

    def storage_of(node: str, tensors: tuple[Any, ...]) -> str:
        # One type for all tensors, as in the bodies of the ONNX functions.
        types = {tensor.dtype for tensor in tensors}
        if len(types) > 1 or not types <= set(storage):
            raise InputError(
                f"{node}: tensors of {', '.join(map(str, types))}; they must be all float32 or all float16"
            )
        return storage[types.pop()]

    def launch(
        kernel: Kernel, batch: Any, size: tuple[Any, Any], integers: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        assert _settings is not None  # `register` sets it before any build
        parameters = trtp.KernelLaunchParams()
        parameters.grid_x, parameters.grid_y, parameters.grid_z = kernel.grid(batch, *size, trtp.cdiv)
        parameters.block_x, parameters.block_y, parameters.block_z = kernel.block
        extras = trtp.SymIntExprs(len(integers))
        for index, integer in enumerate(integers):
            extras[index] = trtp.SymInt32(integer)
        return kernel.name, compile_ptx(kernel, _settings.architecture, _settings.folder), parameters, extras

    @trtp.register(f"{DOMAIN}::{CoefficientsKernel.name}")
    def describe_coefficients(guide: trtp.TensorDesc, logits: trtp.TensorDesc) -> trtp.TensorDesc:
        batch, _, height, width = guide.shape_expr
        return trtp.from_shape_expr((batch, 2, height, width), guide.dtype)

    @trtp.aot_impl(f"{DOMAIN}::{CoefficientsKernel.name}")
    def launch_coefficients(
        guide: trtp.TensorDesc, logits: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc], tactic: int
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        assert _settings is not None
        kind = storage_of(CoefficientsKernel.name, (guide, logits, *outputs))
        kernel = CoefficientsKernel(_settings.radius_px, _settings.eps, kind, kind)
        batch, _, height, width = guide.shape_expr
        return launch(kernel, batch, (height, width), (height, width))

    @trtp.register(f"{DOMAIN}::{ApplyKernel.name}")
    def describe_apply(coefficients: trtp.TensorDesc, guide: trtp.TensorDesc) -> trtp.TensorDesc:
        return guide.like()

    @trtp.aot_impl(f"{DOMAIN}::{ApplyKernel.name}")
    def launch_apply(
        coefficients: trtp.TensorDesc, guide: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc], tactic: int
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        kind = storage_of(ApplyKernel.name, (coefficients, guide, *outputs))
        kernel = ApplyKernel(coefficients=kind, guide=kind, alpha=kind)
        batch, _, height, width = guide.shape_expr
        _, _, coarse_height, coarse_width = coefficients.shape_expr
        return launch(kernel, batch, (height, width), (coarse_height, coarse_width, height, width))
