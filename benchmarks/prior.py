"""Measure what a prior does, on composites of two subjects with known alphas, one of which is requested.

    python benchmarks/prior.py --subjects DIR [DIR ...] --backgrounds DIR [--weights nano] [--n 80] \
        [--detail off] [--json FILE] [--sheet FILE.png]

A folder of subjects contains image/ and alpha/ with the same stems; only photos that the recipe `nano` holds
out are used. Backgrounds are photos without a subject. In half of the composites the subjects touch or
overlap, in the others they are apart. IoU at alpha 0.5, of the requested subject's visible alpha:

- mask: the prior covers half of the subject, up to a line through its middle;
- point: the prior is one blob inside the subject.

IoU of both subjects together:

- none, zero: no prior, and a prior of zeros, which must give identical alphas;
- wrong: a blob where there is no subject; "cost" is the loss of IoU compared with none.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stylematte import load
from stylematte.imaging.compose import cover
from stylematte.imaging.foreground import estimate_foreground
from stylematte_cli.commands.progress import with_progress
from training.data.priors import draw_point
from training.data.readers import is_held_out, read_grey, read_rgb
from training.metrics import iou

SIDE_PX = 640
SUBJECT_SHARE = (0.03, 0.6)  # of a photo's area; others are no single subject to composite
Plane = NDArray[np.float32]


class Subject(NamedTuple):
    """Colours (H, W, 3) uint8 and alpha (H, W) float32, cropped to the subject."""

    colours: NDArray[np.uint8]
    alpha: Plane


class Scene(NamedTuple):
    """A composite: image (H, W, 3) uint8, and the visible alphas (H, W) float32 of its two subjects."""

    image: NDArray[np.uint8]
    alphas: tuple[Plane, Plane]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=Path, nargs="+", required=True)
    parser.add_argument("--backgrounds", type=Path, required=True)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--detail", default="auto", help="off: without the closer look")
    parser.add_argument("--n", type=int, default=80)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="picture of the first scenes and their alphas")
    arguments = parser.parse_args()
    matter = load(arguments.weights, detail=arguments.detail)
    rng = np.random.default_rng(0)
    subjects = [s for folder in arguments.subjects for s in read_subjects(folder)]
    backgrounds = sorted(arguments.backgrounds.iterdir())
    rows, images = [], []
    for number in with_progress(range(arguments.n), arguments.n, "scene", quiet=False):
        first, second = (subjects[i] for i in rng.choice(len(subjects), 2, replace=False))
        background = read_rgb(backgrounds[rng.integers(len(backgrounds))])
        scene = compose(rng, first, second, background, overlap=number % 2 == 0)
        row, answers = judge(rng, matter, scene)
        rows.append(row)
        if number < 12:
            images.append(np.hstack([scene.image, *(to_rgb(a) for a in answers)]))
    table = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    for kind, part in (("overlapping", rows[::2]), ("apart", rows[1::2])):
        table |= {
            f"{name}, {kind}": float(np.mean([row[name] for row in part])) for name in ("mask", "point")
        }
    print("  ".join(f"{name} {value:.3f}" for name, value in table.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"scenes": len(rows)} | table, indent=2) + "\n")
    if arguments.sheet:
        sheet = cv2.resize(np.vstack(images), None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(arguments.sheet), sheet[..., ::-1])


def read_subjects(folder: Path) -> list[Subject]:
    """Read a folder's held-out subjects that lie wholly inside their photo; it has image/ and alpha/."""
    found = []
    for path in sorted((folder / "image").iterdir()):
        labels = list((folder / "alpha").glob(f"{path.stem}.*"))
        if not labels or not is_held_out(f"{folder.name}/{path.stem}", 10):
            continue
        image, alpha = read_rgb(path), read_grey(labels[0]) / np.float32(255)
        edge = np.concatenate([alpha[0], alpha[:, 0], alpha[:, -1]])  # it may touch the lower border
        if SUBJECT_SHARE[0] < (alpha > 0.5).mean() < SUBJECT_SHARE[1] and edge.max() < 0.2:
            rows, columns = np.nonzero(alpha.max(1) > 0.1)[0], np.nonzero(alpha.max(0) > 0.1)[0]
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            found.append(Subject(estimate_foreground(image, alpha)[box], alpha[box]))
    return found


def compose(
    rng: np.random.Generator, first: Subject, second: Subject, background: NDArray[np.uint8], overlap: bool
) -> Scene:
    """Composite two subjects over a background, the second in front."""
    height, width = SIDE_PX * 3 // 4, SIDE_PX
    image = cover(background, (height, width)).astype(np.float32)
    middle, shift = width / 2, rng.uniform(0.1, 0.17) * width if overlap else 0.26 * width
    sides = rng.permutation([-1, 1])
    alphas: list[Plane] = []
    for subject, side in zip((first, second), sides, strict=True):
        most = width * (0.55 if overlap else 0.44)
        scale = min(rng.uniform(0.6, 0.85) * height / subject.alpha.shape[0], most / subject.alpha.shape[1])
        alpha = cv2.resize(subject.alpha, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        colours = cv2.resize(subject.colours, alpha.shape[::-1], interpolation=cv2.INTER_AREA)
        top = height - alpha.shape[0] - rng.integers(0, max(1, (height - alpha.shape[0]) // 3))
        left = int(np.clip(middle + side * shift - alpha.shape[1] / 2, 0, width - alpha.shape[1]))
        place = np.s_[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        whole = np.zeros((height, width), np.float32)
        whole[place] = alpha
        image[place] = image[place] * (1 - alpha[..., None]) + colours * alpha[..., None]
        alphas = [below * (1 - whole) for below in alphas] + [whole]
    return Scene(np.round(image).astype(np.uint8), (alphas[0], alphas[1]))


def judge(rng: np.random.Generator, matter, scene: Scene) -> tuple[dict[str, float], list[Plane]]:
    """Return a scene's IoU per kind of prior; and the true alpha, then those for mask, point and none."""
    wanted = scene.alphas[rng.integers(2)]
    everything = scene.alphas[0] + scene.alphas[1]
    solid = wanted > 0.5
    columns = np.nonzero(solid)[1]
    half = np.where(np.arange(wanted.shape[1]) < np.median(columns), wanted, 0).astype(np.float32)
    inside = cv2.distanceTransform(solid.astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    point = draw_point(wanted.shape, (int(row), int(column))) / np.float32(255)
    outside = cv2.distanceTransform((everything < 0.05).astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(int(outside.argmax()), outside.shape)
    wrong = draw_point(wanted.shape, (int(row), int(column))) / np.float32(255)
    none = matter(scene.image).alpha
    zero = matter(scene.image, prior=np.zeros_like(wanted)).alpha
    if not np.array_equal(none, zero):
        raise SystemExit("a prior of zeros and none differ")
    by_mask, by_point, by_wrong = (matter(scene.image, prior=p).alpha for p in (half, point, wrong))
    scores = {
        "mask": iou(by_mask, wanted),
        "point": iou(by_point, wanted),
        "none": iou(none, everything),
        "wrong": iou(by_wrong, everything),
    }
    return scores | {"cost": scores["none"] - scores["wrong"]}, [wanted, by_mask, by_point, none]


def to_rgb(alpha: Plane) -> NDArray[np.uint8]:
    """Convert alpha to grey, (H, W, 3)."""
    return np.repeat(np.round(alpha * 255).astype(np.uint8)[..., None], 3, 2)


if __name__ == "__main__":
    main()
