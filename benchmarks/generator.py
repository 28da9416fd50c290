"""Measure the quality of a generator's images, and whether they copy training images.

    python benchmarks/generator.py DRAWN --trained-on DIR --held-out DIR --detector FILE \
        [--json FILE] [--sheet FILE.png]

All folders contain RGBA images of one size. Measured against all real images and against the held-out ones:

- FID and KID, of RGB as stored and of composites over grey;
- precision (share of generated images among real ones) and recall (real ones among generated ones), k = 3.

Copies: the distance from each generated image to its nearest training image, mirrored or not, is the RMS
difference of 16×16 thumbnails over grey. The threshold is the first percentile of the same distance for
held-out images, which are not copies: 1 % of these are below it.

References:
    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019,
    equations 1 to 3.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stylematte.media.backdrop import Backdrop
from training.fid import Statistics, fid, kid, load_detector
from training.fid_images import FidImages, read_statistics

NEIGHBOURS = 3
SMALL_PX = 16
BATCH = 32
PAIRS = 12  # per sheet
MODES = {"rgb": None, "composite": Backdrop("128,128,128")}
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
    folders = (arguments.drawn, arguments.trained_on, arguments.held_out)
    sets = {mode: [FidImages.find(folder, behind) for folder in folders] for mode, behind in MODES.items()}
    drawn, trained_on, held_out = ([one.read(path) for path in one.files] for one in sets["composite"])
    report: dict[str, object] = {
        "detector": detector.name,
        "drawn": len(drawn),
        "trained_on": len(trained_on),
        "held_out": len(held_out),
    }
    for mode, found in sets.items():
        ours, train, rest = (
            read_statistics(one, detector, True, BATCH, cache=True, progress=lambda groups, _: groups)
            for one in found
        )
        report[mode] = {
            name: compare(real, ours) for name, real in (("all", joined(train, rest)), ("held_out", rest))
        }
    distances, nearest = nearest_of(drawn, trained_on)
    no_copies, _ = nearest_of(held_out, trained_on)
    threshold = float(np.percentile(no_copies, 1))
    report["copies"] = {
        "threshold": threshold,
        "below": float((distances < threshold).mean()),
        "smallest": float(distances.min()),
        "median": float(np.median(distances)),
        "median_held_out": float(np.median(no_copies)),
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.sheet:
        order = np.argsort(distances)[:PAIRS]
        columns = [np.vstack([drawn[i], trained_on[nearest[i]]]) for i in order]
        cv2.imwrite(str(arguments.sheet), np.hstack(columns)[..., ::-1])


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
    """Return the share of points that are within some manifold point's distance to its k-th neighbour."""
    own = torch.cdist(manifold, manifold)
    radii = own.kthvalue(NEIGHBOURS + 1, dim=1).values  # the nearest neighbour is the point itself
    return float((torch.cdist(points, manifold) <= radii).any(1).float().mean())


def nearest_of(images: list[Pixels], others: list[Pixels]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the distance to the nearest of the others, mirrored or not, in 8-bit levels, and its index."""
    theirs = torch.from_numpy(np.stack([thumbnail(image) for image in others]))
    ours = np.stack([thumbnail(image) for image in images])
    both = torch.from_numpy(
        np.stack([ours, np.flip(ours.reshape(-1, SMALL_PX, SMALL_PX, 3), 2).reshape(ours.shape)])
    )
    distances, indices = torch.cdist(both, theirs.expand(2, -1, -1)).amin(0).min(1)
    return (distances / ours.shape[1] ** 0.5).numpy(), indices.numpy()


def thumbnail(image: Pixels) -> NDArray[np.float32]:
    small = cv2.resize(image, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).reshape(-1)


if __name__ == "__main__":
    main()
