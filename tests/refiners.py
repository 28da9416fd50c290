"""A refiner whose answer is known without running it, beside the red detector."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.functions import OPSET
from export.precision import set_metadata
from tests.conftest import red_detector

AS_BRIGHT = 84  # a grey as bright to the guide as red is: no guided filter finds the edge between them


def native_red(version: str = "1", tiles: int = 2, side_px: int = 64) -> onnx.ModelProto:
    """A refiner whose alpha is the redness of the pixel: sigmoid(40 · (red − green) − 10)."""
    node = helper.make_node
    constants = {
        "weights": np.array([40, -40, 0], np.float32).reshape(1, 3, 1, 1),
        "bias": np.array([-10], np.float32),
        "nothing": np.array([0], np.float32),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            node("Conv", ["image", "weights", "bias"], ["red"]),
            node("Mul", ["coarse", "nothing"], ["unheard"]),
            node("Add", ["red", "unheard"], ["logits"]),
            node("Sigmoid", ["logits"], ["alpha"]),
        ],
        "native_red",
        [
            value("image", TensorProto.FLOAT, [tiles, 3, side_px, side_px]),
            value("coarse", TensorProto.FLOAT, [tiles, 1, side_px, side_px]),
        ],
        [value("alpha", TensorProto.FLOAT, [tiles, 1, side_px, side_px])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    helper.set_model_props(
        model, {"stylematte.refiner_contract": version, "stylematte.refiner": "native_red"}
    )
    onnx.checker.check_model(model)
    return model


def save_pair(folder: Path, refiner: onnx.ModelProto | None = None) -> Path:
    """Write the red detector and a refiner that it names; gives the detector's path."""
    path = folder / "red_refiner.onnx"
    onnx.save(native_red() if refiner is None else refiner, path)
    model = red_detector("2")
    set_metadata(model, "refiner", path.name)
    set_metadata(model, "refiner_sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    onnx.save(model, folder / "red.onnx")
    return folder / "red.onnx"


def red_strands(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A red disc with strands on grey as bright, (H, W, 3) uint8 RGB, and its alpha, (H, W) in [0, 1]."""
    alpha = np.zeros((height, width), np.uint8)
    middle, radius = (width // 2, height // 2), min(height, width) // 5
    cv2.circle(alpha, middle, radius, 255, -1)
    for angle in np.linspace(0, 2 * np.pi, 60, endpoint=False):
        end = np.round(np.add(middle, 1.4 * radius * np.array([np.cos(angle), np.sin(angle)])))
        cv2.line(alpha, middle, end.astype(int).tolist(), 255, 2)
    truth = (alpha > 0).astype(np.float32)
    image = np.full((height, width, 3), AS_BRIGHT, np.uint8)
    image[alpha > 0] = (255, 0, 0)
    return image, truth
