"""Near twins: the same photo twice under two names, perhaps turned over, with noise or other light.

A held-out picture whose twin was trained on says nothing about new pictures, and a split by name cannot know.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.readers import Sample, read_grey

Signs = NDArray[np.bool_]

# Share of the 256 signs that differ. Twins in the sets at hand lie below 0.16, other pairs above 0.24.
TWIN_DISTANCE = 0.16


def find_near_duplicates(samples: list[Sample], among: list[Sample]) -> list[bool]:
    """Whether each sample has a near twin among others.

    Args:
        samples: Pictures in question, the held-out ones say.
        among: Pictures to look among, the training ones say.

    Returns:
        One truth value a sample.

    Raises:
        DataError: A picture cannot be read.
    """
    signs, others = ([brightness_signs(read_grey(s.image)) for s in part] for part in (samples, among))
    return match_signs(signs, others)


def match_signs(signs: list[Signs], others: list[Signs]) -> list[bool]:
    """Whether each picture has a near twin among others, all known by their `brightness_signs`."""
    if not signs or not others:
        return [False] * len(signs)
    stack, among = np.stack(signs), np.stack(others)  # (N, 16, 16)
    # Mirrored, every rise to the right becomes a fall.
    looks = np.stack([stack, ~stack[:, :, ::-1]])  # (2, N, 16, 16)
    return [
        bool((one[:, None] != among[None]).mean((2, 3)).min() < TWIN_DISTANCE) for one in looks.swapaxes(0, 1)
    ]


def brightness_signs(grey: NDArray[np.uint8]) -> Signs:
    """Where a 17×16 thumbnail of (H, W) uint8 gets brighter to the right, (16, 16): a difference hash."""
    small = np.asarray(cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA), np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1])
