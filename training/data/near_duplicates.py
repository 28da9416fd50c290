"""Near duplicates: the same photo under two names, possibly mirrored, noisy or with other brightness.

A held-out image whose near duplicate is trained on says nothing about new images, and a split by name cannot
detect it.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.readers import Sample, read_grey

Hash = NDArray[np.bool_]

# Fraction of the 256 bits that differ. Duplicates in the sets at hand are below 0.16, other pairs above 0.24.
DUPLICATE_DISTANCE = 0.16


def find_near_duplicates(samples: list[Sample], among: list[Sample]) -> list[bool]:
    """Tell for each sample whether it has a near duplicate among others.

    Args:
        samples: Samples to check, such as the held-out ones.
        among: Samples to compare with, such as the training ones.

    Returns:
        One truth value per sample.

    Raises:
        DataError: An image cannot be read.
    """
    hashes, others = ([difference_hash(read_grey(s.image)) for s in part] for part in (samples, among))
    return match_hashes(hashes, others)


def match_hashes(hashes: list[Hash], others: list[Hash]) -> list[bool]:
    """Tell for each hash whether one of the others is a near duplicate, mirrored or not."""
    if not hashes or not others:
        return [False] * len(hashes)
    stack, among = np.stack(hashes), np.stack(others)  # (N, 16, 16)
    # In a mirrored image, "brighter to the right" becomes "darker to the right".
    variants = np.stack([stack, ~stack[:, :, ::-1]])  # (2, N, 16, 16)
    return [
        bool((one[:, None] != among[None]).mean((2, 3)).min() < DUPLICATE_DISTANCE)
        for one in variants.swapaxes(0, 1)
    ]


def difference_hash(grey: NDArray[np.uint8]) -> Hash:
    """Return the difference hash of (H, W) uint8: where a 17×16 thumbnail gets brighter to the right."""
    small = np.asarray(cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA), np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1])
