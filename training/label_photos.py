"""Make a labelled data set of photos: keep those whose alphas several networks agree on.

First matte the photos with each network, then run `python -m training.label_photos`; see docs/training.md.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stylematte.errors import InputError
from stylematte.files import write_bytes
from stylematte.media.images import encode_image
from training.data.label_agreement import (
    LabelAgreement,
    believe,
    combine,
    confidence,
    measure,
    with_opaque_body,
)
from training.data.label_cleanup import clean_mask, unlabelled_skin
from training.data.readers import IMAGE_SUFFIXES, DataError, check_size, read_label, read_plane, read_rgb

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Sources:
    """Where the photos of one set are, and what is known of them.

    Files match by stem, and have their photo's size.

    Attributes:
        photos: Folder of photos.
        teacher: Folder of the teacher's alphas.
        others: Folders of a second and a third network's alphas; None if there are masks.
        masks: Folder of masks of the whole subject; None if there are none.
        trusts_masks: Whether people drew them, see `training.data.label_agreement.combine`.
        parts: Folder of masks of a part of the subject, such as its hair; None if there are none.
        joints: Stem → (n, 2) x and y of the visible joints, in pixels of the photo.
    """

    photos: Path
    teacher: Path
    others: tuple[Path, Path] | None = None
    masks: Path | None = None
    trusts_masks: bool = True
    parts: Path | None = None
    joints: dict[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a photo.

    Attributes:
        stem: Name of the photo.
        seen: How far the networks agree; None for a photo with a mask.
        confidence: Confidence in its label, 0 if it was left out.
    """

    stem: str
    seen: LabelAgreement | None
    confidence: float


