"""What a program without stylematte does with a model file: NumPy, and any runtime behind `session.run`."""

import numpy as np


def working_size(height, width, size, stride):
    """Height and width that the network sees: `size` and `stride` are the file's metadata."""
    sides = np.arange(stride, -(-2 * size // stride) * stride + 1, stride)
    h, w = (x.ravel() for x in np.meshgrid(sides, sides, indexing="ij"))
    cost = abs(np.log(w / h) - np.log(width / height)) + 0.1 * abs(np.log(h * w / size**2))
    return int(h[cost.argmin()]), int(w[cost.argmin()])  # of equal ones the first: least h, then least w


def weights(old, new):
    """(new, old): shares of the old pixels in a new one; areas where it shrinks, cubic where it grows."""
    scale, i = old / new, np.arange(new)[:, None]
    if new <= old:
        left, right = i * scale, (i + 1) * scale
        j = np.arange(old)
        return np.clip(np.minimum(right, j + 1) - np.maximum(left, j), 0, 1) / scale
    j = np.floor((i + 0.5) * scale - 0.5).astype(int) + np.arange(-1, 3)  # four neighbours
    d, a = abs((i + 0.5) * scale - 0.5 - j), -0.75
    near, far = ((a + 2) * d - a - 3) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    result = np.zeros((new, old))
    np.add.at(result, (i, np.clip(j, 0, old - 1)), np.where(d <= 1, near, far))  # borders are repeated
    return result


def resize(photo, h, w):
    """(H, W, 3) uint8 → (h, w, 3) uint8: first the axes that shrink, rounded, then those that grow."""
    for kind in (np.less_equal, np.greater):
        axes = [kind(new, old) and new != old for new, old in zip((h, w), photo.shape[:2], strict=True)]
        if any(axes):
            down = weights(photo.shape[0], h if axes[0] else photo.shape[0])
            across = weights(photo.shape[1], w if axes[1] else photo.shape[1])
            photo = np.einsum("ij,jkc,lk->ilc", down, photo, across, optimize=True)
            photo = np.clip(np.rint(photo), 0, 255).astype(np.uint8)
    return photo


def alpha(session, metadata, photo):
    """(H, W, 3) uint8 RGB → (H, W) opacity in [0, 1]."""
    size, stride = (int(metadata[f"stylematte.{key}"]) for key in ("working_size", "stride"))
    square = (size, size) if metadata.get("stylematte.fit") == "stretch" else None
    h, w = square or working_size(*photo.shape[:2], size, stride)
    planes = [x.transpose(2, 0, 1)[None] / np.float32(255) for x in (resize(photo, h, w), photo)]
    inputs = {"image": planes[0], "guide": planes[1], "prior": np.zeros((1, 1, h, w), np.float32)}
    names = {port.name for port in session.get_inputs()}
    return session.run(["alpha"], {k: v for k, v in inputs.items() if k in names})[0][0, 0]
