"""Render hair: a body with strands, and its true alpha.

Coverage is exact: everything is rendered without antialiasing at three times the size, and averaged.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FINER = 3
_POINTS = 14  # per strand's polyline


@dataclass(frozen=True)
class Drawing:
    """A rendered image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8.
    """

    image: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


def draw(rng: np.random.Generator, background: NDArray[np.uint8], texture: NDArray[np.uint8]) -> Drawing:
    """Render a body with strands on a background.

    Args:
        rng: Random generator; the result depends only on it and the images.
        background: (H, W, 3) uint8 RGB.
        texture: (h, w, 3) uint8 RGB, any image, as the body's surface.
    """
    height, width = background.shape[:2]
    size = (height * FINER, width * FINER)
    outline = _outline(rng, height, width)
    coverage = np.zeros(size, np.uint8)
    colours = np.zeros((*size, 3), np.uint8)
    near = background.reshape(-1, 3)[:: max(1, height * width // 5000)].mean(0)
    base = _colour(rng, near)
    points = np.round(outline * FINER).astype(np.int32)
    cv2.fillPoly(coverage, [points], 255)
    body = _body(rng, texture, base, height, width)
    colours[:] = cv2.resize(body, size[::-1], interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.35:  # strands in the background, which do not belong to the subject
        background = background.copy()
        _draw_behind(rng, background, near)
    _draw_strands(rng, outline, base, coverage, colours)
    opaque = coverage.astype(np.float32)[..., None] / 255
    premultiplied = cv2.resize(colours * opaque, (width, height), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(opaque, (width, height), interpolation=cv2.INTER_AREA)
    sigma = rng.choice([0.0, 0.5, 0.8, 1.2], p=[0.4, 0.3, 0.2, 0.1])
    if sigma:
        premultiplied = cv2.GaussianBlur(premultiplied, (0, 0), sigma)
        alpha = cv2.GaussianBlur(alpha, (0, 0), sigma)
    whole = premultiplied + (1 - alpha[..., None]) * background
    return Drawing(np.clip(whole + 0.5, 0, 255).astype(np.uint8), np.round(alpha * 255).astype(np.uint8))


def _outline(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Return a closed outline, (n, 2) x and y in pixels: a wobbly disc, often with shoulders."""
    n = 400
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radius = np.ones(n)
    for k in range(2, 9):
        radius += rng.normal(0, 0.25 / k**1.3) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.4, 1.8) * min(height, width) * rng.uniform(0.14, 0.3)
    centre = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    points = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    if rng.random() < 0.5:  # shoulders: move the lower part down and outwards
        below = np.clip((points[:, 1] - centre[1]) / radius.max(), 0, None)
        points[:, 1] += below * height * rng.uniform(0.4, 1.2)
        points[:, 0] += (points[:, 0] - centre[0]) * below * rng.uniform(0, 1)
    return points