def label_photos(sources: Sources, out: Path, side: int) -> Iterator[Outcome]:
    """Label the photos of a folder, and write image/, alpha/ and weight/ as `layout = "plain"` reads them.

    Args:
        sources: Photos and alphas.
        out: Folder of the new set.
        side: Longer side of the written images in pixels; larger photos are resized by area.

    Yields:
        What became of each photo, in name order.

    Raises:
        DataError: There are no photos; or a photo has no alpha or no mask, or one of another size.
    """
    photos = sorted(p for p in sources.photos.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not photos:
        raise DataError(f"{sources.photos}: no photos in it")
    for photo in photos:
        image = read_rgb(photo)
        seen = None
        if sources.others is not None:
            seen, alpha, weight = _by_agreement(sources, sources.others, photo, image)
        elif sources.masks is not None:
            alpha, weight = _by_mask(sources, sources.masks, photo, image)
        else:
            raise ValueError("give masks, or two more networks")
        if weight.any():
            _write(out, photo.stem, _bounded([image, _levels(alpha), _levels(weight)], side))
        yield Outcome(photo.stem, seen, float(weight.max()))


def _by_agreement(
    sources: Sources, others: tuple[Path, Path], photo: Path, image: Pixels
) -> tuple[LabelAgreement, Plane, Plane]:
    teacher = _alpha(sources.teacher, photo, image)
    second, third = (_alpha(folder, photo, image) for folder in others)
    joints = _joints(sources, photo, image)
    part = None if sources.parts is None else _mask(sources.parts, photo, image)
    seen = measure(teacher, second, third, joints if part is None else part)
    alpha, weight = believe(teacher, (second, third), joints)
    return seen, alpha, weight * np.float32(confidence(seen))


def _by_mask(sources: Sources, masks: Path, photo: Path, image: Pixels) -> tuple[Plane, Plane]:
    teacher, mask = with_opaque_body(_alpha(sources.teacher, photo, image)), _mask(masks, photo, image)
    mask = clean_mask(mask)
    doubtful = np.zeros_like(mask)
    if sources.parts is not None:  # portraits: face parsing leaves out bare shoulders and hands
        skin, doubtful = unlabelled_skin(image, mask, _mask(sources.parts, photo, image))
        mask = mask | skin
    alpha, weight = combine(teacher, mask, sources.trusts_masks)
    weight[doubtful] = 0
    return alpha, weight if mask.any() else np.zeros_like(weight)


def _joints(sources: Sources, photo: Path, image: Pixels) -> NDArray[np.bool_] | None:
    """Return the marked joints of a photo, (H, W); None if it has none."""
    joints = sources.joints.get(photo.stem)
    if joints is None:
        return None
    height, width = image.shape[:2]
    marked = np.zeros((height, width), bool)
    x = np.clip(joints[:, 0].astype(int), 0, width - 1)
    y = np.clip(joints[:, 1].astype(int), 0, height - 1)
    marked[y, x] = True
    return marked


def read_joints(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read marked joints: JSON, stem → {"points": [[x, y], …]} with the visible ones, in pixels of the photo.

    Raises:
        DataError: The file is missing, or is something else.
    """
    try:
        marks = json.loads(path.read_text(encoding="utf-8"))
        return {stem: np.array(mark["points"], np.float32).reshape(-1, 2) for stem, mark in marks.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path}: not a file of joints like {{"stem": {{"points": [[x, y]]}}}}') from error


def write_report(path: Path, outcomes: list[Outcome]) -> None:
    """Write a CSV with one row per photo: what the networks agree on, and the confidence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        names = [f.name for f in fields(LabelAgreement)]
        rows.writerow(["photo", *names, "confidence"])
        for outcome in outcomes:
            values = astuple(outcome.seen) if outcome.seen else (None,) * len(names)
            rows.writerow(
                [outcome.stem, *(v if v is None else round(v, 4) for v in values), outcome.confidence]
            )


def _alpha(folder: Path, photo: Path, image: Pixels) -> Plane:
    """Read a network's alpha of a photo, (H, W) in [0, 1]."""
    path = _label_path(folder, photo, "alpha")
    alpha = read_plane(path)
    check_size(path, alpha, image)
    return np.divide(alpha, 255, dtype=np.float32)


def _mask(folder: Path, photo: Path, image: Pixels) -> NDArray[np.bool_]:
    """Read a mask of a photo, (H, W)."""
    path = _label_path(folder, photo, "mask")
    mask = read_label(path)
    check_size(path, mask, image)
    return mask > 127


def _label_path(folder: Path, photo: Path, what: str) -> Path:
    path = next((p for s in IMAGE_SUFFIXES if (p := folder / f"{photo.stem}{s}").is_file()), None)
    if path is None:
        raise DataError(f"{folder}: no {what} for {photo.name}")
    return path


def _levels(plane: Plane) -> Pixels:
    return (np.clip(plane, 0, 1) * 255 + 0.5).astype(np.uint8)


def _bounded(parts: list[Pixels], side: int) -> list[Pixels]:
    height, width = parts[0].shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return parts
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return [np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8) for part in parts]


def _write(out: Path, stem: str, parts: list[Pixels]) -> None:
    for name, pixels in zip(("image", "alpha", "weight"), parts, strict=True):
        write_bytes(out / name / f"{stem}.png", encode_image(pixels, "png"))


def main() -> None:
    """Read the command line and label the photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="Folder of photos.")
    parser.add_argument("--teacher", type=Path, required=True, help="Folder of the teacher's alphas.")
    parser.add_argument("--second", type=Path, help="Folder of a second network's alphas.")
    parser.add_argument("--third", type=Path, help="Folder of a third network's alphas.")
    parser.add_argument(
        "--masks", type=Path, help="Folder of masks of the subjects, instead of two networks."
    )
    parser.add_argument(
        "--masks-by-network", action="store_true", help="A network made the masks, not people."
    )
    parser.add_argument("--parts", type=Path, help="Folder of masks of a part of the subject, such as hair.")
    parser.add_argument("--joints", type=Path, help='JSON: {"stem": {"points": [[x, y], ...]}}.')
    parser.add_argument("--out", type=Path, required=True, help="Folder of the new data set.")
    parser.add_argument("--side", type=int, default=448, help="Longer side of its images, in pixels.")
    given = parser.parse_args()
    others = (given.second, given.third) if given.second and given.third else None
    if (given.masks is None) == (others is None):
        parser.error("give either --masks, or --second and --third")
    try:
        joints = read_joints(given.joints) if given.joints else {}
        sources = Sources(
            *(given.photos, given.teacher, others, given.masks),
            *(not given.masks_by_network, given.parts, joints),
        )
        outcomes = list(tqdm(label_photos(sources, given.out, given.side), unit="photo", disable=None))
        write_report(given.out / "report.csv", outcomes)
    except InputError as error:
        parser.exit(3, f"{parser.prog}: error: {error}\n")
    kinds = (
        "left out" if o.confidence == 0 else "sure" if o.confidence == 1 else "less sure" for o in outcomes
    )
    print(f"{given.out}: " + ", ".join(f"{n} {kind}" for kind, n in Counter(kinds).most_common()))


if __name__ == "__main__":
    main()
