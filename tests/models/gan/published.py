"""Network files in the layout in which StyleGAN3's are published, pickled through stand-in modules."""

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from models.gan.generator import Generator

SOURCE = "raise RuntimeError('the source in the file was run')"


@contextmanager
def stand_ins() -> Iterator[None]:
    """`torch_utils.persistence` and `dnnlib.util`, as a pickle refers to them, while one is written."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def reconstruct(meta: Any) -> Any:
        raise AssertionError("the file's own function was called")

    reconstruct.__module__, reconstruct.__qualname__ = persistence.__name__, "_reconstruct_persistent_obj"
    settings = type("EasyDict", (dict,), {"__module__": util.__name__, "__qualname__": "EasyDict"})
    persistence._reconstruct_persistent_obj = reconstruct
    util.EasyDict = settings
    fakes = {
        "torch_utils": types.ModuleType("torch_utils"),
        persistence.__name__: persistence,
        "dnnlib": types.ModuleType("dnnlib"),
        util.__name__: util,
    }
    sys.modules |= fakes
    try:
        yield
    finally:
        for name in fakes:
            del sys.modules[name]


class Persistent:
    """Pickles a module as a call of the reconstructing function with its source and its state."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __reduce__(self) -> tuple:
        persistence, util = sys.modules["torch_utils.persistence"], sys.modules["dnnlib.util"]
        parts = {
            name: Persistent(part)
            for name, part in self.module.named_children()
            if type(part).__name__ != "FilteredLeakyReLU"  # no module of its own there
        }
        state = {
            "training": False,
            "_parameters": OrderedDict(self.module._parameters),
            "_buffers": OrderedDict(self.module._buffers),
            "_non_persistent_buffers_set": set(self.module._non_persistent_buffers_set),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict(parts),
            "_init_args": (),
            "_init_kwargs": util.EasyDict(img_resolution=16, channel_max=8),
            "bandwidth": np.float64(2.0),  # settings that NumPy worked out
            "size": np.array([36, 36]),
        }
        meta = util.EasyDict(
            type="class",
            version=6,
            module_src=SOURCE,
            class_name=type(self.module).__name__,
            state=state,
        )
        return persistence._reconstruct_persistent_obj, (meta,)


def write(path: Path, generator: Generator, **others: Any) -> Path:
    """A whole file, with the generator twice and no discriminator."""
    with stand_ins():
        settings = sys.modules["dnnlib.util"].EasyDict
        content = {
            "G": Persistent(generator),
            "D": None,
            "G_ema": Persistent(generator),
            "augment_pipe": None,
            "training_set_kwargs": settings(class_name="training.dataset.ImageFolderDataset", max_size=7),
            **others,
        }
        path.write_bytes(pickle.dumps(content, protocol=4))
    return path
