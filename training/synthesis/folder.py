"""The folder that `stylematte synth` fills: images, rejected images, and their manifest."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylematte.errors import InputError
from stylematte.files import remove_leftovers, write_bytes
from stylematte.imaging.compose import composite
from stylematte.media.backdrop import Backdrop
from stylematte.media.images import encode_image, read_alpha, read_image
from stylematte.media.json_lines import JsonLines, read_lines
from stylematte.media.manifest import NAME
from training.synthesis.drawing import DIGITS, Draft, file_name

REJECTED = "rejected"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """Everything that images depend on except their number; a folder has images of one `Settings`.

    Attributes:
        weights_sha256: Hash of the generator.
        seed: See `training.synthesis.drawing.SamplingPlan`, as for the next three.
        truncation: Minimum and maximum.
        shift: Shift of the jitter.
        turn_deg: Rotation of the jitter.
        size_px: Side of the images.
        form: `rgba`, `pairs` of an image and its alpha, or `composites` over backgrounds and their alpha.
        backgrounds_sha256: Hash of the backgrounds of composites; "" for other forms.
        precision: `fp32` or `bf16`.
    """

    weights_sha256: str
    seed: int
    truncation: tuple[float, float]
    shift: float
    turn_deg: float
    size_px: int
    form: str
    backgrounds_sha256: str = ""
    precision: str = "fp32"


class SampleFolder:
    """The images made so far. The last line of an image in the manifest counts.

    Args:
        out: The folder, which may not exist yet.
        settings: Settings of this run.
        overwrite: Delete the images in the manifest, and start over.
        backdrop: Backgrounds of composites.

    Raises:
        InputError: The folder has images with other settings, or images without a manifest.
    """

    def __init__(
        self, out: Path, settings: Settings, overwrite: bool = False, backdrop: Backdrop | None = None
    ) -> None:
        if (settings.form == "composites") != (backdrop is not None):
            raise ValueError("composites need backgrounds, and other forms have none")
        self.out, self.settings, self.backdrop = out, settings, backdrop
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
        if (self.out / NAME).is_file():  # otherwise the images are not ours
            for place in self._places():
                for path in place.glob("[0-9]" * DIGITS + ".png"):
                    path.unlink()
            (self.out / NAME).unlink()
        self.lines = {}

    def _check(self) -> None:
        expected = _plain(self.settings)
        for line in self.lines.values():
            found = line.get("settings", {})
            if differing := [k for k in expected | found if found.get(k) != expected.get(k)]:
                raise InputError(
                    f"{self.out} contains images with different settings: "
                    f"{', '.join(name.removesuffix('_sha256') for name in differing)}",
                    "Give another --out, or --overwrite",
                )
        if not (self.out / NAME).is_file() and any(any(p.glob("*.png")) for p in self._places()):
            raise InputError(f"{self.out} contains images without a manifest", "Give another --out")

    def _places(self) -> list[Path]:
        return [self.out / below / sub for below in ("", REJECTED) for sub in ("", "image", "alpha")]

    def _is_there(self, line: dict[str, Any]) -> bool:
        return all(path.is_file() for path in self.paths_of(line))

    def open(self) -> None:
        """Create the folder and open the manifest.

        Raises:
            InputError: The folder cannot be written to.
        """
        self.manifest = JsonLines(self.out / NAME)
        remove_leftovers(self._places())

    def close(self) -> None:
        """Close the manifest."""
        if self.manifest is not None:
            self.manifest.close()

    def paths_of(self, line: dict[str, Any]) -> list[Path]:
        """Return the files of a line; none for a near duplicate."""
        if line["outcome"] == "duplicate":
            return []
        return self._paths(line["index"], line["outcome"])

    def _paths(self, index: int, outcome: str) -> list[Path]:
        below = self.out / REJECTED if outcome == "rejected" else self.out
        name = file_name(index)
        if self.settings.form == "rgba":
            return [below / name]
        return [below / "image" / name, below / "alpha" / name]

    def write(self, index: int, outcome: str, rgba: Pixels) -> None:
        """Write an image atomically; called from several threads.

        Raises:
            InputError: The image cannot be written.
        """
        parts = [rgba] if self.settings.form == "rgba" else [rgba[..., :3], rgba[..., 3]]
        if self.backdrop is not None:
            parts[0] = composite_over(self.backdrop, index, rgba)
        for path, pixels in zip(self._paths(index, outcome), parts, strict=True):
            write_bytes(path, encode_image(np.ascontiguousarray(pixels), "png"))

    def read(self, index: int) -> Pixels:
        """Read an image and its alpha, (H, W, 4); see `read_image` for errors."""
        paths = self.paths_of(self.lines[index])
        photo = read_image(paths[0])
        alpha = read_alpha(paths[-1])
        if self.settings.form == "rgba" and photo.alpha is None:
            alpha = np.ones_like(alpha)  # fully opaque images are stored without an alpha channel
        return np.dstack([photo.pixels, np.round(alpha * 255).astype(np.uint8)])

    def record(self, draft: Draft, outcome: str, facts: dict[str, Any]) -> None:
        """Append a line, after its files are written.

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
        """Move an image to the folder of its new outcome, and append a line.

        Raises:
            InputError: The image cannot be moved.
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


def composite_over(backdrop: Backdrop, index: int, rgba: Pixels) -> Pixels:
    """Return the composite (H, W, 3) of image `index`, given as (H, W, 4), over its background."""
    colours, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    return np.asarray(composite(colours, alpha, backdrop.behind(file_name(index))), np.uint8)


def _plain(settings: Settings) -> dict[str, Any]:
    plain = {**asdict(settings), "truncation": list(settings.truncation)}
    if not settings.backgrounds_sha256:
        del plain["backgrounds_sha256"]
    if settings.precision == "fp32":  # the manifests of earlier versions do not name it
        del plain["precision"]
    return plain
