"""A wheel beside another distribution that owns `models` and `training`: neither harms the other."""

import os
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.cli.test_as_typed import ROOT, build_wheel

OTHER = {
    "models/__init__.py": "OWNER = 'other'\n",
    "models/presets.py": "OWNER = 'other'\n",
    "training/__init__.py": "OWNER = 'other'\n",
    "training/recipe_files.py": "OWNER = 'other'\n",
    "other-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n",
    "other-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
OTHER_WORKS = "import models.presets, training.recipe_files as r; print(models.presets.OWNER, r.OWNER)"


class Environment:
    """A virtual environment that sees the packages of this one, but not this checkout."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        self.site = next(folder.glob("lib/*/site-packages"))
        self.folder = folder
        # Behind its own. The .pth files in there are not read: no editable install comes along.
        (self.site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        self.variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.variables["OMP_NUM_THREADS"] = "1"

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*words], cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pip(self, *words: str) -> None:
        self.run(str(self.python), "-m", "pip", "--disable-pip-version-check", *words)


def pack_other(folder: Path) -> Path:
    wheel = folder / "other-1.0-py3-none-any.whl"
    record = "".join(f"{name},,\n" for name in (*OTHER, "other-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in (OTHER | {"other-1.0.dist-info/RECORD": record}).items():
            archive.writestr(name, text)
    return wheel


@pytest.mark.slow
@pytest.mark.parametrize("ours_first", [True, False])
def test_both_work_and_both_uninstall(tmp_path: Path, ours_first: bool) -> None:
    here = Environment(tmp_path / "venv")
    wheels = [build_wheel(tmp_path), pack_other(tmp_path)]
    for wheel in wheels if ours_first else reversed(wheels):
        here.pip("install", "--no-deps", "--no-index", "--no-compile", "--quiet", str(wheel))
    tool = str(here.python.with_name("stylematte"))
    assert {p.name for p in here.site.iterdir() if not p.name.endswith((".dist-info", ".pth"))} == {
        *("models", "training"),  # the other's
        *("stylematte", "stylematte_cli"),
    }
    assert here.run(str(here.python), "-c", OTHER_WORKS).split() == ["other", "other"]
    assert "gan/faces-64" in here.run(tool, "train", "--list")  # models and training, ours
    here.run(tool, "matte", str(ROOT / "examples" / "photos" / "chelsea.png"), "--out", "alphas")
    assert (here.folder / "alphas" / "chelsea.png").is_file()

    first, second = ("stylematte", "other") if ours_first else ("other", "stylematte")
    here.pip("uninstall", "--yes", "--quiet", first)
    if ours_first:
        assert here.run(str(here.python), "-c", OTHER_WORKS).split() == ["other", "other"]
    else:
        assert "gan/faces-64" in here.run(tool, "train", "--list")
    here.pip("uninstall", "--yes", "--quiet", second)
    assert not any(
        (here.site / name / "__init__.py").exists() for name in ("models", "training", "stylematte_cli")
    )
