"""Scene-linear images: colours are light, 1 is white, and values outside [0, 1] are kept."""

import numpy as np
from numpy.typing import NDArray

from stylematte.imaging.foreground import OPAQUE, estimate_foreground
from stylematte.imaging.geometry import STRIP_PX

Light = NDArray[np.float32]  # (H, W, 3)
BRIGHTEST = 16.0  # limit for soft edges; opaque pixels keep their values


def estimate_foreground_light(light: Light, alpha: NDArray[np.float32]) -> Light:
    """Estimate the foreground as `estimate_foreground` does, for values outside [0, 1].

    The image equation is invariant to shifting and scaling all colours, so they are mapped to [0, 1] and
    back. Opaque pixels keep their exact colour.

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
    """Composite light over light: α · F + (1 - α) · B.

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
