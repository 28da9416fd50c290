"""`stylematte models`: list and show weights."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from stylematte.errors import InputError, MissingError
from stylematte_cli.commands.model_card import card_lines, megabytes
from stylematte_cli.commands.options import Json, print_json, start_log
from stylematte_cli.commands.verbs import lazy_app

COMMANDS = {
    "list": "models:list_models",
    "show": "models:show",
    "import": "models_import:import_file",
    "remove": "models_files:remove",
    "pack": "models_files:pack",
    "unpack": "models_files:unpack",
}
app = lazy_app(COMMANDS, help="List, show, import, remove or pack models.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> int:
    """List, show, import, remove or pack models."""
    return list_models() if context.invoked_subcommand is None else 0


def list_models(as_json: Json = False) -> int:
    """List the available models and training weights: name, kind, size, licence, location, summary."""
    from stylematte.files import cache_folder
    from stylematte.weights import list_weights

    known = list_weights()
    if as_json:
        print_json(
            {
                "models": [
                    {
                        "name": weights.name,
                        "file": str(weights.path),
                        "bytes": weights.bytes,
                        "licence": weights.licence,
                        "commercial_use": weights.commercial,
                        "source": weights.source,
                        "shipped": weights.shipped,
                        "kind": weights.kind,
                        "summary": weights.summary,
                    }
                    for weights in known
                ]
            }
        )
        return 0
    rows = [("NAME", "KIND", "SIZE", "LICENCE", "COMMERCIAL", "WHERE", "SUMMARY")]
    for weights in known:
        where = "shipped" if weights.shipped else str(weights.path.parent)
        rows.append(
            (
                weights.name,
                weights.kind,
                megabytes(weights.bytes),
                weights.licence or "not stated",
                weights.commercial,
                where,
                weights.summary,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    typer.echo(f"\nFiles <name>.onnx and <name>.safetensors in {cache_folder()} are listed too.")
    return 0


def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A name from the list, or a file.")],
    as_json: Json = False,
) -> int:
    """Show a model's card and contract, and check the file's SHA-256 against the card.

    For training weights, shows their card or the file's own metadata.
    """
    from stylematte.engines import open_engine
    from stylematte.files import sha256_of
    from stylematte.licences import commercial_use
    from stylematte.weights import describe, read_metadata

    start_log(quiet=True)
    weights = describe(name)
    found_sha256 = sha256_of(weights.path)
    if weights.sha256 and weights.sha256 != found_sha256:
        raise InputError(
            f"{weights.path}: SHA-256 is {found_sha256}, its card says {weights.sha256}",
            "The file is damaged or was replaced: install stylematte again, or export the weights again",
        )
    contract: dict[str, Any] = {}
    metadata = {} if weights.is_model else read_metadata(weights.path)
    missing = None
    try:
        if weights.is_model:
            contract = dataclasses.asdict(open_engine(weights.path, device="cpu").contract)
    except MissingError as error:  # show the card even if no runtime is installed
        missing = error
    own = _read(metadata.get("provenance", ""))
    licence = weights.licence or contract.get("licence", "")
    facts: dict[str, Any] = {
        "name": weights.name,
        "kind": weights.kind,
        "file": str(weights.path),
        "where": "shipped with the package" if weights.shipped else "a file of yours",
        "bytes": weights.bytes,
        "sha256": found_sha256,
        "sha256_agrees_with_card": bool(weights.sha256) or None,
        "licence": licence,
        "commercial_use": commercial_use(licence),
        "source": weights.source,
        "summary": weights.summary,
        "provenance": weights.provenance or contract.get("provenance") or own,
        "network": _network_of(metadata),
        "contract": {key: value for key, value in contract.items() if key not in ("licence", "provenance")},
    }
    if as_json:
        print_json(facts)
    else:
        typer.echo("\n".join(card_lines(facts)))
    if missing:
        raise missing
    return 0


def _network_of(metadata: dict[str, str]) -> dict[str, Any]:
    """Return what weights state about their network; {} for networks of other projects."""
    if config := metadata.get("config"):
        return {"network": metadata.get("network", ""), "config": _read(config)}
    if preset := metadata.get("preset"):
        return {"preset": preset, "changes": _read(metadata.get("network", "{}"))}
    return {}


def _read(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
