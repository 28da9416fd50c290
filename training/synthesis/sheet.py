"""A contact sheet of generated images."""

import math
from pathlib import Path

import numpy as np
import torch

from stylematte.files import write_bytes
from stylematte.imaging.geometry import resize
from stylematte.media.images import encode_image
from training.gan.sheets import checker_sheet
from training.synthesis.folder import SampleFolder

MAX_IMAGES = 64
_CELL_PX = 160


def write_sheet(path: Path, folder: SampleFolder) -> None:
    """Write a contact sheet of the first kept images: cut-outs over a checkerboard, composites as they are.

    Args:
        path: Path of the sheet, .png, .jpg or .webp.
        folder: Folder with at least one image.

    Raises:
        InputError: An image cannot be read, or the sheet cannot be written.
    """
    kept = [index for index, line in sorted(folder.lines.items()) if line["outcome"] == "ok"][:MAX_IMAGES]
    side = min(_CELL_PX, folder.settings.size_px)
    images = np.stack([resize(folder.read(index), (side, side)) for index in kept])
    if folder.settings.form == "composites":
        images[..., 3] = 255
    planes = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    sheet = checker_sheet(planes, math.ceil(math.sqrt(len(kept))))
    write_bytes(path, encode_image(sheet, path.suffix.lower()[1:]))
