"""What the runtime may not import, tried in fresh interpreters."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import stylematte_cli

ROOT = Path(__file__).parents[1]


def run_python(code: str, *arguments: str) -> str:
    """Run code in a new interpreter, in the repository; its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mattes_a_picture_where_torch_and_the_toolkits_cannot_be_imported(red_model: Path) -> None:
    code = """
import sys
for name in ("torch", "models", "export", "training", "onnx", "pymatting", "scipy"):
    sys.modules[name] = None
import numpy as np
import stylematte_cli
image = np.full((90, 120, 3), 128, np.uint8)
image[20:70, 30:90] = (255, 0, 0)
matte = stylematte_cli.load(sys.argv[1], device="cpu", threads=1)(image)
matte.cutout(), matte.composite("blur:9")
print(matte.alpha[45, 60] > 0.99, matte.alpha[5, 5] < 0.01)
"""
    assert run_python(code, str(red_model)).split() == ["True", "True"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = """
import sys
import stylematte_cli
stylematte_cli.StyleMatteError
print([name for name in ("numpy", "cv2", "onnxruntime", "tqdm", "torch") if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_version_is_the_installed_one_or_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", {"stylematte": "9.8.7"}.__getitem__)
    assert stylematte_cli.__version__ == "9.8.7"
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert stylematte_cli.__version__ == "0+unknown"
