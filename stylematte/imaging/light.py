"""Scene-linear images: colours are light, 1 is white, and what is brighter or darker stays so."""

import numpy as np
from numpy.typing import NDArray

from stylematte.imaging.foreground import OPAQUE, estimate_foreground
from stylematte.imaging.geometry import STRIP_PX

Light = NDArray[np.float32]  # (H, W, 3)
BRIGHTEST = 16.0  # that soft edges may be; opaque pixels keep what they have


def estimate_foreground_light(light: Light, alpha: NDArray[np.float32]) -> Light:
    """Estimate the foreground as `estimate_foreground` does, beyond 0 and 1.

    The equation that is solved does not change when all colours are shifted and scaled alike; so they are
    brought to [0, 1] and back. Opaque pixels keep their colour bit for bit.

    Args:
        light: (H, W, 3).
        alpha: (H, W) in [0, 1].

    Returns:
        (H, W, 3).
    """
    low, high = min(0.0, float(light.min())), min(BRIGHTEST, max(1.0, float(light.max())))
    scaled = (np.minimum(light, high) - np.float32(low)) / np.float32(high - low)
    foreground = estimate_foreground(scaled, alpha) * np.float32(high - low) + np.float32(low)
    opaque = alpha >= OPAQUE
    foreground[opaque] = light[opaque]
    return np.asarray(foreground, np.float32)


def composite_light(foreground: Light, alpha: NDArray[np.float32], background: Light) -> Light:
    """Lay light over light: α · F + (1 - α) · B.

    Args:
        foreground: (H, W, 3).
        alpha: (H, W) in [0, 1].
        background: (H, W, 3), or (1, 1, 3) for a colour.

    Returns:
        (H, W, 3).
    """
    result = np.empty_like(foreground)
    rows = max(1, STRIP_PX // (3 * foreground.shape[1]))
    for top in range(0, len(foreground), rows):
        opacity = alpha[top : top + rows, :, None]
        behind = background if len(background) == 1 else background[top : top + rows]
        result[top : top + rows] = opacity * foreground[top : top + rows] + (1 - opacity) * behind
    return result
