"""`stylematte models remove`, `pack` and `unpack`: delete and move weights files."""

from pathlib import Path
from typing import Annotated

import typer

from stylematte.errors import UsageError
from stylematte_cli.commands.model_card import megabytes
from stylematte_cli.commands.options import Json, Overwrite, print_json


def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Name of your own weights.")],
    as_json: Json = False,
) -> None:
    """Remove your own weights: the file, its card, its refiner, and engines built from it."""
    from stylematte.weights import files_of

    files = [path for name in dict.fromkeys(names) for path in files_of(name)]
    sizes = {path: path.stat().st_size for path in files}
    for path in files:
        path.unlink()
    if as_json:
        print_json({"removed": [str(path) for path in files], "bytes": sum(sizes.values())})
        return
    for path, size in sizes.items():
        typer.echo(f"removed {path} ({megabytes(size)})")


def pack(
    names: Annotated[list[str], typer.Argument(metavar="NAME|FILE", help="Weights to pack.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The bundle to write.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Pack weights, with their cards and hashes, into one file for a machine without a network."""
    from stylematte.bundles import pack as pack_files

    if out.exists() and not overwrite:
        raise UsageError(f"{out} already exists", "Give --overwrite, or another --out")
    packed = pack_files(list(dict.fromkeys(names)), out)
    if as_json:
        print_json({"file": str(out), "bytes": out.stat().st_size, "packed": [str(path) for path in packed]})
        return
    typer.echo(f"{out}: {megabytes(out.stat().st_size)}, {', '.join(path.name for path in packed)}")
    typer.echo(f"next, on the other machine: stylematte models unpack {out.name}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle made by `stylematte models pack`.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Unpack weights to the folder of your own weights, and check their hashes."""
    from stylematte.bundles import unpack as unpack_files
    from stylematte.errors import InputError

    if not file.is_file():
        raise InputError(f"{file}: no such file")
    placed = unpack_files(file, overwrite)
    if as_json:
        print_json({"unpacked": [str(path) for path in placed]})
        return
    for path in placed:
        typer.echo(f"{path}: {megabytes(path.stat().st_size)}")
    if not placed:
        typer.echo("everything is already unpacked")
