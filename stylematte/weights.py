"""Weights by name: their files and model cards."""

import glob
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stylematte.errors import InputError, MissingError, UsageError
from stylematte.files import cache_folder, sha256_of
from stylematte.licences import Commercial, check_policy, commercial_use

DEFAULT = "nano"
DEFAULT_GENERATOR = "faces"
WHERE_GENERATORS_COME_FROM = (
    f"Import released ones: `stylematte models import humans.pkl --name {DEFAULT_GENERATOR}`; or train some: "
    "`stylematte train gan`, and give their file as --weights FILE"
)
ASSETS = Path(__file__).parent / "assets"
TRAINING = ".safetensors"  # suffix of training weights
MODEL = ".onnx"
GENERATOR = "stylegan3"  # value of the metadata key "network" in a generator's training weights
REFINER = "_refiner"  # ends the name of a refiner, which belongs to a model and is not listed itself


@dataclass(frozen=True)
class Weights:
    """An installed model, or training weights to export one from; with its model card.

    Attributes:
        name: Name for `--weights`.
        path: The ONNX file, or a safetensors file of training weights.
        shipped: Whether it is part of the package; otherwise it is in the cache folder.
        bytes: Size of the file.
        sha256: Hex digest of this file as stated in the card; empty without one. `sha256_of` computes the
            actual one.
        licence: Licence of the weights; empty if neither file nor card states one.
        summary: One-sentence description; empty without a card.
        provenance: Data sets, stages and steps of the training.
    """

    name: str
    path: Path
    shipped: bool
    bytes: int
    sha256: str = ""
    licence: str = ""
    summary: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def commercial(self) -> Commercial:
        """Whether the licence allows commercial use."""
        return commercial_use(self.licence)

    @property
    def source(self) -> str:
        """Where the weights come from; empty if unknown."""
        told = self.provenance.get("source") or self.provenance.get("imported_from")
        return str(told) if told else "shipped with stylematte" if self.shipped else ""

    @property
    def is_model(self) -> bool:
        """Whether an engine can open it; other weights are for `stylematte export` and `stylematte train`."""
        return self.path.suffix != TRAINING

    @property
    def kind(self) -> Literal["model", "training", "generator", "damaged"]:
        """The kind of file: a model, training weights of a matting network or of a generator, or damaged."""
        if self.is_model:
            return "model"
        try:
            return "generator" if read_metadata(self.path).get("network") == GENERATOR else "training"
        except InputError:
            return "damaged"


def resolve(name_or_path: str | Path = DEFAULT) -> Path:
    """Find the model file for a name.

    Args:
        name_or_path: The path of an ONNX file, or the name of a shipped model or of `<name>.onnx` in the
            cache folder. Shipped names take precedence over cached ones, and names over files.

    Raises:
        MissingError: Neither a file nor a known name; the message lists the known names.
        InputError: Training weights, which no engine can open; the hint tells how to export a model.
    """
    path = find(name_or_path)
    if path.suffix not in (TRAINING, ".pth", ".pt"):
        return path
    is_name = path == _known_files().get(str(name_or_path))
    what = f"weights {str(name_or_path)!r} are here" if is_name else f"{path}: weights"
    if path.suffix == TRAINING:
        given = ["--weights", str(name_or_path if is_name else path), "--out", str(cache_folder())]
        raise InputError(
            f"{what} for training, not a model file", f"Run {shlex.join(['stylematte', 'export', *given])}"
        )
    raise InputError(
        f"{what} for training, not a model file",
        f"Run {shlex.join(['stylematte', 'models', 'import', str(path)])} if it has StyleMatte's weights",
    )


def find(name_or_path: str | Path) -> Path:
    """Find the file for a name, as `resolve` does, but accept training weights too.

    Raises:
        MissingError: Neither a file nor a known name; the message lists the known names.
    """
    text = str(name_or_path)
    known = _known_files()
    if isinstance(name_or_path, str) and text in known:
        return known[text]
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".onnx", TRAINING) or len(path.parts) > 1:
        raise MissingError(f"{path}: no such weights file", _names_hint(known))
    raise MissingError(f"weights {text!r} are not known", _names_hint(known))


def find_trained(name_or_path: str, option: str = "--weights") -> Path:
    """Find training weights by path, or by name among the shipped ones and those in the cache folder.

    Both error messages name the option.

    Raises:
        InputError: The file is of another kind.
        MissingError: There is no such file.
    """
    from stylematte.files import cache_folder
    from stylematte.weights import ASSETS

    for path in (Path(name_or_path), *(f / f"{name_or_path}{TRAINING}" for f in (ASSETS, cache_folder()))):
        if path.is_file():
            if path.suffix != TRAINING:
                raise InputError(
                    f"{option}: {path}: not a .safetensors file", "Give weights made by `stylematte train`"
                )
            return path
    raise MissingError(
        f"{option}: weights {name_or_path!r} do not exist",
        "Give a .safetensors file made by `stylematte train`",
    )


def list_weights() -> list[Weights]:
    """List the installed weights: shipped ones, then models and training weights in the cache folder."""
    return [_describe(path) for path in _known_files().values()]


def describe(name_or_path: str | Path) -> Weights:
    """Find weights of either kind and read their card; raises the errors of `find` and `read_card`."""
    return _describe(find(name_or_path))


