"""Compute mattes from binary masks: trimap, closed-form alpha in the band, and a confidence.

A hand-made mask shows where the subject is, but not single hairs. The closed-form solver finds hairs where
the colours differ, and fails where they do not. So the mask is kept away from its border, and a band around
the border (narrow on skin and cloth, wide on hair and fur) is solved twice with different regularisation. The
confidence is high where both solutions agree.
"""

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stylematte.files import write_bytes
from training.data.label_cleanup import clean_mask, dilated, eroded, subject_size_px, unlabelled_skin
from training.data.loading import deferred_interrupts
from training.data.readers import DataError, Sample, check_size, read_label, read_rgb

Band = Literal["narrow", "hair", "fur"]
_NARROW = 0.010  # band radii as fractions of the subject's size (the square root of its area)
_WIDE_OUT, _WIDE_IN = 0.06, 0.04


@dataclass(frozen=True)
class PseudoAlpha:
    """A matte made from a mask.

    Attributes:
        alpha: (H, W) float32 in [0, 1].
        weight: (H, W) float32 in [0, 1], confidence in `alpha`; 0 where the label has an error.
        trimap: (H, W) uint8 in {0, 128, 255}.
        foreground: (H, W, 3) uint8 RGB, foreground colours.
    """

    alpha: NDArray[np.float32]
    weight: NDArray[np.float32]
    trimap: NDArray[np.uint8]
    foreground: NDArray[np.uint8]


def make_trimap(
    mask: NDArray[np.bool_], band: Band, hair: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Mark the pixels around a mask's border as unknown.

    Args:
        mask: (H, W) whole subject.
        band: "narrow" for outlines of skin and cloth, "fur" for a wide band all around, "hair" for a wide
            band beside `hair` and a narrow one elsewhere.
        hair: (H, W) hair mask; needed for the band "hair".

    Returns:
        (H, W) uint8: 0 background, 128 unknown, 255 foreground.
    """
    subject = mask.astype(bool)
    size = subject_size_px(mask)
    narrow, wide_in, wide_out = (max(2, round(size * share)) for share in (_NARROW, _WIDE_IN, _WIDE_OUT))
    if band == "fur":
        inner, outer = eroded(subject, wide_in), dilated(subject, wide_out)
    else:
        inner, outer = eroded(subject, narrow), dilated(subject, narrow)
        if band == "hair" and hair is not None and hair.any():
            border = dilated(subject, 1) & ~eroded(subject, 1)
            hair_border = border & dilated(hair, 3)
            inner = inner & ~dilated(hair_border, wide_in)
            outer = outer | dilated(hair_border, wide_out)
    trimap = np.full(mask.shape, 128, np.uint8)
    trimap[inner] = 255
    trimap[~outer] = 0
    return trimap


def make_pseudo_alpha(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], band: Band, hair: NDArray[np.bool_] | None = None
) -> PseudoAlpha:
    """Solve the matte of an image from a mask of its subject.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) whole subject.
        band: See `make_trimap`.
        hair: (H, W) hair mask, or None.

    Returns:
        Alpha, confidence, the trimap, and foreground colours.

    Reference:
        Levin, Lischinski, Weiss, "A Closed-Form Solution to Natural Image Matting", 2008, eq. 12;
        Germer et al., "Fast Multi-Level Foreground Estimation", 2020.
    """
    import pymatting  # brings numba, whose import takes seconds

    mask = clean_mask(mask)
    doubtful = np.zeros_like(mask)
    if hair is not None:
        skin, doubtful = unlabelled_skin(image, mask, hair)
        mask = mask | skin
    trimap = make_trimap(mask, band, hair)
    scaled = image / 255.0
    unknown = trimap == 128
    hard = mask.astype(np.float32)
    if not unknown.any() or not (trimap == 255).any() or not (trimap == 0).any():
        return PseudoAlpha(hard, np.where(unknown, 0.3, 1).astype(np.float32), trimap, image)
    known = trimap / 255.0
    known[unknown] = 0.5
    kernels = {
        "sharp": 1e-7,
        "smooth": 1e-4,
    }  # regulariser: low values follow strands, high values ignore noise
    solved = {
        name: np.clip(pymatting.estimate_alpha_cf(scaled, known, laplacian_kwargs={"epsilon": eps}), 0, 1)
        for name, eps in kernels.items()
    }
    alpha = ((solved["sharp"] + solved["smooth"]) / 2).astype(np.float32)
    # Low confidence where the solutions disagree, or where both are far from the blurred mask.
    spread = np.abs(solved["sharp"] - solved["smooth"])
    reach = cv2.GaussianBlur(hard, (0, 0), max(1.0, 0.02 * subject_size_px(mask)))
    stray = np.clip(np.abs(alpha - reach) - 0.5, 0, None)
    confidence = np.exp(-((spread / 0.15) ** 2)) * np.exp(-((stray / 0.2) ** 2))
    weight = np.where(unknown, 0.1 + 0.9 * confidence, 1).astype(np.float32)
    weight[doubtful] = 0
    alpha = np.where(unknown, weight * alpha + (1 - weight) * reach, hard).astype(np.float32)
    foreground = pymatting.estimate_foreground_ml(scaled, alpha.astype(np.float64))
    return PseudoAlpha(alpha, weight, trimap, np.clip(foreground * 255 + 0.5, 0, 255).astype(np.uint8))


def prepare(samples: list[Sample], band: Band, cache: Path, workers: int = 2) -> int:
    """Compute the pseudo-mattes of one set and cache them as files.

    Args:
        samples: Images with a mask of the whole subject; a hair map is used if present.
        band: See `make_trimap`.
        cache: Folder for `<set>/<stem>.{alpha,weight,trimap}.png` and `.foreground.jpg`.
        workers: Processes.

    Returns:
        Number of computed files; cached ones are kept.

    Raises:
        DataError: An image or label is missing or cannot be read, or their sizes differ.
    """
    _check_labels(samples, "mask")
    return _make_each(samples, cache, workers, "mattes", functools.partial(_prepare_one, band=band))


def prepare_foregrounds(samples: list[Sample], cache: Path, workers: int = 2) -> int:
    """Estimate the foreground colours of images with known alpha, and cache them as files.

    Args:
        samples: Images with an alpha.
        cache: Folder for `<set>/<stem>.foreground.jpg`.
        workers: Processes.

    Returns:
        Number of computed files; cached ones are kept.

    Raises:
        DataError: See `prepare`.

    Reference:
        Germer et al., "Fast Multi-Level Foreground Estimation", 2020.
    """
    _check_labels(samples, "alpha")
    return _make_each(samples, cache, workers, "foregrounds", _prepare_foreground)


def cached_paths(sample: Sample, cache: Path) -> dict[str, Path]:
    """Return the paths of a sample's pseudo-matte. `foreground` is written last, so it implies the others."""
    base = cache / sample.folder / sample.below
    parts = {kind: base / f"{sample.image.stem}.{kind}.png" for kind in ("alpha", "weight", "trimap")}
    return parts | {"foreground": base / f"{sample.image.stem}.foreground.jpg"}


