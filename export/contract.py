"""The parts of docs/model-contract.md that all export steps share: versions and inputs."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

CONTRACT_VERSION = "2"
READABLE_VERSIONS = ("1", CONTRACT_VERSION)
Float = NDArray[np.float32]


def feed(
    names: Collection[str], image: Float, guide: Float | None = None, prior: Float | None = None
) -> dict[str, Float]:
    """Return arrays by input name; a missing guide or prior becomes zeros.

    Args:
        names: Names of the inputs; arrays that the file has no input for are left out.
        image: (N, 3, h, w) RGB in [0, 1] at working size.
        guide: (N, 3, H, W), the same at full size; None if alpha is not requested.
        prior: (N, 1, h, w), an earlier alpha.
    """
    count, _, height, width = image.shape
    arrays = {
        "image": image,
        "guide": np.zeros((count, 3, 1, 1), np.float32) if guide is None else guide,
        "prior": np.zeros((count, 1, height, width), np.float32) if prior is None else prior,
    }
    return {name: array for name, array in arrays.items() if name in names}
