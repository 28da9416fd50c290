"""The filter of synthetic images: keeps one where the matting network agrees with its alpha."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stylematte
from stylematte.engines.base import made_by
from stylematte.imaging.compose import composite
from stylematte.imaging.geometry import to_float
from stylematte.media.backdrop import Backdrop
from training.synthesis.agreement import agreement
from training.synthesis.drawing import file_name

# Of 40 portraits with solved mattes, at 64 to 256 px over grey, nine in ten differ by less than 0.033 and all
# but one in twenty by less than 0.037; with a hole in the head, nine in ten by more than 0.094.
THRESHOLD = 0.05
_LEAST_SIZE_PX = 256  # a smaller picture is enlarged to it: the network knows no smaller ones

Pixels = NDArray[np.uint8]


class AgreementFilter:
    """Measures how far a generated alpha is from the matting network's of the composite.

    Args:
        weights: Name or file of the matting network.
        threshold: Greatest mean difference of pictures that are kept.
        backdrop: What composites lie on.
        device: Where the network runs.
        side_px: Of the pictures.
    """

    def __init__(self, weights: str, threshold: float, backdrop: Backdrop, device: str, side_px: int) -> None:
        model = stylematte.load(weights, device=device, detail="off")
        own = model.engine.contract.working_size
        model.size = min(own, max(_LEAST_SIZE_PX, side_px))
        self.matter, self.threshold, self.backdrop = model, threshold, backdrop
        self.conditions = {
            **made_by(model.engine),
            "backgrounds": backdrop.text,
            "backgrounds_sha256": hashlib.sha256(json.dumps(backdrop.facts()).encode()).hexdigest(),
            "size": model.size,
        }

    def measure(self, pictures: Sequence[tuple[int, Pixels]]) -> list[dict[str, Any]]:
        """Measure pictures: their numbers, and (H, W, 4) uint8.

        Returns:
            One record a picture, as the manifest keeps it.
        """
        images = [
            composite(
                np.ascontiguousarray(rgba[..., :3]),
                np.ascontiguousarray(rgba[..., 3]),
                self.backdrop.behind(file_name(index)),
            )
            for index, rgba in pictures
        ]
        records = []
        for (_, rgba), matte in zip(pictures, self.matter.batch(images), strict=True):
            found = agreement(to_float(rgba[..., 3]), matte.alpha)
            band = None if found.band is None else round(found.band, 6)
            records.append({"difference": round(found.difference, 6), "band": band, **self.conditions})
        return records

    def has_measured(self, record: dict[str, Any]) -> bool:
        """Whether a record is of this network and these composites."""
        return "difference" in record and all(record.get(k) == v for k, v in self.conditions.items())

    def outcome(self, record: dict[str, Any]) -> str:
        """`ok` or `rejected`."""
        return "ok" if record["difference"] <= self.threshold else "rejected"
