"""What every step of an export knows of docs/model-contract.md: its version, and a file's inputs."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

CONTRACT_VERSION = "2"
READABLE_VERSIONS = ("1", CONTRACT_VERSION)
Float = NDArray[np.float32]


def feed(
    names: Collection[str], image: Float, guide: Float | None = None, prior: Float | None = None
) -> dict[str, Float]:
    """Arrays by the names of a file's inputs; zeros stand for a guide nobody looks at, and for no prior.

    Args:
        names: Of the inputs; a prior for a file without one is left out.
        image: (N, 3, h, w) RGB in [0, 1] at working size.
        guide: (N, 3, H, W), the same at full size; None where alpha is not asked for.
        prior: (N, 1, h, w), alpha believed so far.
    """
    count, _, height, width = image.shape
    arrays = {
        "image": image,
        "guide": np.zeros((count, 3, 1, 1), np.float32) if guide is None else guide,
        "prior": np.zeros((count, 1, height, width), np.float32) if prior is None else prior,
    }
    return {name: array for name, array in arrays.items() if name in names}
