"""StyleGAN3's published network files: pickles, read without running any code in them.

Such a file is a dictionary of networks. Every network and submodule is pickled as a call of one function
with the module's Python source and its state. Here that call only records the state, the source is ignored,
and calls of anything that is not on a short allow-list are rejected.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.archives import check_archive
from models.checkpoints import CheckpointError, fill
from models.gan.generator import Generator, GeneratorConfig
from stylematte.errors import InputError

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")


class NotAllowedError(Exception):
    """The file calls something that is not on the allow-list."""


def load_pickled_generator(path: Path, network: str = "G_ema") -> Generator:
    """Build the generator in a StyleGAN3 pickle and load its weights.

    Args:
        path: A file like `humans.pkl` and `animals.pkl`, or like NVIDIA's: T or R, RGB or RGBA.
        network: Which of its networks: "G_ema", the moving average, or "G".

    Returns:
        The generator in evaluation mode.

    Raises:
        CheckpointError: The file is damaged; holds anything but tensors, numbers, text and containers, which
            the message names; or is another network.
    """
    content = read_network_pickle(path)
    if not isinstance(content, dict) or network not in content:
        raise CheckpointError(f"{path}: a pickle without a network {network!r}")
    tensors = dict(_named_tensors(content[network], ""))
    generator = Generator(_config_of(tensors, path))
    designed = {name: t.clone() for name, t in generator.named_buffers() if name.endswith("_filter")}
    fill(generator, tensors, str(path))
    for name, taps in designed.items():
        if not torch.allclose(tensors[name].float(), taps, rtol=1e-3, atol=1e-5):
            raise CheckpointError(f"{path}: {name} is not StyleGAN3's filter for this size")
    return generator.eval()


def is_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle in a protocol that networks are published in, not from `torch.save`."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] in (b"\x03", b"\x04", b"\x05")  # torch.save: a zip, or protocol 2


def read_network_pickle(path: Path) -> Any:
    """Read a pickle of tensors, numbers, text and containers; networks become `PickledNetwork`s.

    Raises:
        CheckpointError: The file is damaged, or calls anything else, which the message names.
    """
    with path.open("rb") as file:
        try:
            return _Unpickler(file).load()
        except NotAllowedError as error:
            raise CheckpointError(
                f"{path}: refused: it would call {error}; only tensors and plain containers are allowed"
            ) from None
        except InputError as error:
            raise CheckpointError(f"{path}: refused, because of a storage in it: {error}") from None
        except OSError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise CheckpointError(f"{path}: damaged, or not a pickle") from error


class PickledNetwork(dict):
    """A network's pickled record: `type`, `version`, `module_src`, `class_name`, `state`; plain data."""


class _Unpickler(pickle.Unpickler):
    """Unpickler that allows what `_allowed` lists; the base class's `persistent_load` always raises."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__(file)
        # Rebuilt for every file: a pickle can set attributes on the objects it reaches.
        self.allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise NotAllowedError(f"{module}.{name}") from None


def _allowed() -> dict[tuple[str, str], Any]:
    class Container(dict):
        """Stand-in for dnnlib's EasyDict: a dictionary that also takes attributes."""

    class Inert:
        """Stand-in for NumPy values in settings; none of them is needed."""

        def __init__(self, *arguments: object) -> None:
            self.arguments = arguments

        def __setstate__(self, state: object) -> None:
            self.state = state

    def rebuild_network(meta: object) -> PickledNetwork:
        if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
            raise NotAllowedError("torch_utils.persistence on something other than a network")
        return PickledNetwork(meta)

    def rebuild_storage(data: bytes) -> Any:
        file = io.BytesIO(data)
        check_archive(file)
        return torch.load(file, map_location="cpu", weights_only=True)

    def rebuild_tensor(
        storage: torch.TypedStorage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *rest: object,
    ) -> Tensor:
        numbers = storage._untyped_storage.nbytes() // storage.dtype.itemsize
        if math.prod(size) > numbers:  # strides of 0 could make a huge tensor from a few bytes
            raise InputError(f"a tensor of {tuple(size)} in {numbers} numbers")
        tensor = torch.empty(0, dtype=storage.dtype)
        return tensor.set_(storage._untyped_storage, offset, tuple(size), tuple(stride))

    def rebuild_parameter(tensor: Tensor, *rest: object) -> Tensor:
        return tensor

    table: dict[tuple[str, str], Callable] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
        ("dnnlib.util", "EasyDict"): Container,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): rebuild_network,
        ("torch.storage", "_load_from_bytes"): rebuild_storage,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("numpy", "ndarray"): Inert,
        ("numpy", "dtype"): Inert,
    }
    for module in _NUMPY:
        table[module, "scalar"] = table[module, "_reconstruct"] = Inert
    return table


def _named_tensors(network: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield state-dict names and tensors of a network and its submodules."""
    if not isinstance(network, PickledNetwork):
        return
    state = network["state"]
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (state.get(kind) or {}).items():
            if isinstance(tensor, Tensor) and name not in (state.get("_non_persistent_buffers_set") or ()):
                yield f"{prefix}{name}", tensor
    for name, part in (state.get("_modules") or {}).items():
        yield from _named_tensors(part, f"{prefix}{name}.")


def _config_of(tensors: dict[str, Tensor], path: Path) -> GeneratorConfig:
    """Infer a generator's configuration from its tensors."""
    layers = {}
    for name, tensor in tensors.items():
        part, _, rest = name.removeprefix("synthesis.").partition(".")
        if rest == "weight" and part.startswith("L") and part.count("_") == 2:
            numbers = part[1:].split("_")
            if all(number.isdecimal() for number in numbers):
                layers[int(numbers[0])] = (int(numbers[1]), tensor)
    mapped = [t for name, t in tensors.items() if name.startswith("mapping.fc") and name.endswith(".weight")]
    if "mapping.embed.weight" in tensors:
        raise CheckpointError(f"{path}: a class-conditional generator, which is not supported")
    if not mapped or sorted(layers) != list(range(len(layers))) or len(layers) < 2:
        raise CheckpointError(f"{path}: not a StyleGAN3 generator")
    side, last = layers[len(layers) - 1]
    first = layers[0][1]
    try:
        return GeneratorConfig(
            kind="t" if first.shape[-1] == 3 else "r",
            size_px=side,
            channels=last.shape[0],
            z_dim=mapped[0].shape[1],
            w_dim=mapped[0].shape[0],
            mapping_layers=len(mapped),
            # From the layer before to-RGB, whose cutoff is half the side.
            channel_base=last.shape[1] * side,
            channel_max=first.shape[1],
            layers=len(layers) - 1,
        )
    except (ValueError, IndexError, InputError) as error:
        raise CheckpointError(f"{path}: this version cannot build the generator: {error}") from None
