"""Export a network at a given precision, checking parity after every step."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from export.contract import Float
from export.int8 import MOST_PHOTOS, split_photos, to_int8
from export.network_parity import check_parity
from export.onnx import Origin, export_onnx
from export.parity import PHOTOS, Parity, at_working_size, check_converted, read_photos
from export.precision import Precision, set_metadata, to_half
from models.stylematte import StyleMatte
from stylematte.errors import InputError


@dataclass(frozen=True)
class Built:
    """A finished model and its measurements.

    Attributes:
        model: The model, with `parity` in its metadata.
        parity: Parity of the last step: against torch for fp32, otherwise against the fp32 file.
        calibration_photos: Number of photos that calibrated an int8 file; 0 for other precisions.
    """

    model: onnx.ModelProto
    parity: Parity
    calibration_photos: int = 0


def build_onnx(
    network: StyleMatte,
    origin: Origin,
    precision: Precision,
    photos: Path | None,
    size: int | None = None,
    fixed_size: tuple[int, int] | None = None,
    *,
    prior: bool = True,
) -> Built:
    """Export a network, convert it, and check parity after both steps.

    Args:
        network: Network in evaluation mode, on the CPU.
        origin: Origin of the weights, for the metadata.
        precision: Precision of the file.
        photos: Folder of photos for the parity check, and for int8 calibration; None uses the bundled
            photos, which are too few for int8.
        size: Working size that the file declares; None keeps the preset's.
        fixed_size: The only (height, width) that the file accepts; None accepts every multiple of the
            stride.
        prior: Keep the input `prior`, if the network takes one; what follows it is in an `If`.

    Raises:
        InputError: The folder has no images, or too few for int8.
        InputError: The size is below the stride, or the fixed size is not a multiple of it.
        EngineError: The network cannot be traced, or its weights overflow the number type.
        ParityError: A step changed the network's output by more than the limits.
    """
    if size is not None:
        network.preset = replace(network.preset, working_size=size)
    if not prior:
        network.preset = replace(network.preset, prior=False)
    preset = network.preset
    if preset.working_size < preset.stride or any(side % preset.stride for side in fixed_size or ()):
        raise InputError(f"preset {preset.name} needs sizes that are multiples of {preset.stride} pixels")
    proof, calibration = _images(photos or PHOTOS, precision)
    original = export_onnx(network, origin)
    parity = check_parity(network, original, proof)
    model, used = original, 0
    if precision != "fp32":
        if precision == "int8":
            used = len(calibration)
            images = [at_working_size(p, preset.working_size, preset.stride) for p in calibration]
            model = to_int8(original, images)
        else:
            model = to_half(original, precision)
        sides = preset.working_size, preset.stride
        parity = check_converted(original, model, precision, proof, sides)
    if fixed_size is not None:
        fix_size(model, fixed_size)
    set_metadata(model, "parity", json.dumps(parity.as_dict()))
    return Built(model, parity, used)


def _images(folder: Path, precision: Precision) -> tuple[dict[str, Float], list[Float]]:
    """Read the photos for the parity check, by name, and the separate photos for int8 calibration."""
    images = read_photos(folder, MOST_PHOTOS if precision == "int8" else 8)
    if precision != "int8":
        return images, []
    return split_photos(images, folder)


def fix_size(model: onnx.ModelProto, size: tuple[int, int]) -> None:
    """Fix a file's working (height, width), in place: some runtimes need static shapes."""
    for port in model.graph.input:
        if port.name in ("image", "prior"):
            for dimension, side in zip(port.type.tensor_type.shape.dim[2:], size, strict=True):
                dimension.dim_value = side
    # The output shapes, such as the grid of A and b, follow from the graph.
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    for port, found in zip(model.graph.output, inferred, strict=True):
        port.CopyFrom(found)
    set_metadata(model, "working_sizes", f"{size[0]}x{size[1]}")
    onnx.checker.check_model(model, full_check=True)
