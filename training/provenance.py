"""How a run was started, recorded in its config.json; this does not affect whether a run can resume."""

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from stylematte.files import write_text

PACKAGES = ("stylematte", "torch", "accelerate", "numpy", "opencv-python-headless")


def write_config(path: Path, settings: dict[str, Any]) -> None:
    """Write a run's settings, and append this start to the previous ones.

    Args:
        path: Path of config.json.
        settings: Plain values.
    """
    starts: list[Any] = []
    try:
        starts = list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError):  # the first start, or a file of an earlier version
        pass
    content = settings | {"starts": [*starts, this_start()]}
    write_text(path, json.dumps(content, indent=2) + "\n")


def this_start() -> dict[str, Any]:
    """Return the command line, the versions, and the commit (None outside of a git work tree)."""
    return {"command": shlex.join(sys.argv), "versions": _versions(), "commit": _commit()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, or another build of OpenCV
            continue
    return found


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed; a work tree further up is another project's
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None
