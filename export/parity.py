"""Does the file say what the network says? Measured on real pictures and noise, before it is kept."""

from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.stylematte import StyleMatte

PHOTOS = Path(__file__).parent / "photos"
# float32 on both sides, sums in another order: 3.5e-5 at most on nano, measured. The bound for a pixel
# leaves room for larger networks; it is one step of an 8-bit alpha, and the mean tells the rest.
MAX_DIFFERENCE, MEAN_DIFFERENCE = 1 / 255, 1e-5


class PhotosError(ValueError):
    """A folder without a single picture to compare on."""


class ParityError(RuntimeError):
    """The exported file and the network disagree; the message says on which picture and by how much."""


@dataclass(frozen=True)
class Parity:
    """Greatest and mean absolute difference of alpha between torch and ONNX Runtime, over all pictures.

    Attributes:
        pictures: How many were compared, noise included.
        max_difference: Greatest absolute difference of one pixel's alpha.
        mean_difference: Mean over all pixels.
        batch_sizes: Batch sizes that were run.
    """

    pictures: int
    max_difference: float
    mean_difference: float
    batch_sizes: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values for the file's metadata."""
        return asdict(self)


def read_photos(folder: Path = PHOTOS, most: int = 8) -> dict[str, NDArray[np.float32]]:
    """Read pictures as (3, H, W) float32 RGB in [0, 1] by file name.

    Raises:
        PhotosError: No picture in the folder can be read.
    """
    photos: dict[str, NDArray[np.float32]] = {}
    for path in sorted(folder.iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None and len(photos) < most:
            photos[path.name] = np.ascontiguousarray(
                image[..., ::-1].transpose(2, 0, 1), np.float32
            ) / np.float32(255)
    if not photos:
        raise PhotosError(f"{folder}: no picture to compare on")
    return photos


@torch.inference_mode()
def check_parity(
    model: StyleMatte, exported: onnx.ModelProto, photos: dict[str, NDArray[np.float32]]
) -> Parity:
    """Run network and file side by side.

    Args:
        model: Network in evaluation mode, on the CPU.
        exported: What `export.onnx.export_onnx` made of it.
        photos: (3, H, W) float32 RGB in [0, 1] by name; noise is added, and a batch of two.

    Raises:
        ParityError: A difference above `MAX_DIFFERENCE` or `MEAN_DIFFERENCE`, or a value that is no number.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).random((3, 333, 251), np.float32)
    first = next(iter(photos.values()))
    cases = {name: photo[None] for name, photo in (photos | {"noise": noise}).items()}
    cases["batch of two"] = np.stack([first, first[:, ::-1]])
    greatest, total, count = 0.0, 0.0, 0
    for name, guide in cases.items():
        image = np.stack([_at_working_size(g, model.preset.working_size, model.preset.stride) for g in guide])
        expected = model(torch.from_numpy(image), torch.from_numpy(guide)).alpha.numpy()
        got = session.run(["alpha"], {"image": image, "guide": guide})[0]
        difference = np.abs(got - expected)
        if (
            not difference.max() <= MAX_DIFFERENCE or not difference.mean() <= MEAN_DIFFERENCE
        ):  # NaN fails too
            raise ParityError(
                f"{name}: alpha of the file differs from the network's by up to {difference.max():.2g} "
                f"(mean {difference.mean():.2g}); allowed are {MAX_DIFFERENCE} and {MEAN_DIFFERENCE}"
            )
        greatest = max(greatest, float(difference.max()))
        total, count = total + float(difference.sum(dtype=np.float64)), count + difference.size
    return Parity(len(cases), greatest, total / count, (1, 2))


def _at_working_size(photo: NDArray[np.float32], side: int, stride: int) -> NDArray[np.float32]:
    height, width = photo.shape[1:]
    scale = side / np.sqrt(height * width)
    size = tuple(max(1, round(s * scale / stride)) * stride for s in (width, height))
    resized = cv2.resize(photo.transpose(1, 2, 0), size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))
