"""What commands need before they import a toolkit: its folder on the path, and its packages."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from stylematte.errors import EngineError, MissingError

TOOLKITS = ("models", "export", "training")
BUNDLED = Path(__file__).parents[1] / "_toolkit"  # where they lie in an installed wheel; a checkout has none
ROOT = BUNDLED if BUNDLED.is_dir() else Path(__file__).parents[2]


def enable() -> None:
    """Let this process import the toolkits of an installed wheel; they go before packages called the same."""
    if ROOT == BUNDLED and str(BUNDLED) not in sys.path:
        sys.path.insert(0, str(BUNDLED))


def require(*packages: str, extra: str) -> None:
    """Make sure that packages are installed, and that the toolkits are ours.

    Raises:
        MissingError: One is not; the hint is the line that installs it.
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


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep where they wait for each other; to be called before torch is imported.

    They spin otherwise, and beside other programs take from each other the time that they wait for: a step of
    nano on two busy cores took four to nine times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
