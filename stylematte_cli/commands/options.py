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
        help="Where the network runs; a device named is had or fails.",
    ),
]
ENGINES = "auto|onnx|tensorrt"
Engine = Annotated[str, typer.Option("--engine", metavar=ENGINES, help="What runs the network.")]
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
