"""Check a generated alpha: does the matting network see the same subject?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SURE = 0.05  # alpha closer than this to 0 or 1 is not in the band
_BAR = 40  # characters of the longest bar


@dataclass(frozen=True)
class Agreement:
    """Difference between two alphas of one image.

    Attributes:
        difference: Mean absolute difference over the image.
        band: The same where either alpha is soft (0.05 to 0.95); None if there are no such pixels.
    """

    difference: float
    band: float | None


def agreement(generated: NDArray[np.float32], matted: NDArray[np.float32]) -> Agreement:
    """Compare a generated alpha with the matting network's alpha of the composite.

    Args:
        generated: (H, W) in [0, 1].
        matted: (H, W) in [0, 1].

    Raises:
        ValueError: Their sizes differ.
    """
    if generated.shape != matted.shape:
        raise ValueError(f"alphas of {generated.shape} and {matted.shape}")
    difference = np.abs(generated - matted)
    soft = ((generated > _SURE) & (generated < 1 - _SURE)) | ((matted > _SURE) & (matted < 1 - _SURE))
    return Agreement(float(difference.mean()), float(difference[soft].mean()) if soft.any() else None)


def histogram(differences: Sequence[float], threshold: float, bins: int = 20) -> list[tuple[float, int]]:
    """Return a histogram of differences.

    Args:
        differences: Differences of kept and rejected images.
        threshold: Threshold of the filter; half of the bins lie below it.
        bins: Number of bins; the last one includes all larger values.

    Returns:
        (lower edge, count) per bin.
    """
    width = threshold / max(1, bins // 2)
    # An image at the threshold is kept, so it counts to the bin below.
    places = np.clip(np.ceil(np.asarray(differences) / width - 1e-9).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    return [(round(i * width, 6), int(count)) for i, count in enumerate(counts)]


def bars(counted: Sequence[tuple[float, int]], threshold: float) -> list[str]:
    """Format a histogram as lines of text, with a line at the threshold."""
    most = max(1, *(count for _, count in counted))
    lines = []
    for i, (edge, count) in enumerate(counted):
        if i and counted[i - 1][0] < threshold <= edge + 1e-9:
            lines.append(f"{threshold:8.4f} {'-' * _BAR} threshold")
        lines.append(f"{edge:8.4f} {'#' * round(_BAR * count / most):<{_BAR}} {count}")
    return lines
