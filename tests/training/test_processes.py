"""Several processes, several passes, and processes that die: the run is always the same run."""

import csv
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from models.stylematte import build_model
from stylematte_cli.app import main
from tests.training import drawn
from training import processes
from training.checkpoint import load_state
from training.config import load_recipe
from training.data.dataset import ResumableBatchSampler
from training.processes import choose_threads, spare_wide_depthwise

# A learned upsampler: the first stage, of coarse losses, gives it no gradients, and nobody may wait for them.
# Batch norms keep their statistics: in training they take those of what one process sees at once, and half a
# batch has others than the whole.
TOML = drawn.TOML.replace("batch_size = 4", "batch_size = 4\nfreeze_norms = true").replace(
    "batch_size = 2", "batch_size = 2\nfreeze_norms = true"
)
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TOML += '[network]\nupsampler = "conv_gf"\n'


@pytest.fixture(scope="module")
def arguments(data_root, mattes, tmp_path_factory) -> list[str]:
    """Of a run of the command, but for --out."""
    recipe = tmp_path_factory.mktemp("recipes") / "mine.toml"
    recipe.write_text(TOML)
    words = ["train", recipe, "--data", data_root, "--mattes", mattes, "--workers", 0, "--every", 3]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory) -> Path:
    """A run of one process that nothing stopped."""
    return run_here(arguments, tmp_path_factory.mktemp("runs") / "whole")


