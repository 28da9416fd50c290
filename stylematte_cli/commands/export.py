"""`stylematte export`: trained weights become a model file, proven equal to the network."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylematte_cli.commands.options import Json, Out, Overwrite, Quiet, print_json
from stylematte_cli.commands.toolkit import find_trained, require, translated_errors
from stylematte_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from export.precision import Precision


def export(
    out: Out,
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="NAME|FILE", help="Trained weights: nano, or a .safetensors file."),
    ] = "nano",
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            metavar="DIR",
            help="Photos to prove the file on, and to set the ranges of int8 on; two come along.",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the weights, written into the file.")
    ] = "",
    overwrite: Overwrite = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="float16, half the size: for graphics cards.")] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="bfloat16: for cards, where fp16 overflows; no CPU runs it.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="8 bits, its ranges set on --photos: for CPUs with VNNI.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make an ONNX file from trained weights, and prove it.

    Writes DIR/<name>.onnx, which needs no other file, and its card DIR/<name>.json; with a precision
    DIR/<name>_<precision>.onnx. A file whose alphas differ from the network's is not kept.
    """
    precision = _precision(fp16, bf16, int8, photos)
    source = find_trained(weights)
    name = source.stem if precision == "fp32" else f"{source.stem}_{precision}"
    target = out / f"{name}.onnx"
    if target.exists() and not overwrite:
        raise InputError(f"{target} is already there", "Give --overwrite, or another --out")
    require("torch", "onnx", "onnxscript", extra="train")
    require("onnxruntime", extra="cpu")
    from stylematte_cli import __version__
    from stylematte_cli.media.images import write_bytes
    from stylematte_cli.weights import read_card, sha256_of

    with translated_errors():
        from export.build import build_onnx
        from export.onnx import Origin, save_onnx
        from models.checkpoints import load_weights

        network, provenance = load_weights(source)
        card = read_card(source)
        licence = licence or card.get("licence", "")
        provenance = card.get("provenance", provenance)
        if not quiet and not as_json:
            typer.echo(f"exporting {source} ({network.preset.name}, {precision}) …", err=True)
        origin = Origin(sha256_of(source), __version__, licence, provenance)
        built = build_onnx(network, origin, precision, photos)
        save_onnx(built.model, target)
    facts = {
        "name": name,
        "file": target.name,
        "sha256": sha256_of(target),
        "bytes": target.stat().st_size,
        "licence": licence,
        "summary": card.get("summary", ""),
        "provenance": provenance,
        "precision": precision,
    }
    if built.calibration_photos:
        facts["calibration_photos"] = built.calibration_photos
    write_bytes(
        target.with_suffix(".json"), (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()
    )
    parity = built.parity
    if as_json:
        print_json({"file": str(target), "sha256": facts["sha256"], "parity": parity.as_dict()})
    elif not quiet:
        typer.echo(
            f"{target}: {target.stat().st_size / 1e6:.1f} MB; alpha differs from {parity.reference} "
            f"by at most {parity.max_difference:.1e}, in the mean by {parity.mean_difference:.1e}, "
            f"over {parity.pictures} pictures"
        )


def _precision(fp16: bool, bf16: bool, int8: bool, photos: Path | None) -> "Precision":
    """Read the three flags, of which one at most may be given."""
    flags: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "int8": int8}
    asked = [precision for precision, is_asked in flags.items() if is_asked]
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} exclude each other", "Run export once for each")
    if int8 and photos is None:
        raise UsageError(
            "--int8 needs --photos DIR: the ranges of 8 bits are set on them",
            "Give a folder of photos of the kind that the file is for",
        )
    return asked[0] if asked else "fp32"
