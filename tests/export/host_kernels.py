"""guided_filter.cu on this machine's CPU: compiled by g++ with host_shim.h, called on NumPy arrays."""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stylematte.engines import guided_filter
from stylematte.engines.guided_filter.kernels import ApplyKernel, CoefficientsKernel, Kernel

FOLDER = Path(guided_filter.__file__).parent
OUTCOMES = ("DONE", "UNEVEN_BARRIER", "UNDEFINED_BEHAVIOUR", "OUT_OF_MEMORY")  # as in host_shim.h
GUARD = 64  # values on either side of an array


def cdiv(x: int, y: int) -> int:
    return -(-x // y)


def pack(*arguments: np.ndarray | int) -> list[ctypes.c_void_p | ctypes.c_int]:
    """Arrays become addresses and integers 32 bits; who calls keeps the arrays alive."""
    return [
        ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int(a) for a in arguments
    ]


def guarded(array: np.ndarray, shift: int = 0) -> np.ndarray:
    """A copy with values around it that betray whoever reads them: NaN, or 255.

    Args:
        array: What to copy.
        shift: Values by which it begins past an address that is a multiple of 64 bytes.
    """
    wall = np.array(255 if array.dtype == np.uint8 else np.nan).astype(array.dtype)
    store = np.full(array.size + 4 * GUARD, wall)
    begin = GUARD + (-store[GUARD:].ctypes.data // store.itemsize) % (64 // store.itemsize) + shift
    inner = store[begin : begin + array.size]
    inner[:] = array.ravel()
    return inner.reshape(array.shape)


def guards_hold(array: np.ndarray) -> bool:
    """Whether the values around a `guarded` array are as they were."""
    store = array
    while isinstance(store.base, np.ndarray):
        store = store.base
    begin = (array.ctypes.data - store.ctypes.data) // store.itemsize
    around = np.concatenate([store[:begin], store[begin + array.size :]])
    return bool(np.all(around == 255) if array.dtype == np.uint8 else np.all(np.isnan(around)))


class HostKernels:
    """Kernels compiled into one library.

    Args:
        kernels: What to compile.
        folder: An empty one, that the caller removes.
        edit: A piece of guided_filter.cu and what takes its place, to see whether the tests would notice.
    """

    def __init__(self, kernels: Sequence[Kernel], folder: Path, edit: tuple[str, str] = ("", "")) -> None:
        self.kernels = list(kernels)
        source, library = folder / "guided_filter.cu", folder / "kernels.so"
        text = (FOLDER / "guided_filter.cu").read_text(encoding="utf-8")
        assert edit[0] in text
        source.write_text(text.replace(*edit) if edit[0] else text, encoding="utf-8")
        options = "-x c++ -std=c++17 -O1 -fPIC -shared -fno-strict-aliasing -DFGF_HOST"
        options += " -fsanitize=undefined -fsanitize-undefined-trap-on-error"
        options += " -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused"
        command = ["g++", *options.split(), "-include", str(FOLDER / "host_shim.h"), "-I", str(folder)]
        command += ["-o", str(library), "-"]
        done = subprocess.run(command, input=self._source(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.library = ctypes.CDLL(str(library))

    def _source(self) -> str:
        parts = []
        for number, kernel in enumerate(self.kernels):
            macros = kernel.definitions() | {kernel.name: f"{kernel.name}_{number}"}
            defines = "".join(f"#define {name} {value}\n" for name, value in macros.items())
            undefines = "".join(f"#undef {name}\n" for name in macros)
            parts.append(
                f'{defines}namespace kernel_{number} {{\n#include "guided_filter.cu"\n}}\n{undefines}'
            )
        parts.append('extern "C" float widen_half(unsigned short bits) { return widen(bits); }\n')
        parts.append('extern "C" unsigned short narrow_float(float value) { return narrow(value); }\n')
        return "".join(parts)

    def run(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[ctypes.c_void_p | ctypes.c_int],
        backwards: bool = False,
    ) -> None:
        """Launch as the CUDA driver would, with the kernel's arguments in the order given."""
        function = getattr(self.library, f"{kernel.name}_{self.kernels.index(kernel)}")
        runner = getattr(self.library, kernel.name.replace("fgf_", "run_"))
        sizes = [(ctypes.c_int * 3)(*size) for size in (grid, block)]
        outcome = OUTCOMES[runner(function, *sizes, int(backwards), *arguments)]
        assert outcome == "DONE", outcome

    def coefficients(
        self, kernel: CoefficientsKernel, guide: np.ndarray, logits: np.ndarray, backwards: bool = False
    ) -> np.ndarray:
        batch, _, height, width = guide.shape
        out = guarded(np.zeros((batch, 2, height, width), kernel.coefficients))
        inputs = guarded(guide), guarded(logits)
        arguments = pack(*inputs, height, width, out)
        self.run(kernel, kernel.grid(batch, height, width, cdiv), kernel.block, arguments, backwards)
        assert guards_hold(out)
        return out

    def apply(
        self,
        kernel: ApplyKernel,
        coefficients: np.ndarray,
        guide: np.ndarray,
        shifts: tuple[int, int] = (0, 0),
    ) -> np.ndarray:
        batch, _, coarse_height, coarse_width = coefficients.shape
        height, width = guide.shape[1:3] if kernel.layout == "interleaved" else guide.shape[2:]
        out = guarded(np.zeros((batch, 1, height, width), kernel.alpha), shifts[1])
        inputs = guarded(coefficients), guarded(guide, shifts[0])
        arguments = pack(*inputs, coarse_height, coarse_width, height, width, out)
        self.run(kernel, kernel.grid(batch, height, width, cdiv), kernel.block, arguments)
        assert guards_hold(out)
        return out


def require_compiler() -> None:
    if not sys.platform.startswith("linux") or shutil.which("g++") is None:
        pytest.skip("running the CUDA kernels on a CPU takes Linux and g++")
