"""Does a file say what it was made from? Measured on pictures and noise, before it is kept; without torch."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract import Float, feed
from export.divergence import first_divergence, tapped
from export.precision import Precision, rounded_in_float32
from stylematte.errors import EngineError, InputError

Case = tuple[Float, ...]  # image (N,3,h,w), guide (N,3,H,W) and, where there is one, prior (N,1,h,w)
Run = Callable[..., Float]  # what is in a case → alpha (N,1,H,W)

PHOTOS = Path(__file__).parent / "photos"
# Undecided everywhere and like no photo: the same sums must give the same on it, rounded ones a number.
NOISE = "noise"


@dataclass(frozen=True)
class Limits:
    """Greatest differences of alpha that a file may show.

    Attributes:
        pixel: Of any pixel of any picture.
        thousandth: That a thousandth of a picture's pixels may exceed, in any picture.
        mean: Over all pixels of all photos; noise is not counted.
    """

    pixel: float
    thousandth: float
    mean: float


# fp32: the same sums in another order, 3.5e-5 at most on nano, measured. The bound for a pixel leaves room
# for larger networks; it is one step of an 8-bit alpha, and the mean tells the rest.
# The others round, so pixels on an undecided edge move with good reason. The bounds are about twice the most
# that nano shows on 66 photos, 64 of them held out; with the sensitive layers rounded too (precision.py) it
# shows more than the bounds in each type, 0.09, 0.55 and 0.87 in the worst pixel.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(pixel=1 / 255, thousandth=1e-3, mean=1e-5),
    "fp16": Limits(pixel=0.03, thousandth=0.02, mean=1e-3),
    "bf16": Limits(pixel=0.35, thousandth=0.3, mean=6e-3),
    "int8": Limits(pixel=0.5, thousandth=0.35, mean=1.2e-2),
}


class ParityError(EngineError):
    """A file and what it was made from disagree; the message says on which picture, how much, from where."""


@dataclass(frozen=True)
class Parity:
    """Absolute differences of alpha between a file and what it was made from.

    Attributes:
        reference: What the file was compared with: `torch`, or `fp32` for the float32 ONNX file.
        pictures: How many were compared, noise included.
        max_difference: Greatest difference of one pixel.
        thousandth_difference: Exceeded by a thousandth of the pixels, in the picture where it is greatest.
        mean_difference: Mean over all pixels of photos.
        sad_difference: Mean over photos of the sum of differences, in thousands of pixels, as SAD is given.
        batch_sizes: Batch sizes that were run.
    """

    reference: str
    pictures: int
    max_difference: float
    thousandth_difference: float
    mean_difference: float
    sad_difference: float
    batch_sizes: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values for the file's metadata."""
        return asdict(self)


