"""Options that several commands share, alone or in groups, and the log they ask for. Light to import."""

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

Detector = Annotated[
    str,
    typer.Option(
        "--detector", metavar="NAME|FILE|none", help="Scores a generator's pictures, see `stylematte fid`."
    ),
]
Count = Annotated[
    int,
    typer.Option("--n", min=1, metavar="N", help="Generated pictures to keep; more than before go on."),
]


@dataclass(frozen=True)
class Output:
    """How a command speaks."""

    quiet: Quiet = False
    as_json: Json = False


@dataclass(frozen=True)
class ModelOptions:
    """Which model mattes, and how it runs."""

    weights: Weights = "nano"
    engine: Engine = "auto"
    device: Device = "auto"
    precision: EnginePrecision = "auto"
    policy: Policy = "any"
    size: Size = None
    detail: Detail = "auto"

    def open(self, lanes: int) -> "Matter":
        """Open the model for as many threads as there are lanes."""
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
    """Which generated pictures are kept: of synth and cycle."""

    count: Count = 100
    truncation: Annotated[
        str,
        typer.Option(
            "--truncation",
            metavar="T|LOW:HIGH",
            help="How far from the mean picture, -1 to 1: less is safer and more alike. Of a range, each "
            "picture has its own, and none within 0.1 of 0.",
        ),
    ] = "0.7"
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", min=0.0001, max=1, help="Of the filter: greatest mean difference of alpha; 0.05."
        ),
    ] = None


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
