"""Options that several commands share, and the log they ask for. Imports nothing but Typer."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Weights = Annotated[
    str,
    typer.Option("--weights", metavar="NAME|FILE", help="Model: a name of `stylematte models`, or a file."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]",
        help="Where the network runs; a device named is had or fails. OpenVINO: gpu, npu, too.",
    ),
]
ENGINES = "auto|onnx|openvino|tensorrt"
Engine = Annotated[str, typer.Option("--engine", metavar=ENGINES, help="What runs the network.")]
EnginePrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="auto|float32|bfloat16",
        help="What OpenVINO computes in; auto is float32.",
    ),
]
Policy = Annotated[
    str,
    typer.Option(
        "--policy",
        envvar="STYLEMATTE_POLICY",
        metavar="any|commercial",
        show_envvar=True,
        help="commercial: refuse weights whose licence does not clearly allow commercial use.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        min=32,
        max=4096,
        metavar="PX",
        help="Side of the square with as many pixels as the network sees; the model's own if not given.",
    ),
]
Detail = Annotated[
    str,
    typer.Option(
        "--detail",
        metavar="auto|off|max|MP",
        help="How much of hair and fur is looked at again at the photo's own size, in megapixels.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make finished files anew.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, metavar="", help="Say more on stderr."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")]

# Of the verbs that make networks and training data: train, synth and cycle.
BackboneWeights = Annotated[
    str,
    typer.Option(
        "--backbone-weights",
        metavar="hub|FILE|none",
        help="Pretrained encoder; if not given, the hub's where the network has some there, else none.",
    ),
]
Mattes = Annotated[
    Path | None,
    typer.Option(
        "--mattes", metavar="DIR", help="Mattes solved from masks, shared by runs; OUT/mattes if not given."
    ),
]
Detector = Annotated[
    str,
    typer.Option(
        "--detector", metavar="NAME|FILE|none", help="Scores a generator's pictures, see `stylematte fid`."
    ),
]
LoaderWorkers = Annotated[int, typer.Option("--workers", min=0, help="Processes that prepare pictures.")]
StepsBetween = Annotated[
    int | None,
    typer.Option(
        "--every",
        min=1,
        help="Steps between scores, previews and saved states; 500 if not given, or the recipe's.",
    ),
]
Truncation = Annotated[
    str,
    typer.Option(
        "--truncation",
        metavar="T|LOW:HIGH",
        help="How far from the mean picture, -1 to 1: less is safer and more alike. Of a range, each "
        "picture has its own, and none within 0.1 of 0.",
    ),
]
Count = Annotated[
    int,
    typer.Option("--n", min=1, metavar="N", help="Generated pictures to keep; more than before go on."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", min=0.0001, max=1, help="Of the filter: greatest mean difference of alpha; 0.05."
    ),
]


def start_log(verbose: int = 0, quiet: bool = False) -> None:
    """Send the tool's log to stderr: warnings alone when quiet, decisions by default, everything with -v."""
    log = logging.getLogger("stylematte")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("stylematte: %(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout, readable by people too."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
