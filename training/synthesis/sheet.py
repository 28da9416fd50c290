"""A sheet of what a run has drawn, to look at."""

import math
from pathlib import Path

import numpy as np
import torch

from stylematte.files import write_bytes
from stylematte.imaging.geometry import resize
from stylematte.media.images import encode_image
from training.gan.sheets import checker_sheet
from training.synthesis.folder import SampleFolder

MOST = 64
_CELL_PX = 160


def write_sheet(path: Path, folder: SampleFolder) -> None:
    """Write a sheet of the first pictures kept, on a chequered ground.

    Args:
        path: Of the sheet, .png, .jpg or .webp.
        folder: With at least one picture.

    Raises:
        InputError: A picture cannot be read, or the sheet cannot be written.
    """
    kept = [index for index, line in sorted(folder.lines.items()) if line["outcome"] == "ok"][:MOST]
    side = min(_CELL_PX, folder.settings.size_px)
    pictures = np.stack([resize(folder.read(index), (side, side)) for index in kept])
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    sheet = checker_sheet(planes, math.ceil(math.sqrt(len(kept))))
    write_bytes(path, encode_image(sheet, path.suffix.lower()[1:]))
