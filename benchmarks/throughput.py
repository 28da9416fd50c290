"""Compare the tool with a plain loop of the same steps on a folder of photos, in one run.

    python benchmarks/throughput.py PHOTOS [--weights nano] [--repeats 5] [--openvino bfloat16] \
        [--json throughput.json]

The loop is the obvious implementation: cv2.imread, resize, session.run, the same guided filter, cv2.imwrite,
each with its defaults (the session and OpenCV use all cores). The tool is `stylematte.batch.run`, which
`stylematte matte` calls; --openvino adds the same with OpenVINO. All open their model once, before timing.
Repeats alternate, so that a slowdown of the machine affects all. 24 photos of 2 to 3 megapixels are taken
from the folder; missing ones are scaled and cropped from its other photos, and saved as JPEG.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from export.contract import feed
from stylematte.batch import STAGES, run
from stylematte.engines import open_engine
from stylematte.engines.base import Contract, usable_cores
from stylematte.imaging.geometry import resize_to_working
from stylematte.imaging.guided_filter import apply_coefficients
from stylematte.matter import Matter
from stylematte.media.paths import SUFFIXES, Item
from stylematte.requests import PhotoRequest
from stylematte.weights import resolve

PHOTOS = 24
LEAST_PX, MOST_PX = 2_000_000, 3_200_000
SIDES = ((1280, 1600), (1800, 1350), (1440, 2160), (1600, 1600))  # (height, width) of photos that are made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of real photos")
    parser.add_argument("--weights", default="nano", help="name or file; default nano")
    parser.add_argument("--repeats", type=int, default=5, help="default 5")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="default one a core")
    parser.add_argument("--openvino", choices=["float32", "bfloat16"], help="also run OpenVINO")
    parser.add_argument("--json", type=Path, default=Path("throughput.json"), help="default throughput.json")
    options = parser.parse_args()
    model = resolve(options.weights)
    with tempfile.TemporaryDirectory() as scratch:
        sources = gather(options.photos, Path(scratch))
        report = measure(sources, model, Path(scratch), options)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)


def gather(folder: Path, scratch: Path) -> list[Path]:
    """Find 24 photos of 2 to 3 megapixels; make missing ones from the others."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    photos = {path: photo for path in found[: 4 * PHOTOS] if (photo := cv2.imread(str(path))) is not None}
    if not photos:
        sys.exit(f"{folder}: no photos")
    fitting = [path for path, photo in photos.items() if LEAST_PX <= photo[:, :, 0].size <= MOST_PX][:PHOTOS]
    for number in range(PHOTOS - len(fitting)):
        photo = list(photos.values())[number % len(photos)]
        height, width = SIDES[number % len(SIDES)]
        scale = max(height / photo.shape[0], width / photo.shape[1])
        grown = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        path = scratch / f"photo-{number:02}.jpg"
        cv2.imwrite(str(path), grown[:height, :width], [cv2.IMWRITE_JPEG_QUALITY, 92])
        fitting.append(path)
    return fitting


