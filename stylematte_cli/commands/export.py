"""`stylematte export`: trained weights become a model file, proven equal to the network."""

import json
from pathlib import Path
from typing import Annotated

import typer

from stylematte_cli.commands.options import Json, Out, Overwrite, Quiet, print_json
from stylematte_cli.commands.toolkit import find_trained, require, translated_errors
from stylematte_cli.errors import InputError


def export(
    out: Out,
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="NAME|FILE", help="Trained weights: nano, or a .safetensors file."),
    ] = "nano",
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos", metavar="DIR", help="Photos to prove the file on; two that come along if not given."
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the weights, written into the file.")
    ] = "",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make an ONNX file from trained weights, and prove it.

    Writes DIR/<name>.onnx, which needs no other file, and its card DIR/<name>.json. A file whose alphas
    differ from the network's is not kept.
    """
    source = find_trained(weights)
    target = out / f"{source.stem}.onnx"
    if target.exists() and not overwrite:
        raise InputError(f"{target} is already there", "Give --overwrite, or another --out")
    require("torch", "onnx", "onnxscript", extra="train")
    require("onnxruntime", extra="cpu")
    from stylematte_cli import __version__
    from stylematte_cli.media.images import write_bytes
    from stylematte_cli.weights import read_card, sha256_of

    with translated_errors():
        from export.onnx import Origin, export_onnx, save_onnx
        from export.parity import PHOTOS, check_parity, read_photos
        from models.checkpoints import load_weights

        pictures = read_photos(photos or PHOTOS)
        model, provenance = load_weights(source)
        card = read_card(source)
        licence = licence or card.get("licence", "")
        provenance = card.get("provenance", provenance)
        if not quiet and not as_json:
            typer.echo(f"exporting {source} ({model.preset.name}) …", err=True)
        exported = export_onnx(model, Origin(sha256_of(source), __version__, licence, provenance))
        parity = check_parity(model, exported, pictures)
        _set_parity(exported, parity.as_dict())
        save_onnx(exported, target)
    facts = {
        "name": source.stem,
        "file": target.name,
        "sha256": sha256_of(target),
        "bytes": target.stat().st_size,
        "licence": licence,
        "summary": card.get("summary", ""),
        "provenance": provenance,
    }
    write_bytes(
        target.with_suffix(".json"), (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()
    )
    if as_json:
        print_json({"file": str(target), "sha256": facts["sha256"], "parity": parity.as_dict()})
    elif not quiet:
        typer.echo(
            f"{target}: {facts['bytes'] / 1e6:.1f} MB; alpha differs from torch by at most "
            f"{parity.max_difference:.1e} over {parity.pictures} pictures"
        )


def _set_parity(exported: object, parity: dict[str, object]) -> None:
    for entry in exported.metadata_props:  # type: ignore[attr-defined]
        if entry.key == "stylematte.parity":
            entry.value = json.dumps(parity)
