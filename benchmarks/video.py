"""Compare clips end to end with each stage alone, in one run; or peak memory of clips of two lengths.

    python benchmarks/video.py PHOTO [--size 1080 1920] [--frames 120] [--output alpha] [--format mp4]
    python benchmarks/video.py PHOTO --stand-in-ms 80
    python benchmarks/video.py PHOTO --memory 10 600

The clip is made from the photo: a pan with noise, as H.264 with sound. Stages: decode (packets to RGB),
network (RGB to full-size alpha, as many lanes as cores), picture (foreground, composite; nothing for alphas),
encode (conversion to the codec's pixels, and the codec). Alone, each stage has all cores; in the pipeline
they share them. So the slowest stage and the sum of CPU times both bound the whole: `possible` is the lower
of the slowest stage alone and cores / CPU time of all stages per frame. With --stand-in-ms the network only
waits that long, one frame at a time, as if a GPU ran it. Then no stage takes CPU time from another, and the
whole should be as fast as the slowest stage.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from stylematte.batch import Network, opencv_threads, render
from stylematte.clips import matte_clip, open_sink, open_source
from stylematte.engines import open_engine
from stylematte.engines.base import usable_cores
from stylematte.matter import Matter
from stylematte.media.paths import CLIP_FORMATS, Item
from stylematte.queues import in_order
from stylematte.requests import ClipRequest
from stylematte.weights import resolve

RATE = Fraction(25)
STAGES = ("decode", "network", "picture", "encode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path, help="what the clip is drawn from")
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920), help="height and width")
    parser.add_argument("--frames", type=int, default=120, help="default 120")
    parser.add_argument("--repeats", type=int, default=3, help="default 3")
    parser.add_argument("--output", default="alpha", choices=["alpha", "cutout", "composite"])
    parser.add_argument("--format", default="mp4", choices=list(CLIP_FORMATS))
    parser.add_argument("--stabilize", action="store_true")
    parser.add_argument("--weights", default="nano", help="name or file; default nano")
    parser.add_argument("--stand-in-ms", type=float, help="wait this long a frame instead of the network")
    parser.add_argument("--memory", type=int, nargs=2, metavar="SECONDS", help="peak memory of two lengths")
    parser.add_argument("--json", type=Path, default=Path("video.json"), help="default video.json")
    options = parser.parse_args()
    behind = (0, 177, 64) if options.output == "composite" else None
    job = ClipRequest(options.output, options.format, background=behind, is_stabilised=options.stabilize)
    size = (options.size[0], options.size[1])
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            report = memory(options.photo, size, options.memory, Path(folder))
        else:
            clip = draw(options.photo, Path(folder) / "clip.mp4", size, options.frames)
            matter = open_matter(options.weights, options.stand_in_ms)
            report = measure(clip, job, matter, options.repeats, Path(folder))
            report["stand_in_ms"] = options.stand_in_ms
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def draw(photo: Path, path: Path, size: tuple[int, int], frames: int) -> Path:
    """Make a clip that pans over a photo, 1 pixel per frame and back, with noise and silent sound."""
    height, width = size
    image = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
    room = 60
    scale = max((height + room) / image.shape[0], (width + room) / image.shape[1])
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).integers(-3, 4, (height + 64, width + 64, 3)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "18"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        sound.codec_context.layout = "stereo"
        for number in range(frames):
            at = room - abs(number % (2 * room) - room)
            grain = noise[number * 7 % 64 :, number * 13 % 64 :][:height, :width]
            pixels = np.clip(large[at : at + height, at : at + width] + grain, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1920), np.int16), "s16", "stereo")
            silence.sample_rate, silence.pts = 48000, number * 1920
            container.mux(sound.encode(silence))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    return path


class StandIn:
    """An engine that runs the network once and then waits as long as a GPU would take."""

    name, provider, lanes, gpu_filter = "stand-in", "CPUExecutionProvider", 1, None

    def __init__(self, engine: Any, seconds: float) -> None:
        self.contract = engine.contract
        self._engine = engine
        self._seconds = seconds
        self._answer: Any = None

    def coefficients(self, images: Any) -> Any:
        """Wait; see `Engine.coefficients`."""
        if self._answer is None:
            self._answer = self._engine.coefficients(images)
        time.sleep(self._seconds)
        return self._answer


def open_matter(weights: str, stand_in_ms: float | None) -> Matter:
    engine: Any = open_engine(resolve(weights), device="cpu", lanes=usable_cores())
    return Matter(engine if stand_in_ms is None else StandIn(engine, stand_in_ms / 1000))


def measure(clip: Path, job: ClipRequest, matter: Matter, repeats: int, folder: Path) -> dict[str, Any]:
    cores = usable_cores()
    network = Network(matter, None)
    runs = [one_run(clip, job, network, cores, folder) for _ in range(repeats)]
    stages = {
        stage: {
            "frames_per_second": statistics.median(run["rate"][stage] for run in runs),
            "processor_ms_per_frame": statistics.median(run["processor_ms"][stage] for run in runs),
        }
        for stage in STAGES
        if runs[0]["rate"][stage] is not None
    }
    return {
        "clip": {"size": open_source(clip, job).info.size, "frames": runs[0]["frames"]},
        "job": {"output": job.output, "format": job.kind, "stabilised": job.is_stabilised},
        "cores": cores,
        "stages_alone": stages,
        "slowest": statistics.median(run["slowest"] for run in runs),
        "end_to_end": statistics.median(run["whole"] for run in runs),
        "end_to_end_spread": [min(run["whole"] for run in runs), max(run["whole"] for run in runs)],
        "of_the_slowest": statistics.median(run["whole"] / run["slowest"] for run in runs),
        "of_the_possible": statistics.median(run["whole"] / run["possible"] for run in runs),
    }


def one_run(clip: Path, job: ClipRequest, network: Network, cores: int, folder: Path) -> dict[str, Any]:
    """Time every stage alone and then the whole, on the same machine."""
    rate: dict[str, float | None] = {}
    processor: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any], frames: int) -> Any:
        clock, cpu = time.perf_counter(), time.process_time()
        result = work()
        rate[stage] = frames / (time.perf_counter() - clock)
        processor[stage] = 1000 * (time.process_time() - cpu) / frames
        return result

    def every(work: Callable[[Any], Any], values: list[Any]) -> list[Any]:
        with ThreadPoolExecutor(cores) as pool:
            return [result for _, result in in_order(pool, work, iterate(values), cores + 1)]

    with open_source(clip, job) as source, opencv_threads(1 if cores > 1 else None):
        total = source.info.frames or 1
        kept = timed("decode", lambda: [f for f in source.frames() if f.number <= 24], total)
        dtype = np.uint16 if job.kind == "prores" else np.uint8
        mattes = timed(
            "network", lambda: every(lambda f: with_alpha(network(f.photo.pixels), dtype), kept), len(kept)
        )
        frame_job = replace(job, bit_depth=8 * np.dtype(dtype).itemsize)
        pairs = list(zip(kept, mattes, strict=True))
        images = timed(
            "picture", lambda: every(lambda p: render(p[0].photo, p[1], frame_job), pairs), len(kept)
        )
        sink = open_sink(folder / f"alone{CLIP_FORMATS[job.kind]}", source, job)

        def encode() -> None:
            for (frame, _), prepared in zip(
                zip(kept, images, strict=True),
                every(lambda p: sink.prepare(*p), list(zip(kept, images, strict=True))),
                strict=True,
            ):
                sink.write(frame, prepared)
            sink.finish([])

        timed("encode", encode, len(kept))
    if job.output == "alpha":
        rate["picture"] = None
        processor["picture"] = 0.0
    item = Item(clip, folder / f"whole{CLIP_FORMATS[job.kind]}", True)
    clock = time.perf_counter()
    frames = list(matte_clip(item, network, job, cores))
    whole = len(frames) / (time.perf_counter() - clock)
    slowest = min(value for value in rate.values() if value is not None)
    possible = min(slowest, 1000 * cores / sum(processor.values()))
    return {
        "frames": len(frames),
        "rate": rate,
        "processor_ms": processor,
        "whole": whole,
        "slowest": slowest,
        "possible": possible,
    }


def with_alpha(matte: Any, dtype: type) -> Any:
    """Compute full-size alpha in the network's stage, for the later stages to use."""
    matte.given_alpha = matte.alpha_as(dtype)
    return matte


def iterate(values: list[Any]) -> Iterator[Any]:
    yield from values


def memory(photo: Path, size: tuple[int, int], seconds: tuple[int, int], folder: Path) -> dict[str, Any]:
    """Measure the command's peak memory on two clips that only differ in length."""
    peaks = {}
    for length in seconds:
        clip = draw(photo, folder / f"{length}s.mp4", size, int(length * RATE))
        command = [sys.executable, "-m", "stylematte_cli", "matte", str(clip), "--out", str(folder / "out")]
        before = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{clip}: the command failed")
        peaks[length] = {
            "peak_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
            "frames_per_second": int(length * RATE) / (time.perf_counter() - before),
        }
        clip.unlink()
    values = [peak["peak_mb"] for peak in peaks.values()]
    return {"size": size, "seconds": peaks, "ratio": values[1] / values[0]}


if __name__ == "__main__":
    main()
