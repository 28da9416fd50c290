"""Preparations for importing a toolkit: its folder on the path, and its packages."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from stylematte.errors import EngineError, MissingError

TOOLKITS = ("models", "export", "training")
BUNDLED = (
    Path(__file__).parents[1] / "_toolkit"
)  # location in an installed wheel; a checkout does not have it
ROOT = BUNDLED if BUNDLED.is_dir() else Path(__file__).parents[2]


def enable() -> None:
    """Make the toolkits of an installed wheel importable, before other packages of the same names."""
    if ROOT == BUNDLED and str(BUNDLED) not in sys.path:
        sys.path.insert(0, str(BUNDLED))


def require(*packages: str, extra: str) -> None:
    """Check that packages are installed, and that the toolkits are this project's, before they are imported.

    Raises:
        MissingError: A package is missing; the hint is the command to install it.
        EngineError: This process has imported another package with the name of a toolkit.
    """
    for name in TOOLKITS:
        found = getattr(sys.modules.get(name), "__file__", None)
        if found and ROOT not in Path(found).parents:
            raise EngineError(
                f"another package {name} is imported: {found}", "Run stylematte in its own process"
            )
    for package in packages:
        if find_spec(package) is None:
            raise MissingError(f"{package} is not installed", f'pip install "stylematte[{extra}]"')
    # torch reads this once, at its import. Otherwise OpenMP's threads spin while they wait and slow each
    # other down beside other work: a training step of nano on two busy cores took four to nine times as long.
    if "torch" in packages:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
