"""Run in one or several processes with accelerate, started by `accelerate launch` or `torchrun`."""

import functools
import os
from datetime import timedelta

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor, nn

from stylematte.errors import InputError
from training.config import Recipe, RecipeError

if torch.distributed.is_available():
    # Its functions use the process group at import time as a default. If an optimiser's first step imports
    # it, the group and its threads outlive the run, and can abort the process at exit.
    import torch.distributed.nn

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours → accelerate's


def join_processes(device: str, precision: str = "fp32", accumulate: int = 1) -> Accelerator:
    """Join the processes of this run, if there are several.

    Args:
        device: "cpu", "cuda" or "cuda:i"; several processes use a GPU each, without a number.
        precision: "fp32", "bf16" or "fp16"; fp16 needs a GPU.
        accumulate: Passes per optimiser step (gradient accumulation).

    Raises:
        InputError: The options cannot be combined.
    """
    kind = torch.device(device)
    if precision == "fp16" and kind.type == "cpu":
        raise InputError("fp16 needs a GPU; on a CPU use bf16 or fp32")
    # Of several processes each uses the GPU of its rank; choosing one here would put all on the first.
    if kind.type == "cuda" and kind.index is not None and not is_one_of_several():
        torch.cuda.set_device(kind)
    accelerator = Accelerator(
        cpu=kind.type == "cpu",
        mixed_precision=PRECISIONS[precision],
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        kwargs_handlers=[
            # The other processes wait while the main process scores, however long it takes.
            InitProcessGroupKwargs(timeout=timedelta(days=1)),
            DistributedDataParallelKwargs(),
        ],
    )
    if accelerator.num_processes > 1 and kind.index not in (None, 0):
        raise InputError(f"{device}: several processes use one GPU each; give cuda without a number")
    return accelerator


def is_one_of_several() -> bool:
    """Tell whether `accelerate launch` or `torchrun` started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def choose_threads(device: str, cores: int) -> None:
    """Divide the cores among the processes of this machine, unless OMP_NUM_THREADS is set.

    The number does not change between starts: a different number of threads adds up in a different order,
    and a resumed run would no longer be bit-identical.

    Args:
        device: Device of the network; with a GPU four threads are enough.
        cores: Cores that this process may use.
    """
    cv2.setNumThreads(1)  # images are processed in parallel, each on one core
    if "OMP_NUM_THREADS" in os.environ:
        return
    share = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(share if torch.device(device).type == "cpu" else min(4, share))


def describe(accelerator: Accelerator, precision: str, workers: int) -> str:
    """Describe devices, precision, processes and threads of a run in one line."""
    count, threads = accelerator.num_processes, torch.get_num_threads()
    processes = "1 process" if count == 1 else f"{count} processes"
    each = "" if count == 1 else " each"
    return (
        f"{accelerator.device}, {precision}; {processes}; {threads} threads for torch, 1 for OpenCV, "
        f"{workers} workers that prepare images{each}"
    )


def check_batches(recipe: Recipe, accelerator: Accelerator) -> None:
    """Check that every stage's batch can be divided among processes and passes.

    Raises:
        RecipeError: A batch size is not divisible.
    """
    processes, passes = accelerator.num_processes, accelerator.gradient_accumulation_steps
    for stage in recipe.stages:
        if stage.batch_size % (processes * passes):
            raise RecipeError(
                f"{stage.name}: batch_size {stage.batch_size} is not a multiple of {processes} processes "
                "times "
                f"{passes} accumulated passes"
            )


def reseed(*place: int) -> None:
    """Seed the network's random operations, such as drop path, by the position in the run.

    A resumed run then uses the same random numbers as an uninterrupted one.

    Args:
        place: The recipe's seed, then stage, step, pass and process.
    """
    torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))


def average_tensors(tensors: list[Tensor], accelerator: Accelerator) -> None:
    """Average tensors, such as gradients, over all processes, in place; does nothing with one process."""
    if accelerator.num_processes == 1 or not tensors:
        return
    flat = accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "mean")
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def spare_wide_depthwise(model: nn.Module) -> None:
    """Run depthwise convolutions of 5×5 and larger in float32 under autocast on a CPU.

    In bfloat16 their gradients take several times as long there: 2.5 times for 5×5.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.kernel_size[0] >= 5:
            module.forward = functools.partial(_in_float32, module)  # type: ignore[method-assign]


def _in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return conv._conv_forward(x.float(), conv.weight, conv.bias)
