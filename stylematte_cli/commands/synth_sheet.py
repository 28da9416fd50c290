"""A sheet of cut-outs on a chequered ground, to look at."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stylematte_cli.imaging.compose import composite
from stylematte_cli.imaging.geometry import resize
from stylematte_cli.media.images import encode_image, write_bytes

if TYPE_CHECKING:
    from stylematte_cli.commands.synth_files import SampleFolder

MOST = 64
_CELL_PX = 160
_CHECK_PX = 8
_GREYS = (120, 190)


def write_sheet(path: Path, folder: "SampleFolder") -> None:
    """Write a sheet of the first pictures kept.

    Args:
        path: Of the sheet, .png, .jpg or .webp.
        folder: With at least one picture.

    Raises:
        InputError: A picture cannot be read, or the sheet cannot be written.
    """
    kept = [index for index, line in sorted(folder.lines.items()) if line["outcome"] == "ok"][:MOST]
    side = min(_CELL_PX, folder.settings.size_px)
    columns = math.ceil(math.sqrt(len(kept)))
    sheet = np.zeros((-(-len(kept) // columns) * side, columns * side, 4), np.uint8)
    for place, index in enumerate(kept):
        top, left = place // columns * side, place % columns * side
        sheet[top : top + side, left : left + side] = resize(folder.read(index), (side, side))
    checks = _checks(sheet.shape[:2])
    laid = composite(np.ascontiguousarray(sheet[..., :3]), np.ascontiguousarray(sheet[..., 3]), checks)
    write_bytes(path, encode_image(laid, path.suffix.lower()[1:]))


def _checks(size: tuple[int, int]) -> NDArray[np.uint8]:
    y, x = np.indices(size) // _CHECK_PX
    return np.repeat(np.array(_GREYS, np.uint8)[(x + y) % 2][..., None], 3, axis=2)
