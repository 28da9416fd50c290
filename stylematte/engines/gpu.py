"""Give an engine that runs on a GPU the CUDA kernels of the guided filter."""

import logging

from stylematte.engines.base import Engine

log = logging.getLogger("stylematte")


def use_gpu_filter(engine: Engine, device: str) -> None:
    """Run the guided filter on the network's GPU if possible; log that, or why not.

    Args:
        engine: Open engine; one on the CPU or on an Intel device is left alone.
        device: Device that the engine was opened with.
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
