"""`stylematte doctor`: check the installation, the runtimes and the default model, and suggest fixes."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stylematte.errors import MissingError, StyleMatteError
from stylematte_cli.commands.options import Device, Engine, Json, print_json, start_log

if TYPE_CHECKING:
    from stylematte.engines.base import Contract

BASE = (
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyvips",
    "pyvips-binary",
    "safetensors",
    "simplejpeg",
    "tqdm",
    "typer",
)
TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"  # set by `stylematte`
RUNTIMES = {"onnxruntime": "cpu", "onnxruntime-gpu": "gpu"}
# Purpose of an extra, and the packages it adds.
EXTRAS = {
    "train": ("stylematte train and export", ("torch", "onnx", "onnxscript", "pymatting", "tensorboard")),
}
TRIAL_SIZE = (768, 1024)  # (height, width) of the image for the timed matte
TRIAL_RUNS = 5
SECONDS_FOR_NVIDIA_SMI = 20
REINSTALL = 'pip install --force-reinstall "stylematte[cpu]"'


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was checked.
        state: `ok`, `note` (information), `warn` (works, but not optimally), `fail` (`stylematte matte` does
            not work).
        detail: The result.
        fix: What to do about it; empty if nothing.
        facts: The result for --json.
    """

    name: str
    state: str
    detail: str
    fix: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def doctor(engine: Engine = "auto", device: Device = "auto", as_json: Json = False) -> int:
    """Check what works on this machine, and suggest fixes for the rest."""
    start_log(quiet=True)
    checks: dict[str, Callable[[], list[Finding]]] = {
        "stylematte": _system,
        "packages": _packages,
        "onnxruntime": _runtimes,
        "GPU": _gpu,
        "image formats": _image_formats,
        "openvino": _openvino,
        "tensorrt": partial(_tensorrt, device),
        "matte": partial(_default_model, engine, device),
    }
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except ImportError as error:  # any import may fail
            findings.append(Finding(name, "fail", f"cannot be imported: {error}", REINSTALL))
    is_well = all(finding.state != "fail" for finding in findings)
    if as_json:
        print_json({"ok": is_well, "findings": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            typer.echo(f"{finding.state:<5} {finding.name}: {finding.detail}")
            if finding.fix:
                typer.echo(f"      -> {finding.fix}")
        typer.echo("\nstylematte matte works here." if is_well else "\nstylematte matte does not work here.")
    return 0 if is_well else 4


def _system() -> list[Finding]:
    from stylematte import __version__
    from stylematte.engines.base import usable_cores

    cores = usable_cores()
    python = platform.python_version()
    detail = f"{__version__}, Python {python}, {platform.system()} {platform.machine()}, {cores} cores usable"
    facts = {"version": __version__, "python": python, "executable": sys.executable, "cores": cores}
    return [Finding("stylematte", "ok", detail, facts=facts)]


def _packages() -> list[Finding]:
    """Report the versions of required packages and of extras."""
    found = {name: _version(name) for name in BASE}
    # Any OpenCV will do: another wheel, or a system package that pip does not know.
    found["opencv-python-headless"] = found["opencv-python-headless"] or _module_version("cv2")
    findings = [_package_line("packages", found, "pip install stylematte", "fail")]
    for extra, (purpose, names) in EXTRAS.items():
        found = {name: _version(name) for name in names}
        fix = f'for {purpose}: pip install "stylematte[{extra}]"'
        findings.append(_package_line(f"packages [{extra}]", found, fix, "note"))
    return findings


def _package_line(name: str, found: dict[str, str | None], fix: str, lacking_state: str) -> Finding:
    lacking = [package for package, release in found.items() if release is None]
    present = ", ".join(f"{package} {release}" for package, release in found.items() if release)
    if not lacking:
        return Finding(name, "ok", present, facts=dict(found))
    detail = f"{present}; not installed: {', '.join(lacking)}" if present else "not installed"
    return Finding(name, lacking_state, detail, fix, dict(found))


def _runtimes() -> list[Finding]:
    """Report the installed ONNX Runtime and its providers."""
    wheels = {name: _version(name) for name in RUNTIMES}
    present = [f"{name} {release}" for name, release in wheels.items() if release]
    findings = []
    if len(present) > 1:
        findings.append(
            Finding(
                "onnxruntime wheels",
                "warn",
                f"{' and '.join(present)} are both installed and overwrite each other's files",
                "pip uninstall -y onnxruntime onnxruntime-gpu, then one of: "
                'pip install "stylematte[cpu]"  or  pip install "stylematte[gpu]"',
            )
        )
    try:
        import onnxruntime
    except ImportError as error:
        detail = "not installed" if error.name == "onnxruntime" else f"does not start: {error}"
        fix = 'pip install "stylematte[cpu]"  or, with an NVIDIA GPU,  pip install "stylematte[gpu]"'
        return [*findings, Finding("onnxruntime", "fail", detail, fix, dict(wheels))]
    providers = onnxruntime.get_available_providers()
    detail = f"{' and '.join(present) or onnxruntime.__version__}, compiled in: {', '.join(providers)}"
    findings.append(Finding("onnxruntime", "ok", detail, facts={**wheels, "providers": providers}))
    return [*findings, _telemetry()]


def _telemetry() -> Finding:
    """Report whether ONNX Runtime's telemetry is off; only the environment can turn it on."""
    value = os.environ.get(TELEMETRY_SWITCH, "")
    facts = {TELEMETRY_SWITCH: value}
    if value.lower() in ("1", "true", "yes", "on"):
        return Finding("telemetry", "ok", f"ONNX Runtime's is off ({TELEMETRY_SWITCH}={value})", facts=facts)
    detail = f"{TELEMETRY_SWITCH}={value} in your environment leaves ONNX Runtime's on"
    return Finding("telemetry", "note", detail, f"unset {TELEMETRY_SWITCH} to have it off", facts)


def _gpu() -> list[Finding]:
    """Report NVIDIA GPUs and driver, from nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [
            Finding(
                "GPU", "note", "no nvidia-smi on PATH, so no NVIDIA driver; mattes are computed on the CPU"
            )
        ]
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=SECONDS_FOR_NVIDIA_SMI, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("GPU", "warn", f"nvidia-smi does not answer: {error}", "check the NVIDIA driver")]
    gpus = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not gpus:
        said = " ".join((answer.stderr or answer.stdout).split()) or f"exit code {answer.returncode}"
        return [Finding("GPU", "warn", f"nvidia-smi found none: {said}", "check the NVIDIA driver")]
    return [Finding("GPU", "ok", "; ".join(gpus) + " (name, driver, memory)", facts={"cards": gpus})]


def _image_formats() -> list[Finding]:
    """Report which formats can be read; those of the base installation are tested."""
    import io

    import cv2  # noqa: F401 - image processing needs it
    import numpy as np
    from PIL import Image

    from stylematte.media import decode, formats, vips

    image = vips.image_of(np.zeros((16, 16, 3), np.uint8))
    bmp = io.BytesIO()
    Image.new("RGB", (16, 16)).save(bmp, "BMP")
    savers = {
        "jpeg": "jpegsave",
        "png": "pngsave",
        "webp": "webpsave",
        "tiff": "tiffsave",
        "avif": "heifsave",
    }
    works = {}
    for entry in formats.FORMATS:
        if entry.extra:
            works[entry.kind] = formats.missing_extra(entry.suffixes[0]) is None
            continue
        options = {"compression": "av1"} if entry.kind == "avif" else {}
        try:
            saver = savers.get(entry.kind)
            data = bmp.getvalue() if saver is None else bytes(getattr(image, f"{saver}_buffer")(**options))
            works[entry.kind] = decode.decode_image(data, entry.title).pixels.shape == (16, 16, 3)
        except (vips.library().Error, StyleMatteError):
            works[entry.kind] = False
    detail = ", ".join(kind for kind, does in works.items() if does)
    lacking = {kind: formats.BY_KIND[kind].extra for kind, does in works.items() if not does}
    if not any(not extra for extra in lacking.values()):
        extras = " and ".join(f"{kind} with the extra {extra}" for kind, extra in lacking.items())
        return [Finding("image formats", "ok", detail + (f"; {extras}" if extras else ""), facts=works)]
    detail += f"; missing: {', '.join(lacking)}"
    return [Finding("image formats", "warn", detail, "pip install -U pyvips-binary", works)]


def _openvino() -> list[Finding]:
    """Report the installed OpenVINO, its devices, and whether they support bfloat16."""
    release = _version("openvino")
    if release is None:
        fix = 'for CPUs, and Intel\'s GPUs and NPUs: pip install "stylematte[openvino]"'
        return [Finding("openvino", "note", "not installed", fix)]
    from stylematte.engines.openvino import describe_devices

    try:
        devices = describe_devices()
    except StyleMatteError as error:
        return [_failure("openvino", error)]
    detail = "; ".join(
        f"{name}: {full}, bfloat16 {'yes' if has_bf16 else 'no'}"
        for name, (full, has_bf16) in devices.items()
    )
    return [Finding("openvino", "ok", f"{release}, {detail}", facts={"release": release, "devices": devices})]


def _tensorrt(device: str) -> list[Finding]:
    """Report the installed TensorRT, its GPU and driver, and whether the default model has an engine."""
    from stylematte import weights as registry
    from stylematte.engines import tensorrt
    from stylematte.engines.cuda import Cuda

    release = tensorrt.tensorrt_version()
    if not release:
        if shutil.which("nvidia-smi") is None:
            return []  # not needed without a GPU
        fix = 'for engines: pip install "stylematte[tensorrt]", then stylematte export --format tensorrt'
        return [Finding("tensorrt", "note", "not installed: ONNX Runtime runs the network", fix)]
    try:
        here = tensorrt.machine_identity(Cuda(int(device.partition(":")[2] or 0)))
        found, reason = tensorrt.find_engine(registry.resolve(registry.DEFAULT), here)
    except StyleMatteError as error:
        return [Finding("tensorrt", "warn", f"{release}, but no usable GPU: {error.message}", error.hint)]
    capability, driver = here["compute_capability"], here["driver"]
    detail = f"{release} on {here['gpu']}, compute capability {capability}, driver {driver}"
    if found is not None:
        return [Finding("tensorrt", "ok", f"{detail}; engine {found}", facts=here)]
    fix = "stylematte export --format tensorrt builds one beside its .onnx file; --weights accepts either"
    return [Finding("tensorrt", "note", f"{detail}; {reason}", fix, here)]


def _default_model(engine: str, device: str) -> list[Finding]:
    """Open the default model, report its device, and time a matte."""
    from stylematte import files
    from stylematte import weights as registry

    findings = []
    try:
        weights = registry.describe(registry.DEFAULT)
        found_sha256 = files.sha256_of(weights.path)
    except MissingError:
        detail = (
            f"the default model {registry.DEFAULT}.onnx is missing: it is neither in {registry.ASSETS} "
            f"nor in {files.cache_folder()}"
        )
        return [Finding("weights", "fail", detail, "pip install --force-reinstall --no-deps stylematte")]
    except StyleMatteError as error:
        return [_failure("weights", error)]
    if weights.sha256 and weights.sha256 != found_sha256:
        detail = f"{weights.path}: SHA-256 differs from its card's"
        findings.append(Finding("weights", "fail", detail, "install stylematte again"))
    else:
        verified = "matches its card" if weights.sha256 else "not stated by a card"
        findings.append(Finding("weights", "ok", f"{weights.path}, SHA-256 {verified}"))
    try:
        findings += _timed_matte(weights.path, engine, device)
    except StyleMatteError as error:
        findings.append(_failure("matte", error))
    return findings


def _timed_matte(path: Path, engine_name: str, device: str) -> list[Finding]:
    import numpy as np

    from stylematte.engines import open_engine
    from stylematte.engines.gpu import use_gpu_filter
    from stylematte.matter import Matter
    from stylematte.timing import drawn_photo

    height, width = TRIAL_SIZE
    image = drawn_photo(height, width)
    started = time.perf_counter()
    engine = open_engine(path, engine_name, device)
    use_gpu_filter(engine, device)
    matter = Matter(engine)
    alpha = matter(image).alpha
    first_ms = (time.perf_counter() - started) * 1000
    times_ms = []
    for _ in range(TRIAL_RUNS):
        started = time.perf_counter()
        alpha = matter(image).alpha
        times_ms.append((time.perf_counter() - started) * 1000)
    median_ms = float(np.median(times_ms))

    findings = [_session(engine.provider, device)]
    facts = {"first_ms": first_ms, "median_ms": median_ms, "height": height, "width": width}
    if alpha.shape != TRIAL_SIZE or not np.isfinite(alpha).all():
        return [
            *findings,
            Finding("matte", "fail", "the alpha is not finite or has the wrong size", facts=facts),
        ]
    working = "x".join(map(str, engine.contract.working_size_for(height, width)))
    detail = (
        f"a photo of {height}x{width} (height x width) takes {median_ms:.0f} ms with "
        f"{engine.contract.preset} at {working}; the first, including opening the model, {first_ms:.0f} ms"
    )
    findings.append(Finding("matte", "ok", detail, facts=facts))
    if engine.contract.refiner:
        findings.append(_refiner(path, engine.contract, device))
    return findings


def _refiner(path: Path, contract: "Contract", device: str) -> Finding:
    """Report whether the refiner that the model names exists and matches."""
    from stylematte.engines.refiner import open_refiner

    try:
        refiner = open_refiner(path, contract, device)
    except MissingError as error:  # mattes also work without it
        return Finding("refiner", "warn", error.message, error.hint)
    except StyleMatteError as error:
        return _failure("refiner", error)
    assert refiner is not None
    side_px = refiner.tiles.side_px
    detail = f"{contract.refiner}, on tiles of {side_px}x{side_px}, {refiner.provider}"
    return Finding("refiner", "ok", detail)


def _session(provider: str, device: str) -> Finding:
    """Report the session's device, and warn if a GPU is not used."""
    facts = {"provider": provider, "device": device}
    detail = f"device {device} uses {provider}"
    if provider == "CPUExecutionProvider" and device == "auto" and shutil.which("nvidia-smi"):
        fix = 'pip uninstall -y onnxruntime && pip install "stylematte[gpu]"; --device cuda then says why not'
        return Finding("session", "warn", f"{detail}, although there is an NVIDIA driver", fix, facts)
    return Finding("session", "ok", detail, facts=facts)


def _failure(name: str, error: StyleMatteError) -> Finding:
    return Finding(name, "fail", error.message, error.hint)


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and no help needs it

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _module_version(name: str) -> str | None:
    try:
        return str(import_module(name).__version__)
    except ImportError:
        return None
