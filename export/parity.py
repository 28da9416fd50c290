"""Parity checks: compare a file's alpha with its source's on images and noise; without torch."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract import Float, feed
from export.divergence import first_divergence, layer_outputs
from export.precision import Precision, rounded_in_float32
from stylematte.errors import EngineError, InputError

Case = tuple[Float, ...]  # image (N,3,h,w), guide (N,3,H,W) and optionally prior (N,1,h,w)
Run = Callable[..., Float]  # the arrays of a case → alpha (N,1,H,W)

PHOTOS = Path(__file__).parent / "photos"
# Noise gives undecided alpha everywhere: fp32 must agree on it, other precisions must only be finite.
NOISE = "noise"


@dataclass(frozen=True)
class Limits:
    """Largest differences of alpha that a file may have.

    Attributes:
        pixel: Limit for any pixel of any image.
        thousandth: Limit that 0.1 % of the pixels may exceed, in any image.
        mean: Limit for the mean over all pixels of all photos, without noise.
    """

    pixel: float
    thousandth: float
    mean: float


# fp32: the same sums in a different order; at most 3.5e-5 measured with nano. The pixel limit leaves room for
# larger networks: it is one step of an 8-bit alpha, and the mean limit catches the rest.
# The other precisions round, so pixels on undecided edges change. Their limits are about twice the largest
# difference of nano on 66 photos, 64 of them held out. If the sensitive layers were rounded too
# (precision.py), nano would exceed them in each precision: 0.09, 0.55 and 0.87 in the worst pixel.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(pixel=1 / 255, thousandth=1e-3, mean=1e-5),
    "fp16": Limits(pixel=0.03, thousandth=0.02, mean=1e-3),
    "bf16": Limits(pixel=0.35, thousandth=0.3, mean=6e-3),
    "int8": Limits(pixel=0.5, thousandth=0.35, mean=1.2e-2),
}


class ParityError(EngineError):
    """A file disagrees with its source; the message names the image, the difference and the first layer."""


@dataclass(frozen=True)
class Parity:
    """Absolute differences of alpha between a file and its source.

    Attributes:
        reference: What the file was compared with: `torch`, `fp32` or `fp16` for the ONNX file it was
            converted from, or `onnx` for the ONNX file of an engine.
        pictures: Number of images compared, including noise.
        max_difference: Largest difference of a pixel.
        thousandth_difference: Difference that 0.1 % of the pixels exceed, in the worst image.
        mean_difference: Mean over all pixels of the photos.
        sad_difference: Mean over photos of the sum of differences in thousands of pixels, like SAD.
        batch_sizes: Batch sizes that were tested.
    """

    reference: str
    pictures: int
    max_difference: float
    thousandth_difference: float
    mean_difference: float
    sad_difference: float
    batch_sizes: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Return plain values for the file's metadata."""
        return asdict(self)


def read_photos(folder: Path = PHOTOS, most: int = 8) -> dict[str, Float]:
    """Read at most `most` images, spread evenly over a folder, by name: (3, H, W) float32 in [0, 1].

    Raises:
        InputError: No image in the folder can be read.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    step = max(1, len(paths) // most)
    spread = paths[::step]
    photos: dict[str, Float] = {}
    for path in [*spread, *(path for path in paths if path not in spread)]:
        if len(photos) < most:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None:
                photos[path.name] = _as_planes(np.asarray(image, np.uint8))
    if not photos:
        raise InputError(f"{folder}: no images for the parity check")
    return dict(sorted(photos.items()))


def at_working_size(photo: Float, side: int, stride: int) -> Float:
    """Resize an image (3, H, W) to about `side`² pixels, keeping its shape, sides multiples of `stride`."""
    height, width = photo.shape[1:]
    scale = side / np.sqrt(height * width)
    size = tuple(max(1, round(s * scale / stride)) * stride for s in (width, height))
    resized = cv2.resize(photo.transpose(1, 2, 0), size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def check_converted(
    original: onnx.ModelProto,
    converted: onnx.ModelProto,
    precision: Precision,
    photos: dict[str, Float],
    size: tuple[int, int],
) -> Parity:
    """Compare a float32 file with one of another precision, on the CPU.

    Half precision is emulated, see `rounded_in_float32`.

    Args:
        original: Float32 file, itself checked against the network.
        converted: Result of `export.precision.to_half` or `export.int8.to_int8`.
        precision: Precision of `converted`; selects the limits.
        photos: As for `export.network_parity.check_parity`.
        size: Working size and stride.

    Raises:
        ParityError: As for `export.network_parity.check_parity`.
    """
    runnable = converted if precision == "int8" else rounded_in_float32(converted)

    def where(image: Float, guide: Float, prior: Float | None = None) -> str:
        layers = layer_outputs(original, image, prior=prior)
        return first_divergence(layers, layer_outputs(runnable, image, layers, prior))

    expected = run_onnx(original)
    cases = cases_of(photos, *size)
    if takes_prior(original):
        cases |= with_prior(cases, expected)
    return compare(cases, expected, run_onnx(runnable), LIMITS[precision], "fp32", where)


def takes_prior(model: onnx.ModelProto) -> bool:
    """Tell whether a file has the input `prior`."""
    return any(port.name == "prior" for port in model.graph.input)


def with_prior(cases: dict[str, Case], run: Run) -> dict[str, Case]:
    """Return the first photo and the batch with their own alpha as prior, as in a clip."""
    batches = (name for name, (image, _) in cases.items() if len(image) > 1)
    chosen = dict.fromkeys([next(iter(cases)), *itertools.islice(batches, 1)])
    return {
        f"{name}, with its alpha as prior": (*cases[name], own_alpha(run, cases[name][0])) for name in chosen
    }


def own_alpha(run: Run, image: Float) -> Float:
    """Return a file's alpha of images at working size, (N, 1, h, w)."""
    return run(image, image)


