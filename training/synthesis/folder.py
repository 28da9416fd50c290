"""The folder that `stylematte synth` fills: pictures, rejected ones, and a manifest of just these."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.files import remove_leftovers, write_bytes
from stylematte.media.images import encode_image, read_alpha, read_image
from stylematte.media.json_lines import JsonLines, read_lines
from stylematte.media.manifest import NAME
from training.synthesis.drawing import DIGITS, Draft, file_name

REJECTED = "rejected"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """All that pictures depend on but their number; a folder holds pictures of one.

    Attributes:
        weights_sha256: Of the generator.
        seed: See `training.synthesis.drawing.Plan`, as for the next three.
        truncation: Least and greatest.
        shift: Of the jitter.
        turn_deg: Of the jitter.
        size_px: Side of the pictures.
        form: `rgba`, or `pairs` of a picture and its alpha.
    """

    weights_sha256: str
    seed: int
    truncation: tuple[float, float]
    shift: float
    turn_deg: float
    size_px: int
    form: str


class SampleFolder:
    """What has been made so far. The last line of a picture in the manifest counts.

    Args:
        out: The folder, which need not exist.
        settings: Of this run.
        overwrite: Take away what the manifest tells of, and begin anew.

    Raises:
        InputError: It holds pictures of other settings, or such that no manifest tells of.
    """

    def __init__(self, out: Path, settings: Settings, overwrite: bool = False) -> None:
        self.out, self.settings = out, settings
        self.lines: dict[int, dict[str, Any]] = {}
        for line in read_lines(out / NAME):
            if isinstance(line.get("index"), int) and line.get("outcome") in ("ok", "rejected", "duplicate"):
                self.lines[line["index"]] = line
        if overwrite:
            self._clear()
        self._check()
        self.lines = {i: line for i, line in self.lines.items() if self._is_there(line)}
        self.manifest: JsonLines | None = None

    def _clear(self) -> None:
        if (self.out / NAME).is_file():  # else they are not ours
            for place in self._places():
                for path in place.glob("[0-9]" * DIGITS + ".png"):
                    path.unlink()
            (self.out / NAME).unlink()
        self.lines = {}

    def _check(self) -> None:
        wanted = _plain(self.settings)
        for line in self.lines.values():
            if differing := [k for k, v in wanted.items() if line.get("settings", {}).get(k) != v]:
                raise InputError(
                    f"{self.out} holds pictures of other settings: "
                    f"{', '.join(name.removesuffix('_sha256') for name in differing)}",
                    "Give another --out, or --overwrite",
                )
        if not (self.out / NAME).is_file() and any(any(p.glob("*.png")) for p in self._places()):
            raise InputError(f"{self.out} holds pictures that no manifest tells of", "Give another --out")

    def _places(self) -> list[Path]:
        return [self.out / below / sub for below in ("", REJECTED) for sub in ("", "image", "alpha")]

    def _is_there(self, line: dict[str, Any]) -> bool:
        return all(path.is_file() for path in self.paths_of(line))

    def open(self) -> None:
        """Make the folder, and be ready to write.

        Raises:
            InputError: It cannot be written to.
        """
        self.manifest = JsonLines(self.out / NAME)
        remove_leftovers(self._places())

    def close(self) -> None:
        """Close the manifest."""
        if self.manifest is not None:
            self.manifest.close()

    def paths_of(self, line: dict[str, Any]) -> list[Path]:
        """Files of a line; none of a near copy."""
        if line["outcome"] == "duplicate":
            return []
        return self._paths(line["index"], line["outcome"])

    def _paths(self, index: int, outcome: str) -> list[Path]:
        below = self.out / REJECTED if outcome == "rejected" else self.out
        name = file_name(index)
        if self.settings.form == "pairs":
            return [below / "image" / name, below / "alpha" / name]
        return [below / name]

    def write(self, index: int, outcome: str, rgba: Pixels) -> None:
        """Write a picture, whole or not at all; called from several threads.

        Raises:
            InputError: It cannot be written.
        """
        parts = [rgba] if self.settings.form == "rgba" else [rgba[..., :3], rgba[..., 3]]
        for path, pixels in zip(self._paths(index, outcome), parts, strict=True):
            write_bytes(path, encode_image(np.ascontiguousarray(pixels), "png"))

    def read(self, index: int) -> Pixels:
        """Read a picture back, (H, W, 4); raises as `read_image`."""
        paths = self.paths_of(self.lines[index])
        photo = read_image(paths[0])
        alpha = read_alpha(paths[-1])
        if self.settings.form == "rgba" and photo.alpha is None:
            alpha = np.ones_like(alpha)  # opaque all over: it has no alpha channel to be read
        return np.dstack([photo.pixels, np.round(alpha * 255).astype(np.uint8)])

    def record(self, draft: Draft, outcome: str, facts: dict[str, Any]) -> None:
        """Append a line, once its files are there.

        Raises:
            InputError: The disk is full.
        """
        line = {
            "index": draft.index,
            "outcome": outcome,
            "output": "" if outcome == "duplicate" else self._name(draft.index, outcome),
            "truncation": draft.truncation,
            "shift": list(draft.shift),
            "turn_deg": draft.turn_deg,
            **facts,
            "settings": _plain(self.settings),
        }
        self._append(line)

    def settle(self, index: int, outcome: str, facts: dict[str, Any]) -> None:
        """Move a picture where its new outcome has it, and append a line.

        Raises:
            InputError: It cannot be moved.
        """
        before = self.lines[index]
        try:
            for old, new in zip(self.paths_of(before), self._paths(index, outcome), strict=True):
                new.parent.mkdir(parents=True, exist_ok=True)
                old.replace(new)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be moved: {error.strerror}") from None
        self._append({**before, "outcome": outcome, "output": self._name(index, outcome), **facts})

    def _append(self, line: dict[str, Any]) -> None:
        assert self.manifest is not None, "open() comes first"
        try:
            self.manifest.append(line)
        except OSError as error:
            raise InputError(f"{self.out / NAME}: cannot be written: {error.strerror}") from None
        self.lines[line["index"]] = line

    def _name(self, index: int, outcome: str) -> str:
        return self._paths(index, outcome)[0].relative_to(self.out).as_posix()


def _plain(settings: Settings) -> dict[str, Any]:
    return {**asdict(settings), "truncation": list(settings.truncation)}
