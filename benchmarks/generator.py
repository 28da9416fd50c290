"""How good a generator's images are, and whether they are copies of the training images.

    python benchmarks/generator.py DRAWN --trained-on DIR --held-out DIR --detector FILE \
        [--json FILE] [--sheet FILE.png]

All folders hold RGBA images of one size. Against all real images and against the held-out ones:

- FID and KID, of RGB as stored and of composites over grey;
- precision (drawn images that lie among real ones) and recall (real images that lie among drawn ones), k = 3.

Copies: the distance from each drawn image to its nearest training image, mirrored or not, is the RMS
difference of 16×16 thumbnails over grey. The threshold is the first percentile of the same distance for
held-out images, which are no copies: one in a hundred of these is below it.

References:
    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019,
    equations 1 to 3.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.fid import Statistics, fid, kid, load_detector, statistics

NEIGHBOURS = 3
SMALL_PX = 16
BATCH = 32
PAIRS = 12  # on the sheet
Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("drawn", type=Path)
    parser.add_argument("--trained-on", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--detector", default="nano")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="the drawn images nearest to training images, beside them")
    arguments = parser.parse_args()
    detector = load_detector(arguments.detector).eval()
    drawn, trained_on, held_out = (
        read_folder(folder) for folder in (arguments.drawn, arguments.trained_on, arguments.held_out)
    )
    report: dict[str, object] = {
        "detector": detector.name,
        "drawn": len(drawn),
        "trained_on": len(trained_on),
        "held_out": len(held_out),
    }
    for mode in ("rgb", "composite"):
        ours, train, rest = (
            statistics(detector, batches(images, mode), keep_features=True)
            for images in (drawn, trained_on, held_out)
        )
        report[mode] = {
            name: compare(real, ours) for name, real in (("all", joined(train, rest)), ("held_out", rest))
        }
    distances, nearest = nearest_of(drawn, trained_on)
    threshold = float(np.percentile(nearest_of(held_out, trained_on)[0], 1))
    report["copies"] = {
        "threshold": threshold,
        "below": float((distances < threshold).mean()),
        "smallest": float(distances.min()),
        "median": float(np.median(distances)),
        "median_held_out": float(np.median(nearest_of(held_out, trained_on)[0])),
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.sheet:
        order = np.argsort(distances)[:PAIRS]
        columns = [np.vstack([over_grey(drawn[i]), over_grey(trained_on[nearest[i]])]) for i in order]
        cv2.imwrite(str(arguments.sheet), np.hstack(columns)[..., ::-1])


def read_folder(folder: Path) -> list[Pixels]:
    """Read the PNG files of a folder as (H, W, 4) uint8 RGBA."""
    images = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.glob("*.png"))]
    return [cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA) for image in images]


def over_grey(image: Pixels) -> Pixels:
    """Composite (H, W, 4) over grey."""
    alpha = image[..., 3:].astype(np.float32) / 255
    return np.round(image[..., :3] * alpha + 128 * (1 - alpha)).astype(np.uint8)


def batches(images: list[Pixels], mode: str) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        shown = [image[..., :3] if mode == "rgb" else over_grey(image) for image in part]
        yield torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)


def joined(one: Statistics, other: Statistics) -> Statistics:
    return Statistics(
        one.total + other.total,
        one.products + other.products,
        one.count + other.count,
        torch.cat([one.features, other.features]),
    )


def compare(real: Statistics, drawn: Statistics) -> dict[str, float]:
    count = min(real.count, drawn.count)  # the neighbourhoods' radii depend on the numbers of images
    a, b = real.features[:count], drawn.features[:count]
    return {
        "fid": fid(real, drawn),
        "kid": kid(real, drawn)[0],
        "precision": share_inside(b, a),
        "recall": share_inside(a, b),
    }


def share_inside(points: Tensor, manifold: Tensor) -> float:
    """Fraction of points within the distance of some point of the manifold to its k-th neighbour."""
    own = torch.cdist(manifold, manifold)
    radii = own.kthvalue(NEIGHBOURS + 1, dim=1).values  # the nearest is the point itself
    return float((torch.cdist(points, manifold) <= radii).any(1).float().mean())


def nearest_of(images: list[Pixels], others: list[Pixels]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distance to the nearest of the others, mirrored or not, in steps of 255; and which it is."""
    theirs = torch.from_numpy(np.stack([thumbnail(image) for image in others]))
    ours = np.stack([thumbnail(image) for image in images])
    both = torch.from_numpy(
        np.stack([ours, np.flip(ours.reshape(-1, SMALL_PX, SMALL_PX, 3), 2).reshape(ours.shape)])
    )
    distances, indices = torch.cdist(both, theirs.expand(2, -1, -1)).amin(0).min(1)
    return (distances / ours.shape[1] ** 0.5).numpy(), indices.numpy()


def thumbnail(image: Pixels) -> NDArray[np.float32]:
    small = cv2.resize(over_grey(image), (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).reshape(-1)


if __name__ == "__main__":
    main()
