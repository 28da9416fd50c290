"""What NVRTC makes of the kernels, and the cache of it. No GPU is needed."""

import logging
import re
import shutil
import subprocess

import pytest

from models.stylematte import MEAN, STD
from stylematte import files
from stylematte.engines.guided_filter import nvrtc
from stylematte.engines.guided_filter.kernels import (
    LAYOUTS,
    SHARED_BYTES,
    STORAGE,
    ApplyKernel,
    CoefficientsKernel,
    Grey,
)
from stylematte.errors import EngineError

GREY = Grey.of(MEAN, STD)
COEFFICIENTS = [CoefficientsKernel(radius_px, 1e-4) for radius_px in (1, 13, 16)]
COEFFICIENTS += [CoefficientsKernel(1, 1e-4, "float16", "float16")]
APPLY = [
    ApplyKernel(layout, None if layout == "grey" else GREY, "float32", guide, alpha)
    for layout, guide, alpha in zip(LAYOUTS, STORAGE, reversed(STORAGE), strict=True)
]
# One access of four values in PTX.
FOUR = {"float32": "v4.f32", "float16": "v4.u16", "uint8": "v4.u8"}


@pytest.fixture(scope="module", autouse=True)
def _nvrtc() -> None:
    try:
        nvrtc.version()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ptx")


def parameters(ptx: str) -> list[str]:
    """Types of the entry's parameters, in order."""
    (entry,) = re.findall(r"\.entry \w+\((.*?)\)", ptx, re.DOTALL)
    return re.findall(r"\.param \.(\w+)", entry)


@pytest.mark.parametrize("architecture", ["compute_75", "sm_90"])
@pytest.mark.parametrize("kernel", COEFFICIENTS + APPLY, ids=str)
def test_ptx(kernel, architecture, folder):
    ptx = nvrtc.compile_ptx(kernel, architecture, folder)
    assert re.search(rf"^\.target sm_{architecture[-2:]}$", ptx, re.MULTILINE)
    assert f".entry {kernel.name}(" in ptx
    integers = 2 if kernel.name == "fgf_coefficients" else 4
    assert parameters(ptx) == ["u64", "u64", *["u32"] * integers, "u64"]  # inputs, integers, output
    assert ".local" not in ptx  # nothing that belongs into registers lies in memory


@pytest.mark.parametrize("kernel", APPLY, ids=str)
def test_four_pixels_are_one_access(kernel, folder):
    ptx = nvrtc.compile_ptx(kernel, folder=folder)
    loads = re.findall(r"ld\.global\.nc\.(v4\.\w+)", ptx)
    assert loads == [FOUR[kernel.guide]] * (1 if kernel.layout == "grey" else 3)
    assert re.findall(r"st\.global\.(v4\.\w+)", ptx) == [FOUR[kernel.alpha]]


@pytest.mark.parametrize("kernel", COEFFICIENTS + APPLY, ids=str)
def test_registers_and_shared_memory(kernel, folder, tmp_path):
    if shutil.which("ptxas") is None:
        pytest.skip("no ptxas on the PATH")
    source = tmp_path / "kernel.ptx"
    source.write_text(nvrtc.compile_ptx(kernel, folder=folder))
    command = ["ptxas", "-v", "-arch=sm_90", str(source), "-o", str(tmp_path / "kernel.cubin")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in report
    assert (
        int(re.search(r"Used (\d+) registers", report)[1]) <= 64
    )  # 4 blocks of 256 threads a multiprocessor
    shared = re.search(r"(\d+) bytes smem", report)
    assert shared is None or int(shared[1]) <= SHARED_BYTES


def test_a_kernel_is_compiled_once(tmp_path, monkeypatch):
    first = nvrtc.compile_ptx(COEFFICIENTS[0], folder=tmp_path / "deep" / "er")
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: pytest.fail("compiled again"))
    assert nvrtc.compile_ptx(COEFFICIENTS[0], folder=tmp_path / "deep" / "er") == first
    (path,) = (tmp_path / "deep" / "er").iterdir()  # and no temporary file
    assert re.fullmatch(r"fgf_coefficients-[0-9a-f]{32}\.ptx", path.name)


def test_whatever_changes_the_result_changes_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: "ptx")
    kernel = COEFFICIENTS[0]
    nvrtc.compile_ptx(kernel, folder=tmp_path)
    nvrtc.compile_ptx(CoefficientsKernel(1, 2e-4), folder=tmp_path)
    nvrtc.compile_ptx(kernel, "compute_80", tmp_path)
    monkeypatch.setattr(nvrtc, "version", lambda: "99.9")
    nvrtc.compile_ptx(kernel, folder=tmp_path)
    source = tmp_path / "other.cu"
    source.write_text("")
    monkeypatch.setattr(nvrtc, "SOURCE", source)
    nvrtc.compile_ptx(kernel, folder=tmp_path)
    assert len(list(tmp_path.glob("*.ptx"))) == 5


def test_a_folder_that_takes_no_file_costs_no_more_than_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: "ptx")
    file = tmp_path / "file"
    file.touch()
    with caplog.at_level(logging.WARNING):
        assert nvrtc.compile_ptx(COEFFICIENTS[0], folder=file / "below") == "ptx"
    assert "the compiled kernel cannot be cached" in caplog.text


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with (
        pytest.raises(UnicodeEncodeError),
        files.writing(tmp_path / "kernel.ptx", shared=True) as temporary,
    ):
        temporary.write_text("\udc80", encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_compile_errors_carry_the_compilers_words(tmp_path, monkeypatch):
    source = tmp_path / "broken.cu"
    source.write_text('extern "C" __global__ void fgf_apply() { nonsense; }')
    monkeypatch.setattr(nvrtc, "SOURCE", source)
    with pytest.raises(EngineError, match=r"(?s)broken\.cu does not compile.*\"nonsense\" is undefined"):
        nvrtc.compile_ptx(APPLY[0], folder=tmp_path)
    assert list(tmp_path.glob("*.ptx")) == []


def test_kernels_lie_beside_the_models(monkeypatch, tmp_path):
    for name in ("STYLEMATTE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert nvrtc.cache_folder() == files.cache_folder() / "ptx"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert nvrtc.cache_folder() == files.cache_folder() / "ptx" == tmp_path / "stylematte" / "ptx"
    monkeypatch.setenv("STYLEMATTE_HOME", str(tmp_path / "own"))
    assert nvrtc.cache_folder() == files.cache_folder() / "ptx" == tmp_path / "own" / "ptx"