def run_here(arguments: Sequence[str], out: Path) -> Path:
    """Run the command in this process, with one thread as the others have: sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            assert main([*arguments, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(command: Sequence[str]) -> int:
    process = start(command)
    output, _ = process.communicate(timeout=120)
    print(output)
    return process.returncode


def losses(out: Path) -> dict[tuple[int, str], float]:
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(int(r["step"]), r["name"]): float(r["value"]) for r in rows if r["name"] != "images_per_s"}


def assert_same_run(out: Path, other: Path) -> None:
    """Weights, averages and losses to some 1e-6: gradients are sums in another order.

    Adam divides by a gradient's own size, so where one is next to nothing its rounding is a step: one number
    in a hundred, and one in a small tensor, may be off by a hundredth of a step.
    """
    one, two = load_state(out / "state.pt"), load_state(other / "state.pt")
    assert (one["stage"], one["step"]) == (two["stage"], two["step"])
    for part in ("model", "average"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(tensor, two[part][name], atol=5e-5, rtol=1e-5, msg=name)
            is_close = torch.isclose(tensor, two[part][name], atol=2e-6, rtol=1e-5)
            assert (~is_close).sum() <= math.ceil(is_close.numel() / 100), name
    assert losses(out) == pytest.approx(losses(other), rel=2e-5, abs=2e-6)


def test_two_processes_are_one(whole, arguments, tmp_path):
    out = tmp_path / "run"
    assert finish([*TWO_PROCESSES, "-m", "stylematte_cli", *arguments, "--out", str(out)]) == 0
    assert_same_run(out, whole)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}


def test_two_processes_wait_for_nothing_that_is_frozen(data_root, mattes, tmp_path):
    text = TOML.replace("freeze_norms = true", "freeze_norms = true\nfrozen = 2")
    file, out = tmp_path / "mine.toml", tmp_path / "run"
    file.write_text(text)
    words = ["train", file, "--data", data_root, "--mattes", mattes, "--workers", 0, "--out", out]
    assert finish([*TWO_PROCESSES, "-m", "stylematte_cli", *map(str, words)]) == 0
    trained = load_state(out / "state.pt")["model"]
    recipe = load_recipe(str(file))
    torch.manual_seed(recipe.seed)
    start = build_model(recipe.build_preset())
    for name, parameter in start.encoder.named_parameters():
        is_same = torch.equal(trained[f"encoder.{name}"], parameter)
        assert is_same == (start.encoder.level_of(name) < 2), name


def test_two_passes_are_one(whole, arguments, tmp_path):
    out = run_here([*arguments, "--accumulate", "2"], tmp_path / "run")
    assert_same_run(out, whole)


def test_killed_in_the_middle_and_while_saving_the_same_command_goes_on(whole, arguments, tmp_path, capsys):
    out = tmp_path / "run"
    words = [*arguments, "--out", str(out)]
    # In the middle of a step, at once after the first saved state.
    process = start([sys.executable, "-m", "stylematte_cli", *words])
    assert process.stdout is not None
    seen = next(line for line in process.stdout if line.startswith("  scores"))
    while not (out / "state.pt").exists():
        assert process.poll() is None, seen
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    saved = load_state(out / "state.pt")
    assert (saved["stage"], saved["step"]) < (1, 4)
    # While the second state from here on is written.
    assert finish([sys.executable, "-c", drawn.DIES_WHILE_SAVING, *words]) == -signal.SIGKILL
    assert (out / ".state.pt.part").exists()
    again = load_state(out / "state.pt")
    assert (again["stage"], again["step"]) >= (saved["stage"], saved["step"])
    # The same command, and what comes out is what would have.
    run_here(arguments, out)
    assert "resuming at stage" in capsys.readouterr().out
    assert (out / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    assert losses(out) == losses(whole)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}


def test_processes_and_passes_share_a_step_as_one_process_would_see_it():
    alone = list(ResumableBatchSampler(3, 5, 12))
    assert alone == [list(range(36, 48)), list(range(48, 60))]
    shares = [list(ResumableBatchSampler(3, 5, 12, passes=3, processes=2, process=i)) for i in (0, 1)]
    assert shares[0] == [[36, 37], [40, 41], [44, 45], [48, 49], [52, 53], [56, 57]]
    assert shares[1] == [[38, 39], [42, 43], [46, 47], [50, 51], [54, 55], [58, 59]]
    assert len(ResumableBatchSampler(3, 5, 12, passes=3)) == 6


def test_wide_depthwise_convolutions_stay_in_float32_under_autocast():
    torch.manual_seed(0)
    wide = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    narrow, dense = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 5)
    model = nn.Sequential(wide, narrow, dense)
    image = torch.rand(1, 8, 16, 16)
    wanted, names = wide(image), list(model.state_dict())
    spare_wide_depthwise(model)
    with torch.autocast("cpu", torch.bfloat16):
        spared = wide(image.bfloat16().float())
        assert (narrow(image).dtype, dense(image).dtype) == (torch.bfloat16, torch.bfloat16)
        model(image).sum().backward()
    assert spared.dtype == torch.float32
    torch.testing.assert_close(wide(image), wanted)
    assert wide.weight.grad.abs().min() > 0
    assert list(model.state_dict()) == names


def test_a_run_says_what_it_takes_of_the_machine(arguments, tmp_path, capfd):
    script = [*TWO_PROCESSES, "-m", "stylematte_cli", *arguments, "--device", "cpu"]
    assert finish([*script, "--out", str(tmp_path / "two")]) == 0
    said = capfd.readouterr().out
    assert (
        said.count("2 processes; 1 threads for torch, 1 for OpenCV, 0 workers that prepare images each") == 1
    )
    run_here([*arguments, "--device", "cpu"], tmp_path / "one")
    assert "stylematte: cpu, fp32; 1 process; 1 threads for torch" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("environment", "device", "wanted"),
    [
        ({}, "cpu", 8),
        ({"LOCAL_WORLD_SIZE": "4"}, "cpu", 2),
        ({"LOCAL_WORLD_SIZE": "16"}, "cpu", 1),
        ({}, "cuda:0", 4),
        ({"OMP_NUM_THREADS": "3"}, "cpu", None),
    ],
)
def test_threads_are_shared_and_what_the_user_says_counts(monkeypatch, environment, device, wanted):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    choose_threads(device, cores=8)
    assert chosen == ([] if wanted is None else [wanted])


@pytest.mark.parametrize(("world", "touched"), [("1", ["cuda:0"]), ("2", [])])
def test_one_of_several_processes_does_not_touch_the_first_gpu(monkeypatch, world, touched):
    """Accelerate gives each the GPU of its local rank; no GPU is needed to see what comes before."""
    seen = []
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(str(device)))

    class Joined:
        num_processes = int(world)

    monkeypatch.setattr(processes, "Accelerator", lambda **_: Joined())
    processes.join_processes("cuda:0")
    assert seen == touched
