"""Non-leaking augmentation (ADA): applied to every image that a discriminator sees, real or generated.

Each operation is applied to each image with probability p, and p follows how far the discriminator overfits
its real images. Geometry moves all channels; colour changes only RGB, because an alpha has no colour.
"""

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.gan.layers import send

GEOMETRY = ("flip", "turn", "shift", "scale", "rotate", "stretch", "drift")
COLOUR = ("brightness", "contrast", "luma_flip", "hue", "saturation")
OPERATIONS = GEOMETRY + COLOUR

_SHIFT = (
    0.125  # largest whole-pixel shift, and standard deviation of the fractional one, as fractions of the side
)
_SCALE = 0.2  # standard deviation, in octaves
_BRIGHTNESS, _CONTRAST, _SATURATION = 0.2, 0.5, 1.0  # of the range [-1, 1], in octaves, in octaves
_LUMA = 1 / math.sqrt(3)  # the grey axis, as a unit vector's component
_REACH = 3  # of the low-pass filter, in pixels
_KAISER_BETA = 5.0


class Augment(nn.Module):
    """Random changes of images' geometry and colour, differentiable once.

    Attributes:
        operations: Which of `OPERATIONS` to apply, always in their order.
        p: () probability of each operation for each image; a buffer, so that it is saved with a run. All
            random numbers are drawn on the CPU: leave the module there, so that it never waits for a GPU.

    Reference:
        Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020, appendix B.
    """

    p: Tensor

    def __init__(self, operations: tuple[str, ...] = OPERATIONS, p: float = 0.0) -> None:
        super().__init__()
        if unknown := set(operations) - set(OPERATIONS):
            raise ValueError(f"unknown operation {sorted(unknown)[0]}; choose from {', '.join(OPERATIONS)}")
        self.operations = operations
        self.register_buffer("p", torch.tensor(float(p)))

    def forward(self, images: Tensor) -> Tensor:
        """Augment each image independently, with torch's random numbers.

        Args:
            images: (N, C, H, H) float32 in [-1, 1], C ≥ 3; RGB first.

        Returns:
            (N, C, H, H) float32, not clamped. Images that no operation was applied to stay bit-identical.
        """
        count, side = images.shape[0], images.shape[-1]
        p = float(self.p)
        geometry = draw_geometry(count, side, p, [n for n in self.operations if n in GEOMETRY])
        colour = draw_colour(count, p, [n for n in self.operations if n in COLOUR])
        return apply_colour(apply_geometry(images, geometry), colour)


def draw_geometry(count: int, side: int, p: float, operations: list[str]) -> Tensor:
    """Draw (count, 3, 3) float32 matrices from output to input coordinates, in pixels.

    The origin is the image centre, x points right, y points down. Rotation by any angle may happen before or
    after stretching, each with probability 1 − √(1 − p), so that some rotation happens with probability p.
    """
    result = torch.eye(3).repeat(count, 1, 1)

    def join(name: str, chance: float, matrices: Tensor) -> None:
        nonlocal result
        chosen = torch.rand(count) < chance  # drawn for all operations: the random stream stays the same
        if name in operations:
            result = torch.where(chosen[:, None, None], result @ matrices, result)

    some_turns = 1 - math.sqrt(1 - p)
    quarter = torch.randint(0, 4, (count,)) * (math.pi / 2)
    whole_px = torch.round((torch.rand(2, count) * 2 - 1) * _SHIFT * side)
    join("flip", p, scaling(torch.randint(0, 2, (count,)) * -2.0 + 1, torch.ones(count)))
    join("turn", p, rotation(quarter).round())
    join("shift", p, translation(*whole_px))
    scale = torch.exp2(-torch.randn(count) * _SCALE)
    join("scale", p, scaling(scale, scale))
    join("rotate", some_turns, rotation((torch.rand(count) * 2 - 1) * math.pi))
    stretch = torch.exp2(torch.randn(count) * _SCALE)
    join("stretch", p, scaling(1 / stretch, stretch))
    join("rotate", some_turns, rotation((torch.rand(count) * 2 - 1) * math.pi))
    join("drift", p, translation(*(torch.randn(2, count) * _SHIFT * side)))
    return result


def draw_colour(count: int, p: float, operations: list[str]) -> Tensor:
    """Draw (count, 4, 4) float32 matrices that act on (red, green, blue, 1), colours in [-1, 1]."""
    result = torch.eye(4).repeat(count, 1, 1)

    def join(name: str, matrices: Tensor) -> None:
        nonlocal result
        chosen = torch.rand(count) < p
        if name in operations:
            result = torch.where(chosen[:, None, None], matrices @ result, result)

    grey = torch.tensor([_LUMA, _LUMA, _LUMA, 0.0])
    along_grey = torch.outer(grey, grey)
    brighter = torch.eye(4).repeat(count, 1, 1)
    brighter[:, :3, 3] = torch.randn(count, 1) * _BRIGHTNESS
    join("brightness", brighter)
    contrast = torch.exp2(torch.randn(count) * _CONTRAST)
    join("contrast", torch.diag_embed(torch.stack([contrast, contrast, contrast, torch.ones(count)], 1)))
    flip = torch.randint(0, 2, (count, 1, 1)).float()
    join("luma_flip", torch.eye(4) - 2 * along_grey * flip)
    join("hue", grey_axis_rotation((torch.rand(count) * 2 - 1) * math.pi))
    saturation = torch.exp2(torch.randn(count, 1, 1) * _SATURATION)
    kept = along_grey + torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    join("saturation", kept + (torch.eye(4) - kept) * saturation)
    return result


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices that translate by (N,) x and y."""
    matrices = torch.eye(3).repeat(len(x), 1, 1)
    matrices[:, 0, 2], matrices[:, 1, 2] = x, y
    return matrices


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices that scale by (N,) x and y."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def rotation(angle: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices that rotate by (N,) angles in radians, from x towards y."""
    matrices = torch.eye(3).repeat(len(angle), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 0, 1], matrices[:, 1, 0] = -angle.sin(), angle.sin()
    return matrices


