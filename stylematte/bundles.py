"""Bundles of weights for offline machines: one zip, with the hash of each file in it."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylematte.errors import InputError, UsageError
from stylematte.files import cache_folder, sha256_of, writing
from stylematte.weights import ASSETS, MODEL, REFINER, TRAINING, find

CONTENTS = "stylematte-bundle.json"
VERSION = 1
_SUFFIXES = (MODEL, TRAINING, ".json")
_PIECE_BYTES = 1 << 20


def pack(names: Sequence[str], target: Path) -> list[Path]:
    """Write a bundle of weights, with their cards and refiners.

    TensorRT engines are left out, because they run only on the machine they were built for.

    Args:
        names: Names or files of weights, as for `--weights`.
        target: The zip; written atomically.

    Returns:
        The packed files.

    Raises:
        MissingError: A name is not known.
        UsageError: Two different files have the same name.
    """
    files: dict[str, Path] = {}
    for name in names:
        for path in _with_companions(find(name)):
            if files.setdefault(path.name, path) != path:
                raise UsageError(
                    f"{files[path.name]} and {path}: two files with the same name", "Pack only one of them"
                )
    contents: dict[str, Any] = {"version": VERSION, "files": {}}
    with writing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as bundle:
        for name, path in files.items():
            bundle.write(path, name)
            contents["files"][name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        bundle.writestr(CONTENTS, json.dumps(contents, indent=2) + "\n")
    return list(files.values())


def unpack(source: Path, overwrite: bool = False) -> list[Path]:
    """Copy a bundle's files to the user's weights folder, all of them or none.

    A file that is identical to one of the package, or to an existing one, is skipped.

    Args:
        source: A bundle made by `pack`.
        overwrite: Replace existing files that differ.

    Returns:
        The files that were copied.

    Raises:
        InputError: Not a bundle, a damaged one, or one with files that differ from existing ones.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(source) as bundle,
            tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder) as temporary,
        ):
            staged = _staged(source, bundle, Path(temporary))
            new = [path for path in staged if not _is_here(path, folder, overwrite)]
            placed = [folder / path.name for path in new]
            for path, place in zip(new, placed, strict=True):
                path.replace(place)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(
            f"{source}: damaged, or not a bundle from `stylematte models pack`: {error}"
        ) from None
    return placed


def _with_companions(path: Path) -> list[Path]:
    """Return a file of weights, its model card, and its refiner with the refiner's card."""
    beside = [path.with_suffix(".json")]
    beside += [path.with_name(f"{path.stem}{REFINER}{suffix}") for suffix in (path.suffix, ".json")]
    return [path, *(other for other in beside if other.is_file())]


def _staged(source: Path, bundle: zipfile.ZipFile, folder: Path) -> list[Path]:
    """Unpack the files to a staging folder and check each against its hash."""
    contents = json.loads(bundle.read(CONTENTS))
    if not isinstance(contents, dict) or contents.get("version") != VERSION:
        raise InputError(f"{source}: a bundle from another version of stylematte", "Update stylematte")
    staged = []
    for name, facts in contents["files"].items():
        if name != Path(name).name or name.startswith(".") or Path(name).suffix not in _SUFFIXES:
            raise InputError(
                f"{source}: {name!r} is not a name of weights", "Use a bundle from `stylematte models pack`"
            )
        path = folder / name
        digest = hashlib.sha256()
        with bundle.open(name) as packed, path.open("wb") as file:
            while piece := packed.read(_PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != facts["sha256"]:
            raise InputError(f"{source}: {name} differs from the packed file (SHA-256)", "Copy it again")
        staged.append(path)
    return staged


def _is_here(path: Path, folder: Path, overwrite: bool) -> bool:
    """Return whether the same file exists already; raise if a different one has its name."""
    shipped, own = ASSETS / path.name, folder / path.name
    if shipped.is_file():
        if sha256_of(shipped) != sha256_of(path):
            raise InputError(
                f"{path.name}: another version of an included model", "Install that version of stylematte"
            )
        return True
    if not own.is_file():
        return False
    if sha256_of(own) == sha256_of(path):
        return True
    if not overwrite:
        raise InputError(f"{own} is already there and differs", "Give --overwrite, or move it away")
    return False
