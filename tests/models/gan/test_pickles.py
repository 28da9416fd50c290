"""Published network files: read into the same network, and nothing of them run."""

import os
import pickle
import subprocess

import pytest
import torch

from models.checkpoints import CheckpointError
from models.gan.generator import Generator, GeneratorConfig
from models.gan.pickles import is_pickle, load_pickled_generator
from tests.models.gan.published import write

SMALL = {"size_px": 16, "z_dim": 6, "w_dim": 5, "channel_base": 64, "channel_max": 8, "layers": 4}


def generator(kind: str = "t", channels: int = 4) -> Generator:
    torch.manual_seed(0)
    drawn = Generator(GeneratorConfig(kind, channels=channels, **SMALL))
    with torch.no_grad():
        for tensor in drawn.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        drawn.mapping.w_avg.normal_()
        drawn.synthesis.input.affine.weight.normal_(0, 0.1)
    return drawn.eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "humans.pkl"


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["t", "r"])
@torch.no_grad()
def test_the_same_network(path, kind, channels):
    theirs = generator(kind, channels)
    ours = load_pickled_generator(write(path, theirs))
    assert (ours.config.kind, ours.config.size_px, ours.config.channels) == (kind, 16, channels)
    assert (ours.config.z_dim, ours.config.w_dim, ours.config.mapping_layers) == (6, 5, 2)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    z = torch.randn(2, 6)
    assert torch.equal(ours(z, 0.7), theirs(z, 0.7))
    assert not any(p.requires_grad is False for p in ours.parameters())


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (subprocess.check_call, (["touch", "{}"],), "subprocess.check_call"),
        (eval, ("open('{}', 'w')",), "builtins.eval"),
        (getattr, (1, "real"), "builtins.getattr"),
        (torch.load, ("{}",), "torch.serialization.load"),
    ],
)
def test_a_call_of_anything_else_is_refused_and_named(path, tmp_path, function, arguments, named):
    trace = tmp_path / "trace"

    def fill(value):
        if isinstance(value, list):
            return [fill(v) for v in value]
        return value.replace("{}", str(trace)) if isinstance(value, str) else value

    write(path, generator(), augment_pipe=Call(function, *map(fill, arguments)))
    with pytest.raises(CheckpointError, match=f"humans.pkl: refused: it would call {named}"):
        load_pickled_generator(path)
    assert not trace.exists()


def test_a_call_inside_of_a_tensors_bytes_is_refused(path, tmp_path):
    """Storages are files of torch in the file; those are pickles, too."""
    trace = tmp_path / "trace"
    inner = pickle.dumps(Call(os.system, f"touch {trace}"), protocol=2)
    path.write_bytes(pickle.dumps({"G_ema": Call(torch.storage._load_from_bytes, inner)}, protocol=4))
    with pytest.raises(CheckpointError, match="damaged, or not a pickle"):
        load_pickled_generator(path)
    assert not trace.exists()


def test_persistent_ids_are_refused(path):
    path.write_bytes(b"\x80\x04\x8c\x01xQ.")
    with pytest.raises(CheckpointError, match="damaged, or not a pickle"):
        load_pickled_generator(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_truncated(path, share):
    whole = write(path, generator()).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"humans\.pkl: damaged, or not a pickle"):
        load_pickled_generator(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "without a network 'G_ema'"),
        ({"G": None}, "without a network 'G_ema'"),
        ({"G_ema": None}, "not a StyleGAN3 generator"),
        ({"G_ema": {"mapping.fc0.weight": 1}}, "not a StyleGAN3 generator"),
    ],
)
def test_other_content(path, content, message):
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(CheckpointError, match=message):
        load_pickled_generator(path)


def test_other_networks(path):
    changed = generator()
    changed.mapping.embed = torch.nn.Linear(3, 5)
    with pytest.raises(CheckpointError, match="a class-conditional generator"):
        load_pickled_generator(write(path, changed))
    changed = generator()
    changed.synthesis.L1_36_8.up_filter.mul_(1.1)
    with pytest.raises(CheckpointError, match=r"synthesis\.L1_36_8\.up_filter is not StyleGAN3"):
        load_pickled_generator(write(path, changed))
    changed = generator()
    changed.synthesis.L1_36_8.bias = torch.nn.Parameter(torch.zeros(7))
    with pytest.raises(CheckpointError, match=r"L1_36_8.bias is \(7,\), the network expects \(8,\)"):
        load_pickled_generator(write(path, changed))
    del changed.synthesis.L1_36_8
    with pytest.raises(CheckpointError, match="not a StyleGAN3 generator"):
        load_pickled_generator(write(path, changed))


def test_files_of_torch_save_are_told_apart(path):
    assert is_pickle(write(path, generator()))
    for zipped in (True, False):
        torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=zipped)
        assert not is_pickle(path)
    path.write_bytes(b"")
    assert not is_pickle(path)
