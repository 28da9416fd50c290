"""Image matting: image in, matte out.

    import cv2, stylematte
    matter = stylematte.load("nano")
    matte = matter(cv2.imread("photo.jpg")[:, :, ::-1])
    matte.alpha                      # (H, W) float32 in [0, 1]
    matte.composite((0, 120, 80))    # (H, W, 3) over a new background

The names in `__all__` are stable; the modules behind them may change. `PhotoRequest` and `ClipRequest`
describe the results to make from files, see `stylematte.folder`.

Importing the package imports neither OpenCV nor a runtime, so that `stylematte --help` answers at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from stylematte.errors import StyleMatteError
    from stylematte.matter import Matte, Matter
    from stylematte.requests import ClipRequest, PhotoRequest

    __version__: str

# From 1.32 on, importing ONNX Runtime writes a device id to the user's cache and contacts a server, unless
# this is set first. A value set by the user, such as 0, is kept.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"

__all__ = [
    "ClipRequest",
    "Matte",
    "Matter",
    "PhotoRequest",
    "StyleMatteError",
    "__version__",
    "load",
]


def load(
    weights: str | Path = "nano",
    *,
    device: str = "auto",
    engine: str = "auto",
    size: int | None = None,
    threads: int | None = None,
    detail: str = "auto",
    lanes: int = 1,
    precision: str = "auto",
) -> Matter:
    """Open a model, ready to matte images.

    Args:
        weights: A name that `stylematte models` lists, or the path of an exported ONNX file.
        device: `auto`, `cpu`, `cuda` or `cuda:1`. An explicitly named device that is unavailable is an error.
        engine: `auto`, `onnx`, `openvino` or `tensorrt`.
        size: Working size in pixels: side of the square with as many pixels as the network's input. None: the
            model's own.
        threads: CPU threads of the network. None: all cores that this process may use.
        detail: How much of the uncertain band is refined at the image's own size, by models with a refiner:
            `auto`, `off`, `max`, or a number of megapixels. Unless it is `off`, models that take a prior also
            look closer at subjects that do not fill the image.
        lanes: Number of threads that use the `Matter` in parallel; above 1, each pass has one thread.
        precision: Precision in which OpenVINO computes: `auto`, `float32` or `bfloat16`.

    Returns:
        A `Matter`: called with an image (H, W, 3), it returns a `Matte`, whose `alpha` is (H, W) float32 in
        [0, 1]. It can be called from as many threads in parallel as there are lanes.

    Raises:
        MissingError: The weights, the runtime or the device are not available.
        InputError: The file is not a model of this tool.
        UsageError: `device`, `engine`, `size`, `threads` or `detail` is invalid.
    """
    from stylematte.engines import open_engine
    from stylematte.engines.gpu import use_gpu_filter
    from stylematte.matter import Matter, open_detail
    from stylematte.weights import resolve

    path = resolve(weights)
    opened = open_engine(path, engine, device, threads, lanes, precision)
    refining = open_detail(detail, path, opened, device, threads)
    if refining is None:  # otherwise coefficients are needed on the CPU, for windows of the coarse alpha
        use_gpu_filter(opened, device)
    return Matter(opened, size, refining)


def __getattr__(name: str) -> object:
    """Import a public name at its first use."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("stylematte")
        except PackageNotFoundError:  # a checkout on PYTHONPATH that is not installed
            return "0+unknown"
    if name in ("Matte", "Matter"):
        from stylematte import matter

        return getattr(matter, name)
    if name in ("PhotoRequest", "ClipRequest"):
        from stylematte import requests

        return getattr(requests, name)
    if name == "StyleMatteError":
        from stylematte.errors import StyleMatteError

        return StyleMatteError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
