"""The filter of `stylematte synth`: keeps a picture where the matting network agrees with its alpha."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stylematte.engines.base import made_by
from stylematte.imaging.compose import composite
from stylematte.imaging.geometry import to_float
from stylematte.media.backdrop import Backdrop
from stylematte_cli.commands.matte_files import Model

if TYPE_CHECKING:
    from stylematte_cli.commands.synth_files import SampleFolder

# Of 40 portraits with solved mattes, at 64 to 256 px over grey, nine in ten differ by less than 0.033 and all
# but one in twenty by less than 0.037; with a hole in the head, nine in ten by more than 0.094.
THRESHOLD = 0.05
_LEAST_SIZE_PX = 256  # a smaller picture is enlarged to it: the network knows no smaller ones

Pixels = NDArray[np.uint8]


class Judge:
    """Measures how far a generated alpha is from the matting network's of the composite.

    Args:
        weights: Name or file of the matting network.
        threshold: Greatest mean difference of pictures that are kept.
        backdrop: What composites lie on.
        device: Where the network runs.
        side_px: Of the pictures.
    """

    def __init__(self, weights: str, threshold: float, backdrop: Backdrop, device: str, side_px: int) -> None:
        model = Model(weights, "auto", device, None, "off").open(lanes=1)
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
        from stylematte_cli.commands.synth_files import file_name
        from training.sample_filter import agreement

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


def filter_report(folder: "SampleFolder", threshold: float) -> dict[str, Any]:
    """Kept share and histogram of all pictures of a folder that the filter has measured."""
    from training.sample_filter import histogram

    met = [line for line in folder.lines.values() if "filter" in line]
    outcomes = Counter(line["outcome"] for line in met)
    return {
        "threshold": threshold,
        "kept": outcomes["ok"],
        "rejected": outcomes["rejected"],
        "kept_share": round(outcomes["ok"] / max(1, len(met)), 4),
        "histogram": [
            {"from": edge, "pictures": count}
            for edge, count in histogram([line["filter"]["difference"] for line in met], threshold)
        ],
    }