def cases_of(photos: dict[str, Float], side: int, stride: int) -> dict[str, Case]:
    """Return the images to compare, as (image, guide) by name: the photos, noise, and a batch of two."""
    noise = np.random.default_rng(0).random((3, 333, 251), np.float32)
    first = next(iter(photos.values()))
    guides = {name: photo[None] for name, photo in (photos | {NOISE: noise}).items()}
    guides["batch of two"] = np.stack([first, first[:, ::-1]])
    return {
        name: (np.stack([at_working_size(g, side, stride) for g in guide]), guide)
        for name, guide in guides.items()
    }


def run_onnx(model: onnx.ModelProto) -> Run:
    """Open a model with ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As in the runtime: without VNNI, x86 CPUs add two 8-bit products in 16 bits, and int8 files overflow.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [port.name for port in session.get_inputs()]

    def run(image: Float, guide: Float, prior: Float | None = None) -> Float:
        return np.asarray(session.run(["alpha"], feed(names, image, guide, prior))[0])

    return run


def compare(
    cases: dict[str, Case],
    expected: Run,
    got: Run,
    limits: Limits,
    reference: str,
    where: Callable[..., str] | None = None,
) -> Parity:
    """Compare two functions that compute alpha, on every case.

    Args:
        cases: From `cases_of`.
        expected: The reference.
        got: The function under test.
        limits: Largest differences allowed.
        reference: Name of `expected`, for the report.
        where: Names the first layer that diverges on a case; called only after a failure.

    Raises:
        ParityError: A limit is exceeded, or a value is not finite.
    """
    greatest, thousandth, total = 0.0, 0.0, 0.0
    count, images = 0, 0
    for name, case in cases.items():
        difference = np.abs(got(*case) - expected(*case))
        mean = float(difference.mean(dtype=np.float64))
        measured = Limits(float(difference.max()), float(np.quantile(difference, 0.999)), mean)
        bounds = Limits(1, 1, 1) if name == NOISE and reference != "torch" else limits
        # NaN compares false, so it fails too. The mean is limited over all photos, not per photo.
        if not (measured.pixel <= bounds.pixel and measured.thousandth <= bounds.thousandth):
            raise ParityError(_disagreement(name, measured, limits, reference, where and where(*case)))
        if bounds is limits:
            greatest, thousandth = max(greatest, measured.pixel), max(thousandth, measured.thousandth)
        if name != NOISE:
            total, count = total + measured.mean * difference.size, count + difference.size
            images += len(case[0])
    if total / count > limits.mean:
        measured = Limits(greatest, thousandth, total / count)
        case = next(iter(cases.values()))
        raise ParityError(_disagreement("all photos", measured, limits, reference, where and where(*case)))
    batch_sizes = tuple(sorted({len(image) for image, *_ in cases.values()}))
    return Parity(
        reference, len(cases), greatest, thousandth, total / count, total / 1000 / images, batch_sizes
    )


def _disagreement(name: str, measured: Limits, limits: Limits, reference: str, layer: str | None) -> str:
    differences = f"{measured.pixel:.2g} (99.9 % within {measured.thousandth:.2g}, mean {measured.mean:.2g})"
    allowed = f"{limits.pixel:.2g} ({limits.thousandth:.2g}, {limits.mean:.2g})"
    source = "the network's" if reference == "torch" else f"the {reference} file's"
    return (
        f"{name}: alpha of the file differs from {source} by up to {differences}; the limits are {allowed}"
        f"{f'; {layer}' if layer else ''}"
    )


def _as_planes(image: NDArray[np.uint8]) -> Float:
    planes = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), np.float32)
    return planes / np.float32(255)