def read_photos(folder: Path = PHOTOS, most: int = 8) -> dict[str, Float]:
    """Read pictures as (3, H, W) float32 RGB in [0, 1] by file name, spread evenly over a folder with more.

    Raises:
        InputError: No picture in the folder can be read.
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
        raise InputError(f"{folder}: no picture to compare on")
    return dict(sorted(photos.items()))


def at_working_size(photo: Float, side: int, stride: int) -> Float:
    """Resize a picture (3, H, W) to about `side`² pixels, its shape kept, sides multiples of `stride`."""
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
    """Run a float32 file and one of another precision side by side, on the CPU.

    Half types are run as `rounded_in_float32` has them.

    Args:
        original: Float32 file, itself checked against the network.
        converted: From `export.precision.to_half` or `export.int8.to_int8`.
        precision: Of `converted`; picks the limits.
        photos: As for `export.network_parity.check_parity`.
        size: Working size and stride.

    Raises:
        ParityError: As for `export.network_parity.check_parity`.
    """
    runnable = converted if precision == "int8" else rounded_in_float32(converted)

    def where(image: Float, guide: Float, prior: Float | None = None) -> str:
        wanted = tapped(original, image, prior=prior)
        return first_divergence(wanted, tapped(runnable, image, wanted, prior))

    expected = run_onnx(original)
    cases = cases_of(photos, *size)
    if takes_prior(original):
        cases |= again_with_prior(cases, expected)
    return compare(cases, expected, run_onnx(runnable), LIMITS[precision], "fp32", where)


def takes_prior(model: onnx.ModelProto) -> bool:
    """Whether a file has the input `prior`."""
    return any(port.name == "prior" for port in model.graph.input)


def again_with_prior(cases: dict[str, Case], run: Run) -> dict[str, Case]:
    """The photos once more, believing what was said of them, as in a clip: the first one, and the batch."""
    batches = (name for name, (image, _) in cases.items() if len(image) > 1)
    chosen = dict.fromkeys([next(iter(cases)), *itertools.islice(batches, 1)])
    return {
        f"{name}, with its alpha as prior": (*cases[name], own_alpha(run, cases[name][0])) for name in chosen
    }


def own_alpha(run: Run, image: Float) -> Float:
    """(N, 1, h, w): what a file says of pictures at working size."""
    return run(image, image)


def cases_of(photos: dict[str, Float], side: int, stride: int) -> dict[str, Case]:
    """Pictures to compare on, as (image, guide) by name: the photos, noise, and a batch of two."""
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
    # As the tool runs it: without VNNI an x86 CPU adds two products of 8 bits in 16, and int8 files overflow.
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
    """Compare two ways to alpha on every case.

    Args:
        cases: From `cases_of`.
        expected: The way that is believed.
        got: The way that is judged.
        limits: Differences allowed.
        reference: Name of `expected`, for the report.
        where: Names the first layer that diverges on a case; asked only after a failure.

    Raises:
        ParityError: A limit is exceeded, or a value is no number.
    """
    greatest, thousandth, total = 0.0, 0.0, 0.0
    count, pictures = 0, 0
    for name, case in cases.items():
        difference = np.abs(got(*case) - expected(*case))
        of_a_thousandth = float(np.quantile(difference, 0.999))
        seen = Limits(float(difference.max()), of_a_thousandth, float(difference.mean(dtype=np.float64)))
        bounds = Limits(1, 1, 1) if name == NOISE and reference != "torch" else limits
        # NaN compares false, so it fails too. The mean is bounded over all photos, not here.
        if not (seen.pixel <= bounds.pixel and seen.thousandth <= bounds.thousandth):
            raise ParityError(_disagreement(name, seen, limits, reference, where and where(*case)))
        if bounds is limits:
            greatest, thousandth = max(greatest, seen.pixel), max(thousandth, seen.thousandth)
        if name != NOISE:
            total, count = total + seen.mean * difference.size, count + difference.size
            pictures += len(case[0])
    if total / count > limits.mean:
        seen = Limits(greatest, thousandth, total / count)
        case = next(iter(cases.values()))
        raise ParityError(_disagreement("all photos", seen, limits, reference, where and where(*case)))
    batch_sizes = tuple(sorted({len(image) for image, *_ in cases.values()}))
    return Parity(
        reference, len(cases), greatest, thousandth, total / count, total / 1000 / pictures, batch_sizes
    )


def _disagreement(name: str, seen: Limits, limits: Limits, reference: str, layer: str | None) -> str:
    differences = f"{seen.pixel:.2g} (a thousandth of it by {seen.thousandth:.2g}, mean {seen.mean:.2g})"
    allowed = f"{limits.pixel:.2g} ({limits.thousandth:.2g}, {limits.mean:.2g})"
    source = "the network's" if reference == "torch" else f"the {reference} file's"
    return (
        f"{name}: alpha of the file differs from {source} by up to {differences}; allowed are {allowed}"
        f"{f'; {layer}' if layer else ''}"
    )


def _as_planes(image: NDArray[np.uint8]) -> Float:
    planes = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), np.float32)
    return planes / np.float32(255)