def measure(sources: list[Path], model: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    workers, repeats = options.workers, options.repeats
    loop_out = scratch / "loop"
    loop_out.mkdir()
    import onnxruntime  # after `export`, which turns off its telemetry

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    matters = {"tool": Matter(open_engine(model, device="cpu", lanes=workers))}
    if options.openvino:
        engine = open_engine(model, "openvino", "cpu", lanes=workers, precision=options.openvino)
        matters["openvino"] = Matter(engine)
    items = {
        name: [Item(source, scratch / name / f"{source.stem}.png") for source in sources] for name in matters
    }

    seconds: dict[str, list[float]] = {name: [] for name in ("loop", *matters)}
    shares: dict[str, list[dict[str, float]]] = {name: [] for name in seconds}
    plain_loop(sources[:2], loop_out, session)
    for name, matter in matters.items():
        list(run(items[name], matter, PhotoRequest(), workers=workers))
    for _ in range(repeats):
        started = time.perf_counter()
        shares["loop"].append(plain_loop(sources, loop_out, session))
        seconds["loop"].append(time.perf_counter() - started)
        for name, matter in matters.items():
            started = time.perf_counter()
            outcomes = list(run(items[name], matter, PhotoRequest(), workers=workers))
            seconds[name].append(time.perf_counter() - started)
            errors = [outcome.error for outcome in outcomes if outcome.error]
            if errors:
                raise errors[0]
            shares[name].append({stage: sum(o.seconds[stage] for o in outcomes) for stage in STAGES})

    check_equal(items["tool"], loop_out)
    report = {
        "photos": len(sources),
        "megapixels_mean": round(statistics.mean(cv2.imread(str(s))[:, :, 0].size for s in sources) / 1e6, 2),
        "repeats": repeats,
        "workers": workers,
        "cores": usable_cores(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"onnxruntime": importlib.metadata.version("onnxruntime"), "opencv": cv2.__version__},
        "preset": matters["tool"].engine.contract.preset,
        "ratio": ratio(seconds["loop"], seconds["tool"]),
    }
    report |= {name: summary(seconds[name], shares[name], len(sources)) for name in seconds}
    if options.openvino:
        report["openvino"] |= {"precision": matters["openvino"].engine.precision}
        report["openvino_ratio"] = ratio(seconds["tool"], seconds["openvino"])
    return report


def ratio(slower: list[float], faster: list[float]) -> dict[str, float]:
    """Return median, least and most of the ratios of times that were measured in turns."""
    found = [a / b for a, b in zip(slower, faster, strict=True)]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def plain_loop(sources: list[Path], out: Path, session: Any) -> dict[str, float]:
    """Process one photo after the other; returns the seconds of each stage."""
    contract = Contract.from_metadata(session.get_modelmeta().custom_metadata_map, "the model")
    names = [port.name for port in session.get_inputs()]
    spent = dict.fromkeys(STAGES, 0.0)
    for source in sources:
        marks = [time.perf_counter()]
        image = cv2.cvtColor(cv2.imread(str(source)), cv2.COLOR_BGR2RGB)
        marks.append(time.perf_counter())
        working = resize_to_working(image, contract.working_size_for(*image.shape[:2]))
        (coefficients,) = session.run(["coefficients"], feed(names, working[None]))
        marks.append(time.perf_counter())
        alpha = apply_coefficients(
            coefficients[0], image, contract.grey_weights, contract.grey_offset, np.uint8
        )
        marks.append(time.perf_counter())
        cv2.imwrite(str(out / f"{source.stem}.png"), alpha)
        marks.append(time.perf_counter())
        for stage, begin, end in zip(STAGES, marks, marks[1:], strict=False):
            spent[stage] += end - begin
    return spent


def check_equal(items: list[Item], loop_out: Path) -> None:
    """Exit if the two made different mattes: the comparison would be meaningless."""
    for item in items:
        ours = cv2.imread(str(item.output), cv2.IMREAD_UNCHANGED)
        theirs = cv2.imread(str(loop_out / item.output.name), cv2.IMREAD_UNCHANGED)
        if ours.shape != theirs.shape or np.abs(ours.astype(int) - theirs).max() > 1:
            sys.exit(f"{item.source}: the two roads differ")


def summary(seconds: list[float], shares: list[dict[str, float]], photos: int) -> dict[str, Any]:
    total = sum(sum(share.values()) for share in shares)
    return {
        "photos_per_second": photos / statistics.median(seconds),
        "seconds": {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)},
        "share": {stage: sum(share[stage] for share in shares) / total for stage in STAGES},
        "stage_ms_per_photo": {
            stage: 1000 * statistics.median(share[stage] for share in shares) / photos for stage in STAGES
        },
    }


def print_table(report: dict[str, Any]) -> None:
    print(
        f"{report['photos']} photos of {report['megapixels_mean']} MP on average, {report['preset']}, "
        f"{report['cores']} cores, {report['workers']} workers, median of {report['repeats']}"
    )
    print(f"{'':<9}{'photos/s':>10}{'seconds':>9}{'spread':>16}" + "".join(f"{s:>20}" for s in STAGES))
    for road in ("loop", "tool", "openvino"):
        if road not in report:
            continue
        row = report[road]
        spread = f"{row['seconds']['least']:.2f} to {row['seconds']['most']:.2f}"
        stages = (f"{row['stage_ms_per_photo'][s]:.1f} ms {row['share'][s]:4.0%}" for s in STAGES)
        print(
            f"{road:<9}{row['photos_per_second']:>10.2f}{row['seconds']['median']:>9.2f}{spread:>16}"
            + "".join(f"{text:>20}" for text in stages)
        )
    for name, key in (("tool / loop", "ratio"), ("openvino / tool", "openvino_ratio")):
        if found := report.get(key):
            print(f"{name}: {found['median']:.2f} x ({found['least']:.2f} to {found['most']:.2f})")


if __name__ == "__main__":
    main()
