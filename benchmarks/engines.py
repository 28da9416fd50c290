"""Compare eager torch with our ONNX files: same weights, images and cores, in one run.

    python benchmarks/engines.py [nano ...] [--photos DIR] [--side 512] [--rounds 20] [--json FILE]

A name is a preset with its shipped weights, or with random ones if none are shipped: time does not depend on
the weights. The network was published for eager torch. With --photos, an int8 file calibrated on them is also
timed. Rounds alternate, so that a drift in speed affects all alike. Both wall time and CPU time are measured:
on a shared machine, CPU time is more reliable. Needs the extras `cpu` and `train`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from export.contract import feed
from export.int8 import MOST_PHOTOS, to_int8
from export.onnx import Origin, export_onnx
from export.parity import at_working_size, read_photos
from models.checkpoints import load_weights
from models.stylematte import StyleMatte, build_model
from stylematte.timing import machine
from stylematte.weights import ASSETS

ORIGIN = Origin("0" * 64, "benchmark", "", {})


def network_of(preset: str) -> StyleMatte:
    shipped = ASSETS / f"{preset}.safetensors"
    if shipped.is_file():
        return load_weights(shipped)[0]
    torch.manual_seed(0)
    return build_model(preset).eval()


def eager(network: StyleMatte, image: np.ndarray) -> Callable[[], object]:
    tensor = torch.from_numpy(image)

    @torch.inference_mode()
    def call() -> torch.Tensor:
        coarse = network.coarse(tensor)
        return network.coefficients(coarse)

    return call


def through_onnx(model: onnx.ModelProto, image: np.ndarray, threads: int) -> Callable[[], object]:
    import onnxruntime  # after `export`, which turns off its telemetry

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = feed([port.name for port in session.get_inputs()], image)
    return lambda: session.run(["coefficients"], inputs)


def race(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measure wall and CPU time of every call in milliseconds, in alternating rounds."""
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "processor": []} for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            times[name]["wall"].append(1000 * (time.perf_counter() - wall))
            times[name]["processor"].append(1000 * (time.process_time() - processor))
    return times


def compare(preset: str, arguments: argparse.Namespace) -> dict[str, object]:
    network = network_of(preset)
    side = arguments.side
    image = np.random.default_rng(0).random((arguments.batch_size, 3, side, side), np.float32)
    model = export_onnx(network, ORIGIN)
    calls = {
        "torch": eager(network, image),
        "onnx fp32": through_onnx(model, image, arguments.threads),
    }
    if arguments.photos:
        photos = read_photos(arguments.photos, MOST_PHOTOS).values()
        sized = [at_working_size(p, network.preset.working_size, network.preset.stride) for p in photos]
        calls["onnx int8"] = through_onnx(to_int8(model, sized), image, arguments.threads)
    times = race(calls, arguments.rounds)
    result: dict[str, object] = {"median_ms": {}, "min_max_ms": {}, "median_processor_ms": {}, "faster": {}}
    for name, kinds in times.items():
        result["median_ms"][name] = statistics.median(kinds["wall"])
        result["min_max_ms"][name] = [min(kinds["wall"]), max(kinds["wall"])]
        result["median_processor_ms"][name] = statistics.median(kinds["processor"])
    for slow, fast in (("torch", "onnx fp32"), ("onnx fp32", "onnx int8")):
        if fast in times:
            result["faster"][f"{fast} than {slow}"] = {
                kind: statistics.median(
                    a / b for a, b in zip(times[slow][kind], times[fast][kind], strict=True)
                )
                for kind in ("wall", "processor")
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="*", default=["nano"])
    parser.add_argument("--photos", type=Path, default=None)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {key: getattr(arguments, key) for key in ("side", "batch_size", "threads", "rounds")}
    results = {preset: compare(preset, arguments) for preset in arguments.presets}
    report = {"machine": machine() | {"torch": torch.__version__}, "settings": settings, "presets": results}
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
