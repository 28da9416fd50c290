"""Scores of clips for `stylematte evaluate`: of every frame, and of temporal stability."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylematte.errors import InputError, UsageError
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from stylematte.media.photo import Photo


@dataclass(frozen=True)
class ClipResult:
    """Scores of a whole clip."""

    name: str
    frames: int
    scores: dict[str, float]


def is_clip(path: Path) -> bool:
    """Tell whether a path is a clip or a pattern of numbered images."""
    from stylematte.media.paths import CLIP_SUFFIXES
    from stylematte.media.pattern import is_pattern

    return path.suffix.lower() in CLIP_SUFFIXES or is_pattern(path)


def read_pairs(prediction: Path, truth: Path) -> Iterator[tuple[int, Any, Any]]:
    """Yield the number, the predicted alpha and the true alpha of every frame of two clips.

    Raises:
        UsageError: One of them is not a clip.
        InputError: A clip cannot be read, or one has more frames than the other.
    """
    if not (is_clip(prediction) and is_clip(truth)):
        raise UsageError(
            f"{prediction} and {truth}: one is a clip and the other is not",
            "Give two clips, two patterns like shot.####.png, or two folders with --sequence",
        )
    require("av", extra="video")
    from fractions import Fraction  # slow to import, and no help needs it

    from stylematte.media.frame_sequence import PictureSequence
    from stylematte.media.pattern import is_pattern
    from stylematte.media.video import Clip

    with ExitStack() as stack:
        ours, theirs = (
            PictureSequence(path, Fraction(24)) if is_pattern(path) else stack.enter_context(Clip(path))
            for path in (prediction, truth)
        )
        for done, pair in enumerate(zip_longest(ours.frames(), theirs.frames())):
            if pair[0] is None or pair[1] is None:
                shorter = prediction if pair[0] is None else truth
                raise InputError(f"{shorter}: only {done} frames, but the other clip has more")
            yield pair[1].number, alpha_of(pair[0].photo), alpha_of(pair[1].photo)


def alpha_of(photo: "Photo") -> Any:
    """Return a frame's alpha channel, or else its first channel, (H, W) float32."""
    from stylematte.imaging.geometry import to_float

    return to_float(photo.pixels[:, :, 0] if photo.alpha is None else photo.alpha)


def score_folders(pairs: Sequence[tuple[str, Path, Path]]) -> list[ClipResult]:
    """Score the temporal stability of each folder's frames, ordered by the numbers in their names.

    Args:
        pairs: Path below the two folders without suffix, prediction, truth; all files are readable.
    """
    from stylematte.media.images import read_alpha
    from training.metrics import ClipScores

    folders: dict[str, list[tuple[str, Path, Path]]] = defaultdict(list)
    for pair in pairs:
        folders[pair[0].rpartition("/")[0]].append(pair)
    results = []
    for name, frames in sorted(folders.items()):
        stability = ClipScores()
        for _, prediction, truth in sorted(frames, key=lambda frame: _by_numbers(frame[0])):
            try:
                stability.add(read_alpha(prediction), read_alpha(truth))
            except ValueError as error:
                raise InputError(
                    f"{prediction}: its size differs from the previous frame's: {error}"
                ) from None
        results.append(ClipResult(name or ".", stability.frames, stability.scores()))
    return results


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sort `a2` before `a10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
