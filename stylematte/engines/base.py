"""The interface of engines, and the contract in a model file's metadata (docs/model-contract.md)."""

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
SIZE_WEIGHT = 0.1  # weight of the error in area relative to the error in shape


@dataclass(frozen=True)
class Contract:
    """The validated metadata of a model file.

    Attributes:
        preset: Name of the network.
        working_size: Side, in pixels, of the square with as many pixels as the network's input.
        stride: Divisor of working height and width.
        mean: Mean (RGB) of the normalisation inside the file, for colours in [0, 1].
        std: Standard deviation (RGB) of that normalisation.
        upsampler: Method that turns coarse logits into full-size alpha.
        radius_px: Box radius of the guided filter, in coarse pixels.
        eps: Regulariser of the guided filter.
        weights_sha256: Hex digest of the exported safetensors file.
        tool_version: Version of the exporter.
        licence: Licence of the weights.
        provenance: Data sets, stages and steps of the training.
        parity: Differences from torch, measured at export.
        precision: Number type of the network's products: fp32, fp16, bf16 or int8.
        working_sizes: Each (height, width) that the file accepts; empty if it accepts all multiples of
            `stride`.
        good_sizes: Smallest and largest `working_size` of the training; None if unknown.
        fit: `keep`: the network's input has the aspect ratio of the image. `stretch`: it is square.
        refiner: File name of the model's refiner, which is beside the model; empty if there is none.
        refiner_sha256: Hex digest of the refiner's file.
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
        """Read the contract from a file's metadata.

        Args:
            metadata: Keys and values as text; keys have the prefix `stylematte.`.
            where: Name of the file, for messages.

        Raises:
            InputError: Not a model of this tool, an unsupported contract version, or an unreadable value.
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

        # Added in version 2; absent from files of version 1.
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
        # `not all(...)` also rejects NaN, which compares false.
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
        """Choose the size of the network's input: the aspect ratio of the image, an area close to `size`².

        With the fit `stretch`, it is the square nearest to `size`. Otherwise, it is the pair with the
        smallest |log of the change of shape| + 0.1 · |log of the change of area|, among `working_sizes`, or
        among all multiples of `stride` up to 2 · size if that is empty. Extreme strips are limited by the
        longest side.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
            size: Replaces the model's own working size.

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
        """Return a warning about a working size at which the network was not trained; empty if it was.

        Args:
            size: Replaces the model's own working size.
        """
        size = self.working_size if size is None else size
        if self.good_sizes is None or self.good_sizes[0] <= size <= self.good_sizes[1]:
            return ""
        least, most = self.good_sizes
        loses = "subjects" if size > most else "details"
        return f"{self.preset} was trained at sizes from {least} to {most}; at {size} it loses {loses}"

    def _choices(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the heights and widths to choose from, in pairs."""
        if self.working_sizes:
            heights, widths = np.array(self.working_sizes, np.float64).T
            return heights, widths
        longest = -(-2 * size // self.stride) * self.stride
        sides = np.arange(self.stride, longest + 1, self.stride, dtype=np.float64)
        return np.repeat(sides, len(sides)), np.tile(sides, len(sides))


class DeviceCoefficients(Protocol):
    """Coefficients of one image in GPU memory."""

    def alpha_as(self, image: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """Compute the alpha on the GPU: (H, W) opacity of the image (H, W, 3), in the given dtype."""
        ...


class Engine(Protocol):
    """The interface for running a model file.

    Attributes:
        contract: Contract in the file's metadata.
        name: Kind of engine, such as `onnx`.
        provider: Provider that the session uses, such as `CPUExecutionProvider`.
        lanes: Number of threads that may call it in parallel.
        gpu_filter: Computes alphas on the GPU if it is set; see `engines.gpu_filter`.
        takes_prior: Whether the file has the input `prior`.
        file_sha256: Hex digest of the opened model or engine file; computed once, at its first use.
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
            priors: (N, 1, h, w) float32 in [0, 1], approximate alphas, zeros for images without one; only
                for a file that takes priors. None: zeros.

        Returns:
            (N, 2, gh, gw) float32: A and b of the guided filter, on a grid of any size; or one object per
            image if the filter runs on the GPU too.

        Raises:
            EngineError: The runtime failed.
        """
        ...


def made_by(engine: Engine) -> dict[str, str]:
    """Return the properties of an engine that affect results, for manifests.

    The hash of the weights is not enough: files of float32, int8 and several working sizes share it.
    """
    how = f"{engine.name}, {engine.provider}"
    if (precision := getattr(engine, "precision", "float32")) != "float32":
        how += f", {precision}"
    return {"model_sha256": engine.file_sha256, "engine": how}


def usable_cores() -> int:
    """Return the number of cores that this process may use, limited by the quota of its container."""
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