def _colour(rng: np.random.Generator, near: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a colour for strands: natural hair or any hue, sometimes as bright as the background."""
    if rng.random() < 0.6:
        hair = np.array(
            [[22, 18, 16], [70, 48, 34], [120, 84, 54], [186, 150, 104], [226, 208, 180], [150, 146, 144]]
        )
        colour = hair[rng.integers(len(hair))] + rng.normal(0, 12, 3)
    else:
        colour = rng.uniform(0, 255, 3)
    if rng.random() < 0.4:
        colour = colour + (near.mean() + rng.normal(0, 22) - colour.mean())
    return np.clip(colour, 0, 255)


def _body(
    rng: np.random.Generator, texture: NDArray[np.uint8], base: NDArray[np.float64], height: int, width: int
) -> NDArray[np.uint8]:
    surface = cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    share = rng.uniform(0.15, 1.0)
    surface = (surface - surface.mean((0, 1))) * share + base
    return np.clip(surface, 0, 255).astype(np.uint8)


def _draw_strands(
    rng: np.random.Generator,
    outline: NDArray[np.float64],
    base: NDArray[np.float64],
    coverage: NDArray[np.uint8],
    colours: NDArray[np.uint8],
) -> None:
    extent = float(np.ptp(outline, axis=0).mean())
    for _ in range(rng.integers(1, 4)):  # kinds of strands: fur, locks, stray hairs
        kind = rng.choice(["fur", "locks", "stray", "whiskers"], p=[0.3, 0.35, 0.25, 0.1])
        count = {"fur": 2500, "locks": 1500, "stray": 220, "whiskers": 24}[kind]
        length = extent * {"fur": 0.08, "locks": 0.3, "stray": 0.35, "whiskers": 0.5}[kind]
        count = int(count * rng.uniform(0.4, 1.3))
        paths = _paths(rng, outline, kind, count, length * rng.uniform(0.5, 1.5))
        thickest = rng.uniform(0.5, 1.6) if kind != "locks" else rng.uniform(0.5, 3.5)
        widths = thickest * rng.uniform(0.6, 1.3, count)
        light = rng.normal(0, rng.uniform(6, 40), (count, 1)) + rng.normal(0, 6, (count, 3))
        _stroke(paths, widths, np.clip(base + light, 0, 255), coverage, colours)


def _paths(
    rng: np.random.Generator, outline: NDArray[np.float64], kind: str, count: int, length: float
) -> NDArray[np.float64]:
    """Return (count, points, 2): strands from roots on the outline, ordered in clumps, bent and wavy."""
    n = len(outline)
    tangent = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
    root = rng.integers(0, n, count)
    if kind == "whiskers":
        root = (rng.integers(0, n) + rng.integers(-n // 12, n // 12, count)) % n
    elif rng.random() < 0.5:  # only along a part of the outline
        root = (rng.integers(0, n) + rng.integers(0, max(2, int(n * rng.uniform(0.2, 0.8))), count)) % n
    clumps = rng.integers(20, 160)
    turns = rng.normal(0, 0.5, clumps)  # strands of a clump share a direction
    clump = root * clumps // n % clumps
    angle = np.arctan2(normal[root, 1], normal[root, 0]) + rng.normal(0, 0.45)
    angle = (
        angle
        + turns[clump]
        + rng.normal(0, {"fur": 0.25, "locks": 0.2, "stray": 0.6, "whiskers": 0.15}[kind], count)
    )
    t = np.linspace(0, 1, _POINTS)
    bend = rng.normal(0, 0.7, clumps)[clump] + rng.normal(0, 0.3, count)
    direction = angle[:, None] + bend[:, None] * t * rng.uniform(0.3, 2.0)
    if kind in ("locks", "stray"):
        waves, phase = rng.uniform(0.5, 3), rng.uniform(0, 2 * np.pi, clumps)[clump][:, None]
        direction = direction + rng.uniform(0, 0.9) * np.sin(2 * np.pi * waves * t + phase)
    pace = length * rng.uniform(0.3, 1.2, count)[:, None] / _POINTS
    steps = pace[..., None] * np.stack([np.cos(direction), np.sin(direction)], 2)
    steps[..., 1] += rng.uniform(0, 0.6) * (kind == "locks") * pace * t  # they hang
    start = outline[root] - normal[root] * length * rng.uniform(0, 0.5, (count, 1))
    return start[:, None] + np.cumsum(steps, 1)


def _stroke(
    paths: NDArray[np.float64],
    widths: NDArray[np.float64],
    shades: NDArray[np.float64],
    coverage: NDArray[np.uint8],
    colours: NDArray[np.uint8],
) -> None:
    """Draw polylines that taper in three steps."""
    fine = np.round(paths * FINER).astype(np.int32)
    cuts = (0, _POINTS // 3, 2 * _POINTS // 3, _POINTS - 1)
    for path, width, shade in zip(fine, widths, shades, strict=True):
        colour = tuple(int(v) for v in shade)
        for k, share in enumerate((1.0, 0.75, 0.5)):
            piece = path[cuts[k] : cuts[k + 1] + 1, None]
            thickness = max(1, round(width * share * FINER))
            cv2.polylines(coverage, [piece], False, 255, thickness, cv2.LINE_8)
            cv2.polylines(colours, [piece], False, colour, thickness, cv2.LINE_8)


def _draw_behind(rng: np.random.Generator, background: NDArray[np.uint8], near: NDArray[np.floating]) -> None:
    height, width = background.shape[:2]
    count = int(rng.integers(10, 150))
    start = rng.uniform(0, 1, (count, 2)) * (width, height)
    heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, rng.uniform(0.1, 2), count)
    reach = rng.uniform(0.05, 0.4, (count, 1)) * min(height, width)
    end = start + reach * np.stack([np.cos(heading), np.sin(heading)], 1)
    for a, b in zip(start, end, strict=True):
        colour = tuple(int(v) for v in np.clip(near + rng.normal(0, 50, 3), 0, 255))
        first, last = (tuple(int(v * 16) for v in p) for p in (a, b))
        cv2.line(background, first, last, colour, int(rng.integers(1, 3)), cv2.LINE_AA, 4)
