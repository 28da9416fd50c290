"""One process or many, through accelerate: `accelerate launch` and `torchrun` start them, this joins them."""

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
    # Its functions have the group of processes at the moment of import as a default. If an optimiser's first
    # step imports it, the group and its threads outlive the run, and can abort the process at its end.
    import torch.distributed.nn

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours → accelerate's


def join_processes(device: str, precision: str = "fp32", accumulate: int = 1) -> Accelerator:
    """Join the other processes of this run; alone where nothing started more.

    Args:
        device: "cpu", "cuda" or "cuda:i"; several processes take a card each, and none by its number.
        precision: "fp32", "bf16" or "fp16"; the last needs a graphics card.
        accumulate: Passes whose gradients make one optimiser step.

    Raises:
        InputError: What is wanted does not go together.
    """
    kind = torch.device(device)
    if precision == "fp16" and kind.type == "cpu":
        raise InputError("fp16 needs a graphics card: on a processor use bf16 or fp32")
    # One of several takes the card of its number: touched before, the first card would bear all of them.
    if kind.type == "cuda" and kind.index is not None and not is_one_of_several():
        torch.cuda.set_device(kind)
    accelerator = Accelerator(
        cpu=kind.type == "cpu",
        mixed_precision=PRECISIONS[precision],
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        kwargs_handlers=[
            # The main process scores for as long as it takes, while the others wait.
            InitProcessGroupKwargs(timeout=timedelta(days=1)),
            DistributedDataParallelKwargs(),
        ],
    )
    if accelerator.num_processes > 1 and kind.index not in (None, 0):
        raise InputError(f"{device}: several processes take a card each; give cuda, without a number")
    return accelerator


def is_one_of_several() -> bool:
    """Whether `accelerate launch` or `torchrun` started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def choose_threads(device: str, cores: int) -> None:
    """Divide the cores among the processes of this machine, where OMP_NUM_THREADS does not say otherwise.

    The number depends on nothing that changes from one start to the next: other threads add up in another
    order, and a run that goes on would not be the same to the last bit.

    Args:
        device: Where the network runs; beside a graphics card four threads are enough.
        cores: That this process may use.
    """
    cv2.setNumThreads(1)  # pictures are many, so each takes one core
    if "OMP_NUM_THREADS" in os.environ:
        return
    share = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(share if torch.device(device).type == "cpu" else min(4, share))


def describe(accelerator: Accelerator, precision: str, workers: int) -> str:
    """What a run takes of the machine, in one line."""
    count, threads = accelerator.num_processes, torch.get_num_threads()
    processes = "1 process" if count == 1 else f"{count} processes"
    each = "" if count == 1 else " each"
    return (
        f"{accelerator.device}, {precision}; {processes}; {threads} threads for torch, 1 for OpenCV, "
        f"{workers} workers that prepare pictures{each}"
    )


def check_batches(recipe: Recipe, accelerator: Accelerator) -> None:
    """Make sure that every stage's batch can be divided.

    Raises:
        RecipeError: One cannot; the message says by what.
    """
    processes, passes = accelerator.num_processes, accelerator.gradient_accumulation_steps
    for stage in recipe.stages:
        if stage.batch_size % (processes * passes):
            raise RecipeError(
                f"{stage.name}: batch_size {stage.batch_size} is no multiple of {processes} processes times "
                f"{passes} accumulated passes"
            )


def reseed(*place: int) -> None:
    """Seed what is random in a network, drop path say, by the place in the run.

    A run that goes on then draws what the run would have drawn that nothing stopped.

    Args:
        place: The recipe's seed, then stage, step, pass and process.
    """
    torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))


def average_tensors(tensors: list[Tensor], accelerator: Accelerator) -> None:
    """Give every process the means of all: gradients of one step, say. In place; alone, nothing happens."""
    if accelerator.num_processes == 1 or not tensors:
        return
    flat = accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "mean")
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def spare_wide_depthwise(model: nn.Module) -> None:
    """Let depthwise convolutions of 5×5 and more run in float32 under autocast on a processor.

    There, in bfloat16, their gradients take several times as long: 2.5 times for a 5×5 one.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.kernel_size[0] >= 5:
            module.forward = functools.partial(_in_float32, module)  # type: ignore[method-assign]


def _in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return conv._conv_forward(x.float(), conv.weight, conv.bias)