def _check_labels(samples: list[Sample], label: str) -> None:
    if unlabelled := [s for s in samples if label not in s.labels]:
        raise DataError(f"{unlabelled[0].image}: it has no {label}; its set needs a folder {label}/")


def _make_each(
    samples: list[Sample], cache: Path, workers: int, what: str, make: Callable[[Sample, Path], None]
) -> int:
    """Call `make` in several processes for the samples without cached foreground."""
    todo = [s for s in samples if not cached_paths(s, cache)["foreground"].exists()]
    for folder in {cached_paths(s, cache)["foreground"].parent for s in todo}:
        folder.mkdir(parents=True, exist_ok=True)
    # Spawn: a forked child crashes if numba's OpenMP threads have run in its parent.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        with deferred_interrupts():
            jobs = [pool.submit(make, s, cache) for s in todo]  # starts the processes
        try:
            for job in tqdm(jobs, desc=f"{what} for {samples[0].folder}", unit="photo", disable=None):
                job.result()
        except BaseException:  # report it now, not after hours of other photos
            pool.shutdown(cancel_futures=True)
            raise
    return len(todo)


def _prepare_one(sample: Sample, cache: Path, band: Band) -> None:
    cv2.setNumThreads(1)
    image = read_rgb(sample.image)
    mask = read_label(sample.labels["mask"]) > 127
    hair = read_label(sample.labels["hair"]) > 127 if "hair" in sample.labels else None
    check_size(sample.labels["mask"], mask, image)
    matte = make_pseudo_alpha(image, mask, band, hair)
    paths = cached_paths(sample, cache)
    cv2.imwrite(str(paths["alpha"]), np.round(matte.alpha * 255).astype(np.uint8))
    cv2.imwrite(str(paths["weight"]), np.round(matte.weight * 255).astype(np.uint8))
    cv2.imwrite(str(paths["trimap"]), matte.trimap)
    _write_foreground(paths["foreground"], matte.foreground)


def _prepare_foreground(sample: Sample, cache: Path) -> None:
    import pymatting

    cv2.setNumThreads(1)
    image, alpha = read_rgb(sample.image), read_label(sample.labels["alpha"])
    check_size(sample.labels["alpha"], alpha, image)
    foreground = pymatting.estimate_foreground_ml(image / 255.0, alpha / 255.0)
    colours = np.clip(foreground * 255 + 0.5, 0, 255).astype(np.uint8)
    _write_foreground(cached_paths(sample, cache)["foreground"], colours)


def _write_foreground(path: Path, colours: NDArray[np.uint8]) -> None:
    bgr = cv2.cvtColor(colours, cv2.COLOR_RGB2BGR)
    write_bytes(path, cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
