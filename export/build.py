"""A network becomes a file of the precision asked for, proven at every step on the way."""

import itertools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from export.contract import Float
from export.int8 import FEWEST_PHOTOS, MOST_PHOTOS, to_int8
from export.network_parity import check_parity
from export.onnx import Origin, export_onnx
from export.parity import PHOTOS, Parity, at_working_size, check_converted, read_photos
from export.precision import Precision, set_metadata, to_half
from models.stylematte import StyleMatte
from stylematte.errors import InputError

PROOF_SHARE = 4  # of a folder of photos, one in so many proves an int8 file; the rest set its ranges


@dataclass(frozen=True)
class Built:
    """A finished model and what is known of it.

    Attributes:
        model: Its metadata carry `parity`.
        parity: Of the last step: against torch for fp32, against the fp32 file else.
        calibration_photos: How many photos set the ranges of an int8 file; 0 for the others.
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
) -> Built:
    """Export a network, convert it, and compare after each of the two steps.

    Args:
        network: In evaluation mode, on the CPU.
        origin: Goes into the metadata.
        precision: Of the file.
        photos: Folder to prove the file on, and for int8 to set the ranges on; None takes the pictures that
            come along, which are too few for int8.
        size: Working size that the file shall name as its own; None keeps the preset's.
        fixed_size: The one (height, width) that the file shall take; None lets it take every multiple of the
            stride.

    Raises:
        InputError: No picture in the folder.
        InputError: Too few of them for int8.
        EngineError: The network cannot be traced.
        EngineError: The network does not fit the number type.
        ParityError: A step changed what the network says.
        InputError: A size below the stride, or a fixed one that is no multiple of it.
    """
    if size is not None:
        network.preset = replace(network.preset, working_size=size)
    preset = network.preset
    if preset.working_size < preset.stride or any(side % preset.stride for side in fixed_size or ()):
        raise InputError(f"preset {preset.name} takes multiples of {preset.stride} pixels")
    pictures, calibration = _pictures(photos or PHOTOS, precision)
    original = export_onnx(network, origin)
    parity = check_parity(network, original, pictures)
    model, used = original, 0
    if precision != "fp32":
        if precision == "int8":
            used = len(calibration)
            images = [at_working_size(p, preset.working_size, preset.stride) for p in calibration]
            model = to_int8(original, images)
        else:
            model = to_half(original, precision)
        sides = preset.working_size, preset.stride
        parity = check_converted(original, model, precision, pictures, sides)
    if fixed_size is not None:
        fix_size(model, fixed_size)
    set_metadata(model, "parity", json.dumps(parity.as_dict()))
    return Built(model, parity, used)


def _pictures(folder: Path, precision: Precision) -> tuple[dict[str, Float], list[Float]]:
    """Read what proves a file, by name, and what sets the ranges of an int8 one: that proves nothing."""
    pictures = read_photos(folder, MOST_PHOTOS if precision == "int8" else 8)
    if precision != "int8":
        return pictures, []
    calibration = [p for i, p in enumerate(pictures.values()) if i % PROOF_SHARE]
    if len(calibration) < FEWEST_PHOTOS:
        raise InputError(
            f"{folder}: {len(pictures)} photos, and int8 needs {fewest_photos()} at least: "
            f"{FEWEST_PHOTOS} that set its ranges, and one in {PROOF_SHARE} that proves the file"
        )
    return {name: p for i, (name, p) in enumerate(pictures.items()) if i % PROOF_SHARE == 0}, calibration


def fewest_photos() -> int:
    """How many photos a folder for int8 has to hold, those that prove the file counted in."""
    return next(n for n in itertools.count(1) if n - math.ceil(n / PROOF_SHARE) >= FEWEST_PHOTOS)


def fix_size(model: onnx.ModelProto, size: tuple[int, int]) -> None:
    """Let a file take one working (height, width) alone, in place: some runtimes want all shapes known."""
    for port in model.graph.input:
        if port.name in ("image", "prior"):
            for dimension, side in zip(port.type.tensor_type.shape.dim[2:], size, strict=True):
                dimension.dim_value = side
    # The grid of A and b is what the graph makes of it.
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    for port, found in zip(model.graph.output, inferred, strict=True):
        port.CopyFrom(found)
    set_metadata(model, "working_sizes", f"{size[0]}x{size[1]}")
    onnx.checker.check_model(model, full_check=True)
