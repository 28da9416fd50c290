"""manifest.jsonl: inputs, settings and results of a run, so that the same command resumes it."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from stylematte.errors import InputError
from stylematte.media import pattern
from stylematte.media.images import read_bytes
from stylematte.media.json_lines import JsonLines, read_lines
from stylematte.media.paths import Item

NAME = "manifest.jsonl"

State = Literal["new", "changed", "begun", "done", "kept"]


@dataclass(frozen=True)
class Record:
    """One line of the manifest.

    Attributes:
        input: Path of the source as given.
        output: Path of the result, relative to the manifest's folder, with `/`.
        outcome: `ok` or `failed`; `begun` for a sequence of frames that is being written.
        settings: Everything that the result depends on, except the input and the model.
        model_sha256: Hash of the model file.
        engine: Inference engine and device.
        licence: Licence of the model's weights.
        sha256: Hash of the input's bytes; empty if it could not be read.
        bytes: Size of the input.
        mtime_ns: Time when the input was last changed.
        size: (height, width) of the image.
        frames: Number of frames of a clip.
        output_bytes: Size of the result; 0 for a sequence of files, and in lines of older versions.
        output_mtime_ns: Time when the result was written.
        output_sha256: Hash of the result of a photo.
        seconds: Time taken by each stage.
        notes: Messages to the user, such as what could not be kept.
        error: Error message.
    """

    input: str
    output: str
    outcome: str
    settings: dict[str, Any]
    model_sha256: str
    engine: str
    licence: str = ""
    sha256: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    size: tuple[int, int] | None = None
    frames: int | None = None
    output_bytes: int = 0
    output_mtime_ns: int = 0
    output_sha256: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""


class Manifest:
    """The manifest of one output folder. For each output, the last `ok` or `begun` line counts.

    Args:
        out: The output folder, which need not exist yet.
        settings: Settings of this run.
        model: Model of this run, as returned by `engines.base.made_by`. Lines of older versions without these
            fields count as another model.
        licence: Licence of the model's weights.

    Raises:
        InputError: The manifest exists but cannot be read.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Any], model: Mapping[str, str], licence: str = ""
    ) -> None:
        self.path = out / NAME
        self.settings = dict(settings)
        self.licence = licence
        self.model: dict[str, Any] = dict(model)
        self._done = _read(self.path)
        self._lines: JsonLines | None = None

    def open(self) -> None:
        """Create the folder and open the manifest for appending.

        Raises:
            InputError: The folder cannot be created or written to.
        """
        self._lines = JsonLines(self.path)

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()

    def state_of(self, item: Item) -> State:
        """Return the state of an item's result.

        Returns:
            `new`: there is no result yet. `changed`: the result is from another input, model or settings, or
            is an empty file. `begun`: some of its frames exist and are up to date. `done`: the result exists
            and is up to date. `kept`: a file exists that is not in this manifest, or that was modified.
        """
        if not os.path.exists(item.output):  # False if the name is too long: writing reports it
            return "new"
        line = self._done.get(self._name(item))
        if line is None:
            return "kept"
        is_same_model = all(line.get(key) == value for key, value in self.model.items())
        if line.get("settings") != self.settings or not is_same_model:
            return "changed"
        if not _is_same_input(item.source, line):
            return "changed"
        if _is_empty(item.output) and line.get("output_bytes") != 0:
            return "changed"
        if not _is_same_output(item.output, line):
            return "kept"
        return "begun" if line["outcome"] == "begun" else "done"

    def record(self, item: Item, outcome: str, facts: Mapping[str, Any]) -> None:
        """Append one line without buffering; thread-safe.

        Args:
            item: The processed item.
            outcome: `ok`, `begun` or `failed`.
            facts: Further fields of `Record`.
        """
        known: dict[str, Any] = {**self.model, "licence": self.licence, **facts}
        line = Record(str(item.source), self._name(item), outcome, self.settings, **known)
        if self._lines is not None:
            self._lines.append(asdict(line))

    def _name(self, item: Item) -> str:
        return item.output.relative_to(self.path.parent).as_posix()


def read_and_identify(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read an input, and return its bytes and identity for later runs: hash, size and time of change.

    Raises:
        InputError: As for `read_bytes`.
    """
    try:
        mtime_ns = path.stat().st_mtime_ns  # before reading, so that a change in between is detected
    except OSError:
        mtime_ns = 0
    data = read_bytes(path)
    return data, {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "mtime_ns": mtime_ns}


def identify(path: Path) -> dict[str, Any]:
    """Return the identity of a clip or a sequence as `read_and_identify` does, without loading it to memory.

    Raises:
        InputError: The file cannot be read.
    """
    if pattern.is_pattern(path):
        return pattern.fingerprint(path)
    try:
        status = path.stat()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return {"sha256": digest, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def describe_output(path: Path, data: bytes | None = None) -> dict[str, Any]:
    """Return the identity of a result just written, so that a later run can detect changes.

    Args:
        path: Path of the result.
        data: The written bytes, if available.
    """
    try:
        status = path.stat()
    except OSError:
        return {}
    if not path.is_file():
        return {}
    facts: dict[str, Any] = {"output_bytes": status.st_size, "output_mtime_ns": status.st_mtime_ns}
    return facts if data is None else facts | {"output_sha256": hashlib.sha256(data).hexdigest()}


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _is_same_output(path: Path, line: Mapping[str, Any]) -> bool:
    if not line.get("output_bytes"):
        return True
    status = path.stat()
    if status.st_size != line["output_bytes"]:
        return False
    if status.st_mtime_ns == line.get("output_mtime_ns") or not line.get("output_sha256"):
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(line["output_sha256"])


def _is_same_input(source: Path, line: Mapping[str, Any]) -> bool:
    try:
        if pattern.is_pattern(source):
            return bool(pattern.fingerprint(source)["sha256"] == line.get("sha256"))
        status = source.stat()
        if status.st_size != line.get("bytes"):
            return False
        if status.st_mtime_ns == line.get("mtime_ns"):
            return True
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == line.get("sha256")
    except (OSError, InputError):  # processing it again reports the error
        return False


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Read the last `ok` or `begun` line of each output; other lines are skipped."""
    done: dict[str, dict[str, Any]] = {}
    for line in read_lines(path):
        if line.get("outcome") in ("ok", "begun") and isinstance(line.get("output"), str):
            done[line["output"]] = line
    return done
