"""Names of weights: which file each stands for, and what its model card says."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylematte_cli.errors import InputError, MissingError

DEFAULT = "nano"
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Weights:
    """A model file that is here, and its card.

    Attributes:
        name: What `--weights` takes.
        path: The ONNX file.
        shipped: Part of the package; otherwise found in the cache folder.
        bytes: Size of the file.
        sha256: Hex digest that the card states; empty without a card. `sha256_of` computes the real one.
        licence: Of the weights; empty without a card.
        summary: One sentence; empty without a card.
        provenance: Data sets, stages, steps.
    """

    name: str
    path: Path
    shipped: bool
    bytes: int
    sha256: str = ""
    licence: str = ""
    summary: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)


def cache_folder() -> Path:
    """Where weights of one's own lie: $STYLEMATTE_HOME, else stylematte/ in the user's cache folder."""
    home = os.environ.get("STYLEMATTE_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stylematte"


def resolve(name_or_path: str | Path = DEFAULT) -> Path:
    """Find the model file behind a name.

    Args:
        name_or_path: The path of an ONNX file; or a name: of a shipped model, or of `<name>.onnx` in the
            cache folder. A shipped name goes before a cached one, a name before a file called the same.

    Raises:
        MissingError: Neither a file nor a known name; the message lists the names there are.
        InputError: A file of a kind that no engine opens.
    """
    text = str(name_or_path)
    known = _known_files()
    if isinstance(name_or_path, str) and text in known:
        return known[text]
    path = Path(text).expanduser()
    if path.suffix in (".safetensors", ".pth", ".pt") and path.exists():
        raise InputError(
            f"{path}: weights for training, not a model file", f"Run stylematte export --weights {path}"
        )
    if path.is_file():
        return path
    if path.suffix == ".onnx" or len(path.parts) > 1:
        raise MissingError(f"{path}: no such weights file", _names_hint(known))
    raise MissingError(f"weights {text!r} are not known", _names_hint(known))


def list_weights() -> list[Weights]:
    """List the models that are here: shipped ones first, then those in the cache folder, by name."""
    return [_describe(path) for path in _known_files().values()]


def describe(name_or_path: str | Path) -> Weights:
    """Find a model as `resolve` does, and read its card; raises as `resolve` does."""
    return _describe(resolve(name_or_path))


def read_card(path: Path) -> dict[str, Any]:
    """Read `<name>.json` beside a file of weights; empty where there is none.

    Raises:
        InputError: It cannot be read as a JSON object.
    """
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return {}
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{card_path}: the model card is damaged: {error}", "Mend it, or move it away"
        ) from None
    if not isinstance(card, dict):
        raise InputError(
            f"{card_path}: the model card is damaged: no JSON object", "Mend it, or move it away"
        )
    return card


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known_files() -> dict[str, Path]:
    """Map names to files; a shipped model hides a cached one of the same name."""
    found: dict[str, Path] = {}
    for folder in (ASSETS, cache_folder()):
        for path in sorted(folder.glob("*.onnx")):
            found.setdefault(path.stem, path)
    return found


def _describe(path: Path) -> Weights:
    card = read_card(path)
    return Weights(
        name=path.stem,
        path=path,
        shipped=path.parent == ASSETS,
        bytes=path.stat().st_size,
        sha256=card.get("sha256", ""),
        licence=card.get("licence", ""),
        summary=card.get("summary", ""),
        provenance=card.get("provenance", {}),
    )


def _names_hint(known: dict[str, Path]) -> str:
    names = ", ".join(known) or "none"
    return f"Known names: {names}; or give the path of an ONNX file made by `stylematte export`"
