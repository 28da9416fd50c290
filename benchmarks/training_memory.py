"""Measure the memory of a training step, and the batch sizes that fit GPUs of 12, 24, 80 and 140 GB.

    python benchmarks/training_memory.py [--preset nano] [--side 512] [--precision bf16] [--step]

What the backward pass keeps is counted tensor by tensor as autograd saves it, so no GPU is needed: autocast
saves the same tensors on a CPU. Parameters, gradients, AdamW's two moments and the moving average take
20 bytes per parameter. A fifth is left free for kernels' workspaces and fragmentation; this share is chosen,
not measured. With --step, a whole step on one photo also runs, and the process's peak is printed.
"""

import argparse
import json
import resource
from pathlib import Path

import torch

from models.stylematte import StyleMatte, build_model

CARDS_GB = (12, 24, 80, 140)
BYTES_A_PARAMETER = 20  # float32: weight, gradient, two moments of AdamW, moving average
FREE_SHARE = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--side", type=int, default=512, help="pixels; a multiple of 32")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--step", action="store_true", help="also run one AdamW step, and print the peak")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    model = build_model(arguments.preset).train()
    parameters = sum(p.numel() for p in model.parameters())
    row: dict[str, object] = {}
    if arguments.step:  # first, so that the peak is the step's
        run_step(model, arguments.side, arguments.precision == "bf16")
        row["peak_of_process_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    # The difference of one image and two excludes what is saved only once.
    one, two = (saved_bytes(model, count, arguments.side, arguments.precision == "bf16") for count in (1, 2))
    states_mb, photo_mb = parameters * BYTES_A_PARAMETER / 1e6, (two - one) / 1e6
    row |= {
        "preset": arguments.preset,
        "side_px": arguments.side,
        "precision": arguments.precision,
        "parameters": parameters,
        "states_mb": states_mb,
        "saved_a_photo_mb": photo_mb,
    }
    usable = {gb: gb * (1 - FREE_SHARE) * 1e3 - states_mb for gb in CARDS_GB}
    row |= {f"batch_{gb}_gb": max(0, int(mb // photo_mb)) for gb, mb in usable.items()}
    for name, value in row.items():
        print(f"{name:20} {value:,.1f}" if isinstance(value, float) else f"{name:20} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(row, indent=2) + "\n")


def forward(model: StyleMatte, count: int, side: int, bf16: bool) -> torch.Tensor:
    """Return the loss of a batch of noise, with the guide at full size."""
    image = torch.rand(count, 3, side, side)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        prediction = model(image, image)
    return prediction.alpha.square().mean()


def saved_bytes(model: StyleMatte, count: int, side: int, bf16: bool) -> int:
    """Count the bytes that a batch's backward pass keeps, every storage once, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward(model, count, side, bf16)
    del loss
    return sum(kept.values())


def run_step(model: StyleMatte, side: int, bf16: bool) -> None:
    """Run one AdamW step on one photo, with the state of a run: moments and a moving average."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forward(model, 1, side, bf16).backward()
    optimiser.step()
    assert average


if __name__ == "__main__":
    main()
