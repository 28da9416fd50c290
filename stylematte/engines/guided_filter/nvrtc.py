"""Compile guided_filter.cu to PTX with NVRTC, which needs no GPU, driver or CUDA toolkit."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from stylematte import files
from stylematte.engines.guided_filter.kernels import Kernel
from stylematte.errors import EngineError

SOURCE = Path(__file__).with_name("guided_filter.cu")
# PTX for Turing also runs on all later GPUs: the driver compiles it when it is loaded.
ARCHITECTURE = "compute_75"
INSTALL = 'pip install "stylematte[cuda]"'

logger = logging.getLogger(__name__)


def compile_ptx(kernel: Kernel, architecture: str = ARCHITECTURE, folder: Path | None = None) -> str:
    """Compile one kernel, or read it from the disk cache.

    Args:
        kernel: The kernel with its compile-time options.
        architecture: Virtual architecture of the oldest supported GPUs, such as `compute_75`.
        folder: Folder of the cache; `cache_folder()` if not given.

    Returns:
        PTX with one entry point, `kernel.name`.

    Raises:
        EngineError: NVRTC is not installed, or the kernel does not compile.
    """
    source = SOURCE.read_bytes()
    # Flushing denormals (below about 1e-38) to 0 makes exponential and division one instruction each.
    options = [f"--gpu-architecture={architecture}", "--ftz=true"]
    options += [f"-D{name}={value}" for name, value in kernel.definitions().items()]
    parts = [source, *(option.encode() for option in options), version().encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    path = (folder or cache_folder()) / f"{kernel.name}-{digest[:32]}.ptx"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    ptx = _compile(source, options)
    try:
        with files.writing(path, shared=True) as temporary:
            temporary.write_text(ptx, encoding="utf-8")
    except OSError as error:  # a read-only home only costs a compilation per process
        logger.warning("%s: the compiled kernel cannot be cached: %s", path, error)
    return ptx


def version() -> str:
    """Return NVRTC's version, such as `13.0`. Drivers reject PTX from a version newer than their own CUDA.

    Raises:
        EngineError: NVRTC is not installed.
    """
    major, minor = _checked(_nvrtc().nvrtcVersion())
    return f"{major}.{minor}"


def cache_folder() -> Path:
    """Return the folder of the compiled kernels."""
    return files.cache_folder() / "ptx"


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # the library itself is loaded only now
    except (ImportError, RuntimeError) as error:
        raise EngineError(f"NVRTC cannot be loaded ({error}): {INSTALL}") from error
    return nvrtc


def _compile(source: bytes, options: list[str]) -> str:
    nvrtc = _nvrtc()
    (program,) = _checked(nvrtc.nvrtcCreateProgram(source, SOURCE.name.encode(), 0, [], []))
    try:
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise EngineError(f"{SOURCE.name} does not compile with {' '.join(options)}:\n{log}")
        return _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _text(get_size: Any, get: Any, program: Any) -> str:
    (size,) = _checked(get_size(program))
    buffer = bytes(size)
    _checked(get(program, buffer))
    return buffer.rstrip(b"\0").decode()


def _checked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    code, *values = result
    if code.value:
        raise EngineError(f"NVRTC failed: {code.name}")
    return tuple(values)
