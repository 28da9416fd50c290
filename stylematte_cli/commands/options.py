"""Options that several commands share, and the log. This module must be quick to import."""

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from stylematte.matter import Matter

Weights = Annotated[
    str,
    typer.Option(
        "--weights", metavar="NAME|FILE", help="Model: a name listed by `stylematte models`, or a file."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]",
        help="Device of the network. A named device that is unavailable is an error. OpenVINO also accepts "
        "gpu and npu.",
    ),
]
ENGINES = "auto|onnx|openvino|tensorrt"
Engine = Annotated[str, typer.Option("--engine", metavar=ENGINES, help="Runtime of the network.")]
EnginePrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="auto|float32|bfloat16",
        help="Precision of OpenVINO; auto uses float32.",
    ),
]
Policy = Annotated[
    str,
    typer.Option(
        "--policy",
        envvar="STYLEMATTE_POLICY",
        metavar="any|commercial",
        show_envvar=True,
        help="With commercial, refuse weights whose licence does not clearly allow commercial use.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        min=32,
        max=4096,
        metavar="PX",
        help="Side of a square with as many pixels as the network's input (default: the model's).",
    ),
]
Detail = Annotated[
    str,
    typer.Option(
        "--detail",
        metavar="auto|off|max|MP",
        help="How many megapixels of hair and fur to refine at full resolution. Unless off, the network also "
        "looks closer at subjects that do not fill the photo.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing results.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, metavar="", help="Print more on stderr."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")]

Detector = Annotated[
    str,
    typer.Option(
        "--detector",
        metavar="NAME|FILE|none",
        help="Feature extractor for a generator's scores, see `stylematte fid`.",
    ),
]
Count = Annotated[
    int,
    typer.Option(
        "--n", min=1, metavar="N", help="Number of generated images to keep; a larger number adds images."
    ),
]


@dataclass(frozen=True)
class Output:
    """Output of a command."""

    quiet: Quiet = False
    as_json: Json = False


@dataclass(frozen=True)
class ModelOptions:
    """The matting model and how to run it."""

    weights: Weights = "nano"
    engine: Engine = "auto"
    device: Device = "auto"
    precision: EnginePrecision = "auto"
    policy: Policy = "any"
    size: Size = None
    detail: Detail = "auto"

    def open(self, lanes: int) -> "Matter":
        """Open the model for a number of threads (lanes)."""
        import stylematte
        from stylematte.licences import check_policy

        matter = stylematte.load(
            self.weights,
            device=self.device,
            engine=self.engine,
            size=self.size,
            detail=self.detail,
            lanes=lanes,
            precision=self.precision,
        )
        check_policy(self.policy, self.weights, matter.engine.contract.licence)
        return matter


@dataclass(frozen=True)
class Synthetic:
    """Number, truncation and filter threshold of generated images, for synth and cycle."""

    count: Count = 100
    truncation: Annotated[
        str,
        typer.Option(
            "--truncation",
            metavar="T|LOW:HIGH",
            help="Truncation ψ from -1 to 1; values near 0 give better but less varied images. With a range, "
            "each image gets its own value, outside of -0.1 to 0.1.",
        ),
    ] = "0.7"
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0.0001,
            max=1,
            help="Largest mean alpha difference that the filter keeps (default: 0.05).",
        ),
    ] = None


def start_log(verbose: int = 0, quiet: bool = False) -> None:
    """Send the log to stderr: only warnings if quiet, decisions by default, everything with -v."""
    log = logging.getLogger("stylematte")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("stylematte: %(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def print_json(value: dict[str, Any]) -> None:
    """Print one indented JSON object on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
