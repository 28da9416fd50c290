"""Hands the CUDA kernels of the guided filter to an engine that runs on a GPU."""

import logging

from stylematte.engines.base import Engine

log = logging.getLogger("stylematte")


def use_gpu_filter(engine: Engine, device: str) -> None:
    """Let the guided filter run on the GPU that the network runs on, and say so, or why not.

    Args:
        engine: Opened; nothing is done for one on the CPU, or on one of Intel's devices.
        device: As it was opened with.
    """
    if engine.provider == "CPUExecutionProvider" or engine.name == "openvino":
        return
    from stylematte.engines.cuda import Cuda
    from stylematte.engines.gpu_filter import GpuGuidedFilter
    from stylematte.errors import StyleMatteError

    contract = engine.contract
    try:
        from stylematte.engines.guided_filter.kernels import Grey
        from stylematte.engines.guided_filter.launch import GuidedFilter

        gpu = Cuda(int(device.partition(":")[2] or 0))
        grey = Grey.of(contract.mean, contract.std)
        engine.gpu_filter = GpuGuidedFilter(gpu, GuidedFilter(contract.radius_px, contract.eps, grey))
    except (ImportError, ValueError, StyleMatteError) as error:
        log.info("guided filter on the CPU: %s", error)
    else:
        log.info("guided filter on the GPU")
