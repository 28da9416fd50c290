"""Whether a generated alpha is to be believed: does the matting network see the same subject?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SURE = 0.05  # alpha nearer to 0 or 1 belongs to no band
_BAR = 40  # signs of the longest bar


@dataclass(frozen=True)
class Agreement:
    """How far two alphas of one picture are apart.

    Attributes:
        difference: Mean absolute difference over the picture.
        band: The same where either alpha is soft, from 0.05 to 0.95; None where nothing is.
    """

    difference: float
    band: float | None


def agreement(generated: NDArray[np.float32], matted: NDArray[np.float32]) -> Agreement:
    """Compare a generated alpha with the matting network's of the composite.

    Args:
        generated: (H, W) in [0, 1].
        matted: (H, W) in [0, 1].

    Raises:
        ValueError: Their sizes differ.
    """
    if generated.shape != matted.shape:
        raise ValueError(f"alphas of {generated.shape} and {matted.shape}")
    apart = np.abs(generated - matted)
    soft = ((generated > _SURE) & (generated < 1 - _SURE)) | ((matted > _SURE) & (matted < 1 - _SURE))
    return Agreement(float(apart.mean()), float(apart[soft].mean()) if soft.any() else None)


def histogram(differences: Sequence[float], threshold: float, bins: int = 20) -> list[tuple[float, int]]:
    """Count differences.

    Args:
        differences: Of pictures kept and rejected.
        threshold: Bins are so wide that it lies between two of them: half of them below it.
        bins: How many; the last takes all beyond it.

    Returns:
        (lower edge, count) a bin.
    """
    width = threshold / max(1, bins // 2)
    # The threshold itself is kept, so it counts below.
    places = np.clip(np.ceil(np.asarray(differences) / width - 1e-9).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    return [(round(i * width, 6), int(count)) for i, count in enumerate(counts)]


def bars(counted: Sequence[tuple[float, int]], threshold: float) -> list[str]:
    """Draw a histogram as lines of text, with a line at the threshold."""
    most = max(1, *(count for _, count in counted))
    lines = []
    for i, (edge, count) in enumerate(counted):
        if i and counted[i - 1][0] < threshold <= edge + 1e-9:
            lines.append(f"{threshold:8.4f} {'-' * _BAR} threshold")
        lines.append(f"{edge:8.4f} {'#' * round(_BAR * count / most):<{_BAR}} {count}")
    return lines
