"""Near twins: the same photo twice under two names, perhaps turned over, with noise or other light.

A held-out picture whose twin was trained on says nothing about new pictures, and a split by name cannot know.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.readers import Sample, read_grey

# Share of the 256 signs that differ. Twins in the sets at hand lie below 0.16, other pairs above 0.24.
TWIN_DISTANCE = 0.16


def find_twins(samples: list[Sample], among: list[Sample]) -> list[bool]:
    """Whether each sample has a near twin among others.

    Args:
        samples: Pictures in question, the held-out ones say.
        among: Pictures to look among, the training ones say.

    Returns:
        One truth value a sample.

    Raises:
        DataError: A picture cannot be read.
    """
    if not samples or not among:
        return [False] * len(samples)
    signs = np.stack([_signs(s.image) for s in samples])  # (N, 16, 16)
    others = np.stack([_signs(s.image) for s in among])
    # Mirrored, every rise to the right becomes a fall.
    looks = np.stack([signs, ~signs[:, :, ::-1]])  # (2, N, 16, 16)
    return [
        bool((one[:, None] != others[None]).mean((2, 3)).min() < TWIN_DISTANCE)
        for one in looks.swapaxes(0, 1)
    ]


def _signs(path: Path) -> NDArray[np.bool_]:
    """Where a 17×16 thumbnail gets brighter to the right: a difference hash."""
    small = np.asarray(cv2.resize(read_grey(path), (17, 16), interpolation=cv2.INTER_AREA), np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1])
