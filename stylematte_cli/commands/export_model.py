"""`stylematte export --weights MODEL.onnx`: convert a model file to another precision."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylematte.errors import InputError, MissingError
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from export.parity import Parity
    from export.precision import Precision


def is_model(weights: str) -> bool:
    """Tell whether weights are a model file without training weights beside it, such as an imported one."""
    from stylematte.weights import MODEL, TRAINING, find

    try:
        path = find(weights)
    except MissingError:  # the search for training weights reports it
        return False
    return path.suffix == MODEL and (weights.endswith(MODEL) or not path.with_suffix(TRAINING).is_file())


def convert_model(
    weights: str,
    out: Path,
    precision: "Precision",
    photos: Path | None,
    name: str,
    overwrite: bool,
    lines: list[str],
) -> tuple[Path, dict[str, Any]]:
    """Write the file and its model card; returns facts for --json and adds output to `lines`.

    Raises:
        UsageError: The model already has this precision.
        InputError: The target already exists, or the model cannot be converted.
    """
    require("onnx", extra="networks")
    require("onnxruntime", extra="cpu")
    from export.convert import convert
    from export.foreign.reading import load_model
    from stylematte.files import sha256_of, write_bytes
    from stylematte.weights import find, keep, read_card

    source = find(weights)
    target = out / f"{name or source.stem}_{precision}.onnx"
    if target.exists() and not overwrite:
        raise InputError(f"{target} already exists", "Give --overwrite, or another --out")
    model, parity = convert(load_model(source), precision, photos, str(source))
    card = read_card(source)
    facts = {key: card[key] for key in ("licence", "summary", "provenance") if key in card}
    keep(target, facts | {"precision": precision}, lambda path: write_bytes(path, model.SerializeToString()))
    lines.append(describe(target, parity))
    return target, {"sha256": sha256_of(target), "parity": parity.as_dict()}


def describe(target: Path, parity: "Parity") -> str:
    """Return the line about a finished file."""
    return (
        f"{target}: {target.stat().st_size / 1e6:.1f} MB; alpha differs from {parity.reference} by at most "
        f"{parity.max_difference:.1e}, on average by {parity.mean_difference:.1e}, "
        f"over {parity.pictures} images"
    )
