"""What the runtime may not import, tried in fresh interpreters."""

import ast
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stylematte

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


def test_mattes_an_image_where_torch_and_the_toolkits_cannot_be_imported(red_model: Path) -> None:
    code = """
import sys
for name in ("torch", "models", "export", "training", "onnx", "pymatting", "scipy"):
    sys.modules[name] = None
import numpy as np
import stylematte
image = np.full((90, 120, 3), 128, np.uint8)
image[20:70, 30:90] = (255, 0, 0)
matte = stylematte.load(sys.argv[1], device="cpu", threads=1)(image)
matte.cutout(), matte.composite("blur:9")
print(matte.alpha[45, 60] > 0.99, matte.alpha[5, 5] < 0.01)
"""
    assert run_python(code, str(red_model)).split() == ["True", "True"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = """
import sys
import stylematte
stylematte.StyleMatteError
print([name for name in ("numpy", "cv2", "onnxruntime", "tqdm", "torch") if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


MATTE = "['matte', sys.argv[2], '--out', 'out', '--weights', sys.argv[1]]"
START = {
    "the command": f"from stylematte_cli.app import main; sys.exit(main({MATTE}))",
    "doctor": "from stylematte_cli.app import main; sys.exit(main(['doctor']))",
    "python -m": "import runpy; sys.argv = ['stylematte', 'doctor']; "
    "runpy.run_module('stylematte_cli', run_name='__main__')",
    "from Python": "import stylematte; stylematte.load(sys.argv[1], device='cpu')",
    "an engine": "from stylematte.engines import open_engine; open_engine(pathlib.Path(sys.argv[1]))",
    "export": "import onnx; from export.parity import run_onnx; run_onnx(onnx.load(sys.argv[1]))",
    "int8": "import export.int8, onnxruntime.quantization",
}


@pytest.mark.parametrize("code", START.values(), ids=START.keys())
def test_onnx_runtime_reports_to_nobody_however_it_is_started(
    code: str, red_model: Path, tmp_path: Path
) -> None:
    """From 1.32 on, importing it writes `deviceid` and a database of events below the user's cache."""
    home, photo = tmp_path / "home", ROOT / "examples" / "photos" / "chelsea.png"
    home.mkdir()
    dropped = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "GITHUB_ACTIONS", "CI")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", f"import pathlib, sys\n{code}", str(red_model), str(photo)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=120,
        check=True,
    )
    found = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    assert not [name for name in found if "Microsoft" in name or "onnxruntime" in name]


def test_nothing_imports_onnx_runtime_before_it_is_told() -> None:
    """At the top of a module it would come first, in the order that imports are sorted in."""
    found = []
    for folder in ("stylematte", "stylematte_cli", "models", "export", "training", "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for statement in ast.parse(path.read_text(encoding="utf-8")).body:
                names = [alias.name for alias in getattr(statement, "names", ())]
                if isinstance(statement, ast.ImportFrom):
                    names = [statement.module or ""]
                if any(name.partition(".")[0] == "onnxruntime" for name in names):
                    found.append(path.name)
    assert found == []


def test_version_is_the_installed_one_or_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", {"stylematte": "9.8.7"}.__getitem__)
    assert stylematte.__version__ == "9.8.7"
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert stylematte.__version__ == "0+unknown"