def files_of(name: str) -> list[Path]:
    """Return all files of a name in the user's weights folder: weights, model, card, refiner, engines.

    Raises:
        UsageError: A shipped model has this name.
        MissingError: There are no such weights.
    """
    check_name(name)
    folder = cache_folder()
    own = [
        folder / f"{name}{part}{suffix}" for part in ("", REFINER) for suffix in (MODEL, TRAINING, ".json")
    ]
    found = [path for path in own if path.is_file()]
    if not any(path.suffix != ".json" for path in found):
        if any((ASSETS / f"{name}{suffix}").exists() for suffix in (MODEL, TRAINING)):
            raise UsageError(
                f"{name} ships with stylematte", "It is removed with the package: pip uninstall stylematte"
            )
        own_names = (
            ", ".join(path.stem for path in _known_files().values() if path.parent == folder) or "none"
        )
        raise MissingError(f"weights {name!r} are not in {folder}", f"It contains {own_names}")
    return found + sorted(folder.glob(f"{glob.escape(name)}.*.engine*"))


def stated_licence(name_or_path: str | Path) -> str:
    """Return the licence stated in the card of weights or in their file; empty if neither states one.

    Raises:
        MissingError: Neither a file nor a known name.
        InputError: The file or its card is damaged.
    """
    path = find(name_or_path)
    if licence := read_card(path).get("licence"):
        return str(licence)
    if path.suffix == TRAINING:
        return read_metadata(path).get("licence", "")
    from stylematte.engines import open_engine  # a runtime is an extra

    return open_engine(path, device="cpu").contract.licence


def check_allowed(policy: str, *names: str | Path) -> None:
    """Reject weights that a policy does not allow; empty names are skipped.

    Raises:
        UsageError: The policy does not exist.
        InputError: The policy does not allow the weights.
        MissingError: The weights do not exist.
    """
    check_policy(policy, "", "Apache-2.0")  # the policy itself, even if there are no weights
    if policy != "any":
        for name in names:
            if name:
                check_policy(policy, str(name), stated_licence(name))


def read_card(path: Path) -> dict[str, Any]:
    """Read the model card `<name>.json` beside a file of weights; empty if there is none.

    Raises:
        InputError: The card is not a JSON object.
    """
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return {}
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{card_path}: the model card is damaged: {error}", "Repair it, or move it away"
        ) from None
    if not isinstance(card, dict):
        raise InputError(
            f"{card_path}: the model card is damaged: not a JSON object", "Repair it, or move it away"
        )
    return card


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a .safetensors file, without its tensors.

    Raises:
        InputError: The file is damaged, or of another kind.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # the library has no exception of its own for a damaged file
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None


def check_name(name: str) -> None:
    """Check that a name can be a file name.

    Raises:
        UsageError: It cannot.
    """
    if name != Path(name).name or name.startswith("."):
        raise UsageError(f"--name {name!r} is not a file name", "Give a name without folders")


def new_path(name: str, overwrite: bool = False, suffix: str = TRAINING) -> Path:
    """Return the path for new weights in the cache folder.

    Raises:
        UsageError: The name is not a file name, or a shipped model has it.
        InputError: The file exists, or weights of the other kind exist, whose card would be overwritten.
    """
    check_name(name)
    if any((ASSETS / f"{name}{kind}").exists() for kind in (MODEL, TRAINING)):
        raise UsageError(f"--name {name}: an included model has this name", "Give another name")
    path = cache_folder() / f"{name}{suffix}"
    if path.exists() and not overwrite:
        raise InputError(f"{path} is already there", "Give --overwrite, or another --name")
    other = path.with_name(f"{name}{MODEL if suffix == TRAINING else TRAINING}")
    if other.exists():
        raise InputError(
            f"{other} is already there, and two files cannot share a model card", "Give another --name"
        )
    return path


def keep(path: Path, card: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Store weights and their card, both or neither.

    Args:
        path: Path of the weights; the card is stored beside them.
        card: Licence, summary and provenance; name, size and SHA-256 are added.
        write: Writes the weights to the given path.
    """
    import tempfile  # slow to import, and --help does not need it

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=path.parent) as staging:
        made = Path(staging) / path.name
        write(made)
        facts = {
            "name": path.stem,
            "file": path.name,
            "sha256": sha256_of(made),
            "bytes": made.stat().st_size,
            **card,
        }
        made.with_suffix(".json").write_text(
            json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        # Both renames stay within one file system, so nothing is likely to fail between them.
        made.with_suffix(".json").replace(path.with_suffix(".json"))
        made.replace(path)


def _known_files() -> dict[str, Path]:
    """Map names to files; a shipped file hides a cached one of its name, and a model its training weights."""
    found: dict[str, Path] = {}
    shipped = ((ASSETS, ".onnx"), (ASSETS, TRAINING))
    for folder, suffix in (*shipped, (cache_folder(), ".onnx"), (cache_folder(), TRAINING)):
        try:
            paths = sorted(folder.glob(f"*{suffix}"))
        except OSError:  # for example another user's home folder
            continue
        for path in paths:
            if not path.stem.endswith(REFINER):
                found.setdefault(path.stem, path)
    return found


def _describe(path: Path) -> Weights:
    card = read_card(path)
    is_its_own = card.get("file", path.name) == path.name  # weights and the model from them share one card
    return Weights(
        name=path.stem,
        path=path,
        shipped=path.parent == ASSETS,
        bytes=path.stat().st_size,
        sha256=card.get("sha256", "") if is_its_own else "",
        licence=card.get("licence", ""),
        summary=card.get("summary", ""),
        provenance=card.get("provenance", {}),
    )


def _names_hint(known: dict[str, Path]) -> str:
    names = ", ".join(known) or "none"
    return f"Known names: {names}; or give the path of an ONNX file made by `stylematte export`"
