"""The two kernels as TensorRT plug-ins. Their PTX goes into the engine, which then needs no Python to run.

TensorRT calls them ahead-of-time plug-ins ("AOT QDP", module `tensorrt.plugin`); written against its version
11.4. One node is one launch. Attributes do not travel with an engine, so radius and eps are compiled in.
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

# No `from __future__ import annotations`: TensorRT wants types in the annotations of `_define`'s functions.

NODES = (CoefficientsKernel.name, ApplyKernel.name)
# What TensorRT's ONNX parser looks for. Without the namespace it takes the body of the local function.
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
    """Make `matte::fgf_coefficients` and `matte::fgf_apply` known to TensorRT in this process.

    TensorRT takes one definition a process. A second call therefore changes the numbers alone, for the
    engines that are built after it.

    Args:
        radius_px: Box radius in coarse pixels, from the contract of the model to be built.
        eps: Regulariser, likewise.
        architecture: See `stylematte.engines.guided_filter.nvrtc.compile_ptx`.
        folder: See there.

    Raises:
        ImportError: TensorRT is not installed.
        InputError: A radius or eps that the kernels do not have.
        EngineError: NVRTC is not installed.
    """
    global _settings
    CoefficientsKernel(radius_px, eps)
    version()  # fails now, not inside a build
    if _settings is None:
        _define()
    _settings = _Settings(radius_px, eps, architecture, folder)


def with_plugin_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Ask for the plug-ins in a contract file, without taking away what other runtimes read.

    Args:
        model: Under docs/model-contract.md.

    Returns:
        A copy whose two nodes carry the attributes that TensorRT's parser looks for. Their bodies stay.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if node.domain == DOMAIN and node.op_type in NODES:
            node.attribute.extend(helper.make_attribute(*item) for item in NODE_ATTRIBUTES.items())
    for function in result.functions:
        if function.domain == DOMAIN and function.name in NODES:
            function.attribute.extend(NODE_ATTRIBUTES)  # a function declares what its nodes may carry
    return result


def _define() -> None:
    """Tell TensorRT how the nodes look and how they are launched; it calls back while it builds."""
    import tensorrt as trt
    import tensorrt.plugin as trtp

    storage = {trt.float32: "float32", trt.float16: "float16"}

    def storage_of(node: str, tensors: tuple[Any, ...]) -> str:
        # One type for all, as the bodies of the ONNX functions have it.
        types = {tensor.dtype for tensor in tensors}
        if len(types) > 1 or not types <= set(storage):
            raise InputError(
                f"{node}: tensors of {', '.join(map(str, types))}; all float32 or all float16 are taken"
            )
        return storage[types.pop()]

    def launch(
        kernel: Kernel, batch: Any, size: tuple[Any, Any], integers: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        assert _settings is not None  # `register` sets it before anybody can build
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
