"""Convert a finished model file to another precision: for imported networks, without torch."""

import json
import logging
from pathlib import Path

import numpy as np
import onnx

from export.contract import Float
from export.int8 import MOST_PHOTOS, split_photos, to_int8
from export.parity import LIMITS, PHOTOS, Case, Parity, compare, read_photos, run_onnx
from export.precision import Precision, from_half, rounded_in_float32, set_metadata, to_half
from stylematte.engines.base import Contract
from stylematte.errors import InputError, UsageError
from stylematte.imaging.geometry import resize_to_working

log = logging.getLogger("stylematte")


def convert(
    model: onnx.ModelProto, precision: Precision, photos: Path | None, where: str
) -> tuple[onnx.ModelProto, Parity]:
    """Convert a contract file in float32 or float16, and compare the result with it.

    A float16 file first becomes a float32 file with the same weights.

    Args:
        model: Contract file; it is not changed.
        precision: The new precision.
        photos: Folder of photos for the parity check, and for int8 calibration; None uses the two bundled
            photos, which are too few for int8.
        where: Name of the file, for messages.

    Returns:
        The converted model, with `parity` in its metadata, and its parity.

    Raises:
        UsageError: The file already has this precision.
        InputError: The folder has no images, or too few for int8; or the file is neither float32 nor float16.
        EngineError: The weights overflow the number type, or the network cannot be quantised.
        ParityError: The alphas differ by more than the limits.
    """
    contract = Contract.from_metadata({entry.key: entry.value for entry in model.metadata_props}, where)
    before = contract.precision
    if before == precision:
        raise UsageError(
            f"{where}: already a model file in {precision}",
            "Give another precision: --fp16, --bf16, --int8, or none of them for float32",
        )
    if before not in ("fp32", "fp16"):
        raise InputError(
            f"{where}: computes in {before}, and cannot be converted to {precision}", "Give the float32 file"
        )
    wide = from_half(model) if before == "fp16" else model
    folder = photos or PHOTOS
    images = read_photos(folder, MOST_PHOTOS if precision == "int8" else 8)
    source, reference, limits = wide, "fp32", LIMITS[precision]
    if precision == "int8":
        images, calibration = split_photos(images, folder)
        converted = to_int8(wide, [_as_seen(photo, contract) for photo in calibration])
        run = run_onnx(converted)
    elif precision == "fp32":
        converted, run = wide, run_onnx(wide)
        # ONNX Runtime rounds some results of a float16 file; its float32 file differs by that.
        source, reference, limits = model, "fp16", LIMITS["fp16"]
    else:
        converted = to_half(wide, precision)
        run = run_onnx(rounded_in_float32(converted))
    cases: dict[str, Case] = {
        name: (_as_seen(photo, contract)[None], photo[None]) for name, photo in images.items()
    }
    parity = compare(cases, run_onnx(source), run, limits, reference)
    set_metadata(converted, "parity", json.dumps(parity.as_dict()))
    return converted, parity


def _as_seen(photo: Float, contract: Contract) -> Float:
    """Resize a photo (3, H, W) in [0, 1] to the network's input (3, h, w)."""
    image = np.round(photo.transpose(1, 2, 0) * 255).astype(np.uint8)
    return resize_to_working(image, contract.working_size_for(*image.shape[:2]))
