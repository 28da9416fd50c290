"""What an engine is, and what a model file says about itself (docs/model-contract.md)."""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stylematte.errors import InputError, UsageError

if TYPE_CHECKING:
    from stylematte.engines.gpu_filter import GpuGuidedFilter

CONTRACT_VERSIONS = ("1", "2")
FITS = ("keep", "stretch")
SIZE_WEIGHT = 0.1  # how much a wrong number of pixels counts against a wrong shape


@dataclass(frozen=True)
class Contract:
    """A model file's metadata, checked.

    Attributes:
        preset: Name of the network.
        working_size: Side, in pixels, of the square with as many pixels as the network wants.
        stride: Working height and width are multiples of it.
        mean: Of the normalisation inside the file, RGB, for colours in [0, 1].
        std: Likewise.
        upsampler: How coarse logits become full-size alpha.
        radius_px: The guided filter's box radius, in coarse pixels.
        eps: The guided filter's regulariser.
        weights_sha256: Hex digest of the safetensors file that was exported.
        tool_version: Version of the exporter.
        licence: Of the weights.
        provenance: Data sets, stages, steps.
        parity: Differences from torch, measured at export.
        precision: Number type of the network's products: fp32, fp16, bf16 or int8.
        working_sizes: The (height, width) that the file takes; empty where every multiple of `stride` does.
        good_sizes: Least and greatest `working_size` that the network was trained at; None where nobody says.
        fit: `keep`: the network sees an image in its own shape. `stretch`: as a square.
        refiner: Name of a file beside the model that makes its alphas finer; empty where there is none.
        refiner_sha256: Hex digest of that file.
    """

    preset: str
    working_size: int
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    upsampler: str
    radius_px: int
    eps: float
    weights_sha256: str
    tool_version: str
    licence: str
    provenance: dict[str, Any]
    parity: dict[str, Any]
    precision: str = "fp32"
    working_sizes: tuple[tuple[int, int], ...] = ()
    good_sizes: tuple[int, int] | None = None
    fit: str = "keep"
    refiner: str = ""
    refiner_sha256: str = ""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> Self:
        """Read the contract out of a file's metadata.

        Args:
            metadata: Keys and values as text, `stylematte.` before each key.
            where: The file's name, for messages.

        Raises:
            InputError: Not one of our files, another contract version, or a value that cannot be read.
        """
        version = metadata.get("stylematte.contract")
        if version is None:
            raise InputError(
                f"{where}: not a StyleMatte model: it has no `stylematte.contract`",
                "Make one with `stylematte export`",
            )
        if version not in CONTRACT_VERSIONS:
            raise InputError(
                f"{where}: model contract version {version}, but this tool reads "
                + " and ".join(CONTRACT_VERSIONS),
                "Update stylematte, or export the weights again with this version",
            )

        # What version 2 added; a file of version 1 says none of it.
        fields = ("good_sizes", "fit", "refiner", "refiner_sha256") if version != "1" else ()

        def text(key: str) -> str:
            return metadata[f"stylematte.{key}"]

        try:
            contract = cls(
                preset=text("preset"),
                working_size=int(text("working_size")),
                stride=int(text("stride")),
                mean=_triple(text("mean")),
                std=_triple(text("std")),
                upsampler=text("upsampler"),
                radius_px=int(text("radius_px")),
                eps=float(text("eps")),
                weights_sha256=text("weights_sha256"),
                tool_version=text("tool_version"),
                licence=text("licence"),
                provenance=_table(text("provenance")),
                parity=_table(text("parity")),
                precision=metadata.get("stylematte.precision", "fp32"),
                working_sizes=_sizes(metadata.get("stylematte.working_sizes", "")),
                **{key: _FIELDS[key](text(key)) for key in fields},
            )
        except KeyError as error:
            raise InputError(
                f"{where}: the model's metadata lacks {error}", "Export the weights again"
            ) from None
        except ValueError as error:
            raise InputError(f"{where}: the model's metadata is damaged: {error}", "Export again") from None
        positive = (contract.stride, contract.working_size, *contract.std, *(contract.good_sizes or ()))
        # Negated, because NaN compares false.
        if not all(0 < value < math.inf for value in positive):
            raise InputError(f"{where}: the model's metadata is damaged: sizes and std must be positive")
        if not all(map(math.isfinite, (*contract.mean, contract.eps))):
            raise InputError(f"{where}: the model's metadata is damaged: mean and eps must be numbers")
        return contract

    @property
    def grey_weights(self) -> tuple[float, float, float]:
        """Channel weights of the guide: grey = Σ weight · colour + offset, colour in [0, 1]."""
        red, green, blue = (1 / (3 * std) for std in self.std)
        return red, green, blue

    @property
    def grey_offset(self) -> float:
        """Offset of the guide; see `grey_weights`."""
        return -sum(mean / std for mean, std in zip(self.mean, self.std, strict=True)) / 3

    def working_size_for(self, height: int, width: int, size: int | None = None) -> tuple[int, int]:
        """Choose the size at which the network sees an image: its shape kept, its area near `size`².

        With the fit `stretch` every image is seen as the square nearest to `size`. Else, of all heights and
        widths that are multiples of `stride`, from one stride to 2 · size, or of `working_sizes` where the
        file takes no others, take the pair with the least
        |log of the change of shape| + 0.1 · |log of the change of area|. Extreme strips end at the longest
        side allowed.

        Args:
            height: Of the image, in pixels.
            width: Likewise.
            size: Instead of the model's own working size.

        Returns:
            (height, width).

        Raises:
            UsageError: `size` is below the stride.
        """
        size = self.working_size if size is None else size
        if self.fit == "stretch":
            height = width = 1
        if size < self.stride:
            raise UsageError(
                f"size {size}: model {self.preset} needs at least {self.stride}",
                f"Its default size is {self.working_size}",
            )
        heights, widths = self._choices(size)
        shape_error = np.abs(np.log(widths / heights) - np.log(width / height))
        area_error = np.abs(np.log(heights * widths / size**2))
        best = np.argmin(shape_error + SIZE_WEIGHT * area_error)
        return int(heights[best]), int(widths[best])

    def warning_for(self, size: int | None = None) -> str:
        """What to tell about a working size at which the network is not good; empty where it is.

        Args:
            size: Instead of the model's own working size.
        """
        size = self.working_size if size is None else size
        if self.good_sizes is None or self.good_sizes[0] <= size <= self.good_sizes[1]:
            return ""
        least, most = self.good_sizes
        loses = "subjects" if size > most else "details"
        return f"{self.preset} was trained at sizes from {least} to {most}; at {size} it loses {loses}"

    def _choices(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Heights and widths to choose from, in pairs."""
        if self.working_sizes:
            heights, widths = np.array(self.working_sizes, np.float64).T
            return heights, widths
        longest = -(-2 * size // self.stride) * self.stride
        sides = np.arange(self.stride, longest + 1, self.stride, dtype=np.float64)
        return np.repeat(sides, len(sides)), np.tile(sides, len(sides))


class DeviceCoefficients(Protocol):
    """Coefficients of one photo that are still on a GPU."""

    def alpha_as(self, image: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """Make the alpha there: (H, W) opacity of the photo (H, W, 3), in the number type asked for."""
        ...


class Engine(Protocol):
    """Something that runs a model file.

    Attributes:
        contract: What the file says about itself.
        name: Kind of engine, `onnx`.
        provider: What the session really got, `CPUExecutionProvider`.
        lanes: How many threads may call it at once.
        gpu_filter: Makes the alphas on the GPU, once it is set; see `engines.gpu_filter`.
        takes_prior: The file has the input `prior`.
        file_sha256: Hex digest of the file that was opened, model or engine; computed once, when asked for.
    """

    contract: Contract
    name: str
    provider: str
    lanes: int
    gpu_filter: "GpuGuidedFilter | None"
    takes_prior: bool

    @property
    def file_sha256(self) -> str: ...  # noqa: D102

    def coefficients(
        self, images: NDArray[np.float32], priors: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | list[DeviceCoefficients]:
        """Run the network.

        Args:
            images: (N, 3, h, w) float32 RGB in [0, 1], h and w multiples of the stride.
            priors: (N, 1, h, w) float32 in [0, 1], alpha believed so far, zeros where there is none; for a
                file that takes it. None is zeros.

        Returns:
            (N, 2, gh, gw) float32: A and b of the guided filter, on a grid of any size; or one object a
            photo, where the filter runs on the GPU too.

        Raises:
            EngineError: The runtime failed.
        """
        ...


def made_by(engine: Engine) -> dict[str, str]:
    """What of an engine changes results: records that lack it, or say another, are of another model.

    The weights do not tell files apart: those of float32, int8 and several working sizes are the same.
    """
    how = f"{engine.name}, {engine.provider}"
    if (precision := getattr(engine, "precision", "float32")) != "float32":
        how += f", {precision}"
    return {"model_sha256": engine.file_sha256, "engine": how}


def usable_cores() -> int:
    """Count the cores this process may use, the quota of a container counted in."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        pass
    return cores


def _pair(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    least, most = (int(part) for part in text.split(","))
    if least > most:
        raise ValueError(f"good sizes {least} to {most}")
    return least, most


def _fit(text: str) -> str:
    if text not in FITS:
        raise ValueError(f"fit {text!r} is not one of {', '.join(FITS)}")
    return text


_FIELDS: dict[str, Callable[[str], Any]] = {
    "good_sizes": _pair,
    "fit": _fit,
    "refiner": str,
    "refiner_sha256": str,
}


def _triple(text: str) -> tuple[float, float, float]:
    red, green, blue = (float(part) for part in text.split(","))
    return red, green, blue


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    sizes = []
    for part in text.split(",") if text else ():
        height, width = (int(side) for side in part.split("x"))
        sizes.append((height, width))
    return tuple(sizes)


def _table(text: str) -> dict[str, Any]:
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError(f"expected a JSON object, found {text[:40]!r}")
    return table
