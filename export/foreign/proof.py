"""Parity of a wrapped network with the bare one in its documented processing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract import Float
from export.foreign.families import Processing
from export.foreign.reading import Seen
from export.parity import PHOTOS, read_photos
from stylematte.engines.base import Contract
from stylematte.errors import EngineError, InputError
from stylematte.imaging.geometry import resize_to_working

MOST_DIFFERENT = 1 / 255  # at any pixel: one 8-bit level
# An int8 network rounds differently if a runtime sums in another order, and all later layers change. So its
# pixels have a loose limit, and their mean has the limit above.
MOST_DIFFERENT_IN_8_BITS = 0.25
SLACK = 0.01  # tolerance by which an alpha may leave [0, 1]
Answer = Callable[[Float], NDArray[Any]]


@dataclass(frozen=True)
class Proof:
    """Absolute differences of alpha at the network's own size, over the bundled photos."""

    images: int
    max_difference: float
    mean_difference: float
    batch_sizes: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the file's metadata."""
        return {
            "reference": "the bare network",
            "pictures": self.images,
            "max_difference": self.max_difference,
            "mean_difference": self.mean_difference,
            "batch_sizes": self.batch_sizes,
        }


def own_size_photos(contract: Contract) -> list[Float]:
    """Return the bundled photos as network inputs, (1, 3, h, w) float32 in steps of 1/255."""
    photos = []
    for planes in read_photos(PHOTOS).values():
        image = np.round(planes.transpose(1, 2, 0) * 255).astype(np.uint8)
        size = contract.working_size_for(*image.shape[:2])
        photos.append(resize_to_working(image, size)[None])
    return photos


def bare_network(path: Path, seen: Seen, output: str) -> Answer:
    """Open the original file, to run it unchanged.

    Raises:
        InputError: ONNX Runtime cannot open or run it.
    """
    session = _open(path, str(path))
    (port,) = seen.inputs
    dtype = np.float16 if port.kind == "float16" else np.float32

    def run(ready: Float) -> NDArray[Any]:
        try:
            return np.asarray(session.run([output], {port.name: ready.astype(dtype)})[0])
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            sides = "x".join(map(str, ready.shape))
            raise InputError(f"{path}: fails on an image of {sides}: {_one_line(error)}") from None

    return run


def reference_alpha(run: Answer, processing: Processing, image: Float, where: str) -> NDArray[np.float64]:
    """Compute alpha as the network's authors do: NumPy around the bare network.

    Args:
        run: Result of `bare_network`.
        processing: Documented processing.
        image: (1, 3, h, w) in [0, 1].
        where: Name of the file, for messages.

    Returns:
        (h, w) alpha.

    Raises:
        InputError: The output is not one value per pixel, not in [0, 1], or does not need the sigmoid.
    """
    # In float32, as in the wrapped file: the last bit of an int8 network's input can change whole levels.
    colours = image / np.maximum(image.max(), np.float32(1e-6)) if processing.divides_by_max else image
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (processing.mean, processing.std))
    answer = run(np.asarray((colours - mean.astype(np.float32)) / std.astype(np.float32), np.float32))
    shape = answer.shape
    answer = np.asarray(answer, np.float64)
    if shape not in ((1, 1, *image.shape[2:]), (1, *image.shape[2:])):
        sides = "x".join(map(str, shape))
        raise InputError(
            f"{where}: its output is {sides}, but it must have one value per pixel of the input",
            "Choose another output with --output NAME",
        )
    answer = answer.reshape(image.shape[2:])
    if processing.activation.startswith("sigmoid"):
        if answer.min() >= 0 and answer.max() <= 1:
            raise InputError(
                f"{where}: its output is in [0, 1] already, so it needs no sigmoid",
                "Give --activation none",
            )
        answer = 1 / (1 + np.exp(-answer))
    if processing.activation.endswith("minmax"):
        low, high = answer.min(), answer.max()
        answer = (answer - low) / max(high - low, 1e-6)
    if not (-SLACK <= answer.min() and answer.max() <= 1 + SLACK):  # also false for NaN
        raise InputError(
            f"{where}: its output runs from {answer.min():.3g} to {answer.max():.3g}, which is not an alpha",
            "Give the function that makes an alpha: --activation sigmoid or minmax",
        )
    return np.clip(answer, 0, 1)


def prove(
    model: onnx.ModelProto, images: list[Float], expected: list[NDArray[np.float64]], where: str
) -> Proof:
    """Compare a wrapped network with `reference_alpha`, and a batch of two with single images.

    Raises:
        EngineError: They differ by more than the limits, or the network does not run.
    """
    session = _open(model.SerializeToString(), where)
    is_int8 = any(e.key == "stylematte.precision" and e.value == "int8" for e in model.metadata_props)
    limit = MOST_DIFFERENT_IN_8_BITS if is_int8 else MOST_DIFFERENT
    is_single = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1

    def run(image: Float) -> Float:
        try:
            return np.asarray(session.run(["alpha"], {"image": image, "guide": image})[0], np.float32)
        except Exception as error:
            raise EngineError(f"{where}: the imported network does not run: {_one_line(error)}") from None

    differences = [np.abs(run(image)[0, 0] - alpha) for image, alpha in zip(images, expected, strict=True)]
    if not is_single:
        pair = run(np.concatenate([images[0], images[0][:, :, ::-1]]))
        differences.append(np.abs(pair[0, 0] - expected[0]))
        turned = run(np.ascontiguousarray(images[0][:, :, ::-1]))
        if not np.abs(pair[1] - turned[0]).max() <= limit:
            raise EngineError(f"{where}: a batch of two images gives other results than single images")
    greatest = max(float(difference.max()) for difference in differences)
    mean = max(float(difference.mean()) for difference in differences)
    if not (greatest <= limit and mean <= MOST_DIFFERENT):
        raise EngineError(
            f"{where}: the imported network differs from the original by up to {greatest:.2g}, on average by "
            f"{mean:.2g}; allowed are {limit:.2g} and {MOST_DIFFERENT:.2g}",
            "This is a fault of the import; please report it with the file's name",
        )
    return Proof(len(images), greatest, mean, (1,) if is_single else (1, 2))


def _open(source: Path | bytes, where: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures raise exceptions
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        data = str(source) if isinstance(source, Path) else source
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{where}: ONNX Runtime cannot open it: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