def grey_axis_rotation(angle: Tensor) -> Tensor:
    """Return (N, 4, 4) matrices that rotate colours around the grey axis by (N,) angles (Rodrigues)."""
    axis = torch.full((3,), _LUMA)
    cross = torch.tensor([[0.0, -_LUMA, _LUMA], [_LUMA, 0.0, -_LUMA], [-_LUMA, _LUMA, 0.0]])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    matrices = torch.eye(4).repeat(len(angle), 1, 1)
    matrices[:, :3, :3] = cos * torch.eye(3) + sin * cross + (1 - cos) * torch.outer(axis, axis)
    return matrices


def apply_geometry(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample images, mirrored beyond their borders.

    Images are sampled bilinearly at twice their resolution and then low-passed and downsampled: bilinear
    sampling at the original resolution would blur, and the discriminator would learn to expect blur.

    Args:
        images: (N, C, H, H) float32.
        matrices: (N, 3, 3) float32 on the CPU, see `draw_geometry`.
    """
    moved = ((matrices - torch.eye(3)).abs() > 1e-6).flatten(1).any(1)
    if not moved.any():
        return images
    where = send(moved.nonzero()[:, 0], images.device)
    # From pixels to normalised coordinates, [-1, 1] from border to border: only the shift has a unit.
    theta = matrices[moved, :2].clone()
    theta[:, :, 2] *= 2 / images.shape[-1]
    fine = upsample(images[where])
    grid = F.affine_grid(send(theta, fine.device), list(fine.shape), align_corners=False)
    sampled = F.grid_sample(fine, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return images.index_copy(0, where, downsample(sampled))


def apply_colour(images: Tensor, matrices: Tensor) -> Tensor:
    """Change colours of (N, C, H, W) images by (N, 4, 4) matrices; channels after the third are unchanged.

    The matrices are on the CPU, see `draw_colour`.
    """
    if torch.equal(matrices, torch.eye(4).expand_as(matrices)):
        return images
    matrices = send(matrices, images.device)
    rgb = torch.einsum("nij,njhw->nihw", matrices[:, :3, :3], images[:, :3])
    return torch.cat([rgb + matrices[:, :3, 3, None, None], images[:, 3:]], 1)


def upsample(images: Tensor) -> Tensor:
    """Double the resolution of square (N, C, H, H) with a windowed sinc, mirrored at the borders."""
    return _each_axis(images, _up_matrix(images.shape[-1], images.device, images.dtype))


def downsample(images: Tensor) -> Tensor:
    """Halve the resolution of square (N, C, H, H) with the same low-pass filter."""
    return _each_axis(images, _down_matrix(images.shape[-1], images.device, images.dtype))


def _each_axis(images: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows and columns of (N, C, H, H) by an (out, H) matrix: (N, C, out, out)."""
    return matrix @ (images @ matrix.T)


@functools.lru_cache(maxsize=32)
def _up_matrix(side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(2 side, side): each pixel becomes two, a quarter of a pixel to either side of its centre."""
    phases = torch.stack([_sinc(-0.25), _sinc(0.25)])  # (2, 7)
    matrix = torch.zeros(2 * side, side)
    for place in range(2 * side):
        for tap, weight in enumerate(phases[place % 2]):
            matrix[place, _mirrored(place // 2 + tap - _REACH, side)] += weight
    return matrix.to(device, dtype)


@functools.lru_cache(maxsize=32)
def _down_matrix(side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(side / 2, side): a coarse pixel lies between two fine ones and averages six on either side."""
    taps = _window(torch.arange(-_REACH + 0.25, _REACH, 0.5))  # in coarse pixels
    matrix = torch.zeros(side // 2, side)
    for place in range(side // 2):
        for tap, weight in enumerate(taps / taps.sum()):
            matrix[place, _mirrored(2 * place + tap - 2 * _REACH + 1, side)] += weight
    return matrix.to(device, dtype)


def _mirrored(place: int, side: int) -> int:
    """Reflect a position beyond the border, repeating the outermost pixel, like grid_sample."""
    place %= 2 * side
    return min(place, 2 * side - 1 - place)


def _sinc(place: float) -> Tensor:
    """Return (7,) weights of the surrounding pixels for a value at an offset from a pixel's centre."""
    taps = _window(place - torch.arange(-_REACH, _REACH + 1.0))
    return taps / taps.sum()


def _window(distance: Tensor) -> Tensor:
    """Kaiser window times a sinc with cutoff at the pixels' Nyquist frequency; distances in pixels."""
    inside = (1 - (distance / _REACH) ** 2).clamp(min=0).sqrt()
    return torch.sinc(distance) * torch.i0(_KAISER_BETA * inside) * (distance.abs() < _REACH)
