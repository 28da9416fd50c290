"""Bombs: a file of a few bytes that asks for gigabytes is refused before it gets any."""

import io
import pickle
import zipfile

import pytest
import torch

from models.archives import check_archive
from models.checkpoints import CheckpointError, read_tensors, read_torch_file
from models.gan import pickles
from models.gan.pickles import load_pickled_generator
from stylematte.errors import InputError
from stylematte_cli.app import main
from training.checkpoint import load_state


def bomb(megabytes: int) -> bytes:
    """A file of torch.save whose one storage unpacks to so many megabytes of zeros."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save({"conv.bias": torch.zeros(4)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith("data/0"):
                target.writestr(entry.filename, source.read(entry))
                continue
            with target.open(entry.filename, "w", force_zip64=True) as file:
                for _ in range(megabytes):
                    file.write(bytes(1 << 20))
    return packed.getvalue()


@pytest.fixture(scope="module")
def zeros() -> bytes:
    return bomb(256)


@pytest.fixture
def no_load(monkeypatch):
    """Whoever begins to unpack fails."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is unpacked"))


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("read", "kind"), [(read_torch_file, CheckpointError), (load_state, InputError)], ids=["weights", "state"]
)
def test_a_zip_bomb_is_not_unpacked(tmp_path, zeros, read, kind):
    path = tmp_path / "bomb.pth"
    path.write_bytes(zeros)
    with pytest.raises(kind, match=r"bomb\.pth"):
        read(path)


@pytest.mark.usefixtures("no_load")
def test_the_import_of_a_bomb_says_what_it_is(tmp_path, zeros, capsys, monkeypatch):
    (tmp_path / "bomb.pth").write_bytes(zeros)
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "home"))
    assert main(["models", "import", str(tmp_path / "bomb.pth")]) == 3
    words = "bomb.pth: its 0.3 MB would unpack to 268 MB, which no weights file does; it was not read\n"
    assert capsys.readouterr().err.endswith(words)
    assert not (tmp_path / "home").exists()


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def storage_bytes(count: int) -> bytes:
    file = io.BytesIO()
    numbers = torch.zeros(count).untyped_storage()
    torch.save(torch.storage.TypedStorage(wrap_storage=numbers, dtype=torch.float32, _internal=True), file)
    return file.getvalue()


@pytest.mark.parametrize("count", [2**24, 2**60])
def test_a_pickled_tensor_holds_no_more_numbers_than_its_storage(tmp_path, count):
    storage = Call(torch.storage._load_from_bytes, storage_bytes(1))
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, 0, (count,), (0,), False, {})
    path = tmp_path / "humans.pkl"
    path.write_bytes(pickle.dumps({"G_ema": tensor}, protocol=4))
    with pytest.raises(CheckpointError, match=rf"a tensor of \({count},\) in 1 numbers"):
        load_pickled_generator(path)


def test_one_storage_is_not_copied_for_each_tensor_of_it(tmp_path):
    storage = Call(torch.storage._load_from_bytes, storage_bytes(64))
    tensors = [Call(torch._utils._rebuild_tensor_v2, storage, 0, (64,), (1,), False, {}) for _ in range(9)]
    path = tmp_path / "humans.pkl"
    path.write_bytes(pickle.dumps(tensors, protocol=4))
    read = pickles.read_network_pickle(path)
    assert len(read) == 9
    assert len({tensor.data_ptr() for tensor in read}) == 1


def test_a_bomb_inside_of_a_pickle(tmp_path, zeros):
    path = tmp_path / "humans.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Call(torch.storage._load_from_bytes, zeros)}, protocol=4))
    with pytest.raises(
        CheckpointError, match=r"refused, because of a storage in it: its 0\.3 MB would unpack to 268 MB"
    ):
        load_pickled_generator(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_let_through(tmp_path, zipped):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_torch_file(path)["a"], torch.zeros(1000))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x08\x09\x12\x0astylematte", "an ONNX model, not a torch.save file"),
        (b"\x10\0\0\0\0\0\0\0{}", "a safetensors file, not a torch.save file"),
        (b"<html>", "damaged, or not a file of plain tensors"),
        (b"", "damaged, or not a file of plain tensors"),
        (b"PK\x03\x04", "damaged, or not a file of plain tensors"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, head, words):
    path = tmp_path / "w.pth"
    path.write_bytes(head)
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(path)
    assert str(caught.value) == f"{path}: {words}"
    with path.open("rb") as file, pytest.raises(InputError):
        check_archive(file)


@pytest.mark.parametrize("length", [100, 2**40, 2**63])
def test_a_safetensors_header_longer_than_the_file(tmp_path, length):
    path = tmp_path / "w.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_tensors(path)


def test_a_safetensors_tensor_larger_than_the_file(tmp_path):
    path = tmp_path / "w.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_tensors(path)
