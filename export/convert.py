"""Convert a finished float32 model file to another precision: for imported networks, without torch."""

import json
import logging
from pathlib import Path

import numpy as np
import onnx

from export.contract import Float
from export.int8 import FEWEST_PHOTOS, MOST_PHOTOS, to_int8
from export.parity import LIMITS, PHOTOS, Case, Parity, compare, read_photos, run_onnx
from export.precision import Precision, from_half, rounded_in_float32, set_metadata, to_half
from stylematte.engines.base import Contract
from stylematte.errors import InputError
from stylematte.imaging.geometry import resize_to_working

PROOF_SHARE = 4  # one photo in 4 checks an int8 file's parity; the others calibrate it

log = logging.getLogger("stylematte")


def convert(
    model: onnx.ModelProto, precision: Precision, photos: Path | None, where: str
) -> tuple[onnx.ModelProto, Parity]:
    """Convert a contract file in float32 or float16, and compare the result with it.

    Args:
        model: Contract file; it is not changed.
        precision: `fp16`, `bf16` or `int8`.
        photos: Folder of photos for the parity check, and for int8 calibration; None uses the two bundled
            photos, which are too few for int8.
        where: Name of the file, for messages.

    Returns:
        The converted model, with `parity` in its metadata, and its parity.

    Raises:
        InputError: The folder has no images, or too few for int8; or the file is not float32.
        EngineError: The weights overflow the number type, or the network cannot be quantised.
        ParityError: The alphas differ by more than the limits.
    """
    contract = Contract.from_metadata({entry.key: entry.value for entry in model.metadata_props}, where)
    if contract.precision == "fp16" and precision in ("bf16", "int8"):
        model = from_half(model)
    elif contract.precision != "fp32":
        raise InputError(
            f"{where}: computes in {contract.precision}, and cannot be converted to {precision}",
            "Give the float32 file",
        )
    images = read_photos(photos or PHOTOS, MOST_PHOTOS if precision == "int8" else 8)
    if precision == "int8":
        calibration = [p for i, p in enumerate(images.values()) if i % PROOF_SHARE]
        if len(calibration) < FEWEST_PHOTOS:
            raise InputError(
                f"{len(images)} photos are too few for int8: it needs {FEWEST_PHOTOS} for "
                f"calibration, and one in {PROOF_SHARE} to check the result",
                "Give a larger folder as --photos",
            )
        images = {name: p for i, (name, p) in enumerate(images.items()) if i % PROOF_SHARE == 0}
        converted = to_int8(model, [_as_seen(photo, contract) for photo in calibration])
        run = run_onnx(converted)
    elif precision == "fp32":
        raise InputError(f"{where}: already a float32 file", "Give --fp16, --bf16 or --int8")
    else:
        converted = to_half(model, precision)
        run = run_onnx(rounded_in_float32(converted))
    cases: dict[str, Case] = {
        name: (_as_seen(photo, contract)[None], photo[None]) for name, photo in images.items()
    }
    parity = compare(cases, run_onnx(model), run, LIMITS[precision], "fp32")
    set_metadata(converted, "parity", json.dumps(parity.as_dict()))
    return converted, parity


def _as_seen(photo: Float, contract: Contract) -> Float:
    """Resize a photo (3, H, W) in [0, 1] to the network's input (3, h, w)."""
    image = np.round(photo.transpose(1, 2, 0) * 255).astype(np.uint8)
    return resize_to_working(image, contract.working_size_for(*image.shape[:2]))
