"""Image matting: image in, matte out.

    import cv2, stylematte
    matter = stylematte.load("nano")
    matte = matter(cv2.imread("photo.jpg")[:, :, ::-1])
    matte.alpha                      # (H, W) float32 in [0, 1]
    matte.composite((0, 120, 80))    # (H, W, 3) over a new background

What `__all__` names is stable; the modules behind it may change. `PhotoRequest` and `ClipRequest` say what
is made of files, see `stylematte.folder`.

Importing the package imports neither OpenCV nor a runtime: `stylematte --help` has to answer at once.
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

# From 1.32 on, importing ONNX Runtime writes a device id into the user's cache and calls a server, unless
# this is set before. Who sets it to 0 has chosen.
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
        device: `auto`, `cpu`, `cuda` or `cuda:1`. A device named here and not to be had is an error.
        engine: `auto`, `onnx`, `openvino` or `tensorrt`.
        size: Working size in pixels: side of the square with as many pixels as the network shall see.
            None takes the model's own.
        threads: CPU threads of the network. None takes all cores this process may use.
        detail: How much of the uncertain band is looked at again at the image's own size: `auto`, `off`,
            `max`, or so many megapixels. Only for models with a refiner.
        lanes: How many threads will use the `Matter` at once; with more than one, each pass has one thread.
        precision: `auto`, `float32` or `bfloat16`: what OpenVINO computes in.

    Returns:
        A `Matter`: call it with an image (H, W, 3) and it gives a `Matte`, whose `alpha` is (H, W) float32 in
        [0, 1]. Safe for as many threads at once as there are lanes.

    Raises:
        MissingError: The weights, the runtime or the device are not here.
        InputError: The file is not a model of this tool.
        UsageError: `device`, `engine`, `size`, `threads` or `detail` cannot be meant.
    """
    from stylematte.engines import open_engine
    from stylematte.engines.gpu import use_gpu_filter
    from stylematte.matter import Matter, open_detail
    from stylematte.weights import resolve

    path = resolve(weights)
    opened = open_engine(path, engine, device, threads, lanes, precision)
    refining = open_detail(detail, path, opened, device, threads)
    if refining is None:  # else coefficients are needed here, for windows of the coarse alpha
        use_gpu_filter(opened, device)
    return Matter(opened, size, refining)


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("stylematte")
        except PackageNotFoundError:  # a checkout on PYTHONPATH, never installed
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
