"""`stylematte export`: convert trained weights to a model file, with a parity check."""

import json
import logging
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylematte.errors import InputError, UsageError
from stylematte.licences import check_policy
from stylematte.weights import check_allowed, check_name, find_trained
from stylematte_cli.commands import export_engine, export_model, options
from stylematte_cli.commands.toolkit import require

if TYPE_CHECKING:
    from export.precision import Precision
    from models.presets import Preset

log = logging.getLogger("stylematte")


@dataclass(frozen=True)
class ExportOptions:
    """Properties of the ONNX file."""

    precision: "Precision"
    size: int | None
    fixed_size: tuple[int, int] | None
    name: str
    licence: str
    prior: bool


def export(
    out: options.Out = Path("engines"),
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="NAME|FILE",
            help="Trained weights: nano or a .safetensors file. A model file, such as an imported one, can "
            "be converted to another precision or an engine.",
        ),
    ] = "nano",
    kind: Annotated[
        Literal["onnx", "tensorrt"],
        typer.Option("--format", help="Output format; tensorrt also builds an engine."),
    ] = "onnx",
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Use float16, which halves the size, for GPUs.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Use bfloat16, for GPUs where float16 overflows.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise to 8 bits, calibrated on --photos, for CPUs with VNNI.")
    ] = False,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            metavar="DIR",
            help="Photos for the parity check and for int8 calibration (default: two bundled photos).",
        ),
    ] = None,
    size: options.Size = None,
    fixed_size: Annotated[
        str | None,
        typer.Option("--fixed-size", metavar="HxW", help="Fix the network's input to this height and width."),
    ] = None,
    prior: Annotated[
        bool,
        typer.Option(
            "--prior/--no-prior",
            help="Keep the input prior. Omit it for runtimes that do not run If correctly.",
        ),
    ] = True,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=64, metavar="N", help="Largest batch size of an engine.")
    ] = 4,
    device: options.Device = "auto",
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="With --format tensorrt: write only what needs no GPU.")
    ] = False,
    name: Annotated[
        str, typer.Option("--name", help="Name of the model (default: the name of its weights file).")
    ] = "",
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the weights, to write into the file.")
    ] = "",
    policy: options.Policy = "any",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Convert trained weights to a model file, and check it.

    Writes DIR/<name>.onnx, a self-contained file, and its model card DIR/<name>.json. With a precision, the
    file is DIR/<name>_<precision>.onnx. If <name>_refiner.safetensors lies beside the weights, the command
    also writes DIR/<name>_refiner.onnx. With --format tensorrt it also writes DIR/<name>.<key>.engine, which
    only works with this GPU, and its sidecar. Every file's alphas are compared with its source's; a file that
    differs is not kept.
    """
    options.start_log(quiet=quiet or as_json)
    precision = _precision(fp16, bf16, int8, photos)
    wanted = ExportOptions(precision, size, _read_size(fixed_size), name, licence, prior)
    if name:
        check_name(name)
    if licence:
        check_policy(policy, weights, licence)
    else:
        check_allowed(policy, weights)
    is_engine, is_onnx = kind == "tensorrt", weights.endswith(".onnx")
    if is_engine:
        given = {f"--{wanted.precision}": wanted.precision != "fp32", "--fixed-size": fixed_size is not None}
        given |= {"--name": bool(name), "--licence": bool(licence)}
        unusable = [option for option, is_given in given.items() if is_given and is_onnx]
        export_engine.check(wanted.precision, unusable, plan_only, device)
    elif plan_only:
        raise UsageError("--plan-only needs --format tensorrt", "Give both or neither")
    lines: list[str] = []
    facts: dict[str, Any] = {}
    if not is_engine and export_model.is_model(weights):
        if size is not None or fixed_size is not None or licence or not prior:
            raise UsageError(
                "--size, --fixed-size, --licence and --no-prior are for trained weights", "Omit them"
            )
        how = wanted.precision, photos, name, overwrite, lines
        target, facts = export_model.convert_model(weights, out, *how)
    elif is_engine and is_onnx:
        target = export_engine.given_model(Path(weights), out, overwrite)
    else:
        target, facts = _make_onnx(weights, out, wanted, photos, overwrite, is_engine, lines)
    if is_engine:
        facts |= export_engine.make(target, size, batch_size, device, photos, plan_only, overwrite, lines)
    if as_json:
        options.print_json({"file": str(target), **facts})
    elif not quiet:
        lines.append(f"next: stylematte matte ./photos --out ./alphas --weights {shlex.quote(str(target))}")
        typer.echo("\n".join(lines))


def _make_onnx(
    weights: str,
    out: Path,
    wanted: ExportOptions,
    photos: Path | None,
    overwrite: bool,
    may_exist: bool,
    lines: list[str],
) -> tuple[Path, dict[str, Any]]:
    """Write the ONNX file and its model card; returns facts for --json and adds output to `lines`."""
    from stylematte.files import sha256_of
    from stylematte.weights import REFINER, read_card

    source = find_trained(weights)
    base = wanted.name or source.stem
    name = base if wanted.precision == "fp32" else f"{base}_{wanted.precision}"
    target = out / f"{name}.onnx"
    if target.exists() and not overwrite:
        if not may_exist:
            raise InputError(f"{target} already exists", "Give --overwrite, or another --out")
        _check_matches(target, source, wanted)
        log.info("using the existing %s; --overwrite exports it again", target)
        return target, {}
    require("torch", "onnx", "onnxscript", extra="train")
    require("onnxruntime", extra="cpu")
    from export.build import build_onnx
    from export.onnx import Origin, save_onnx
    from models.checkpoints import load_weights
    from stylematte import __version__

    network, provenance = load_weights(source)
    card = read_card(source)
    licence = wanted.licence or card.get("licence", "")
    if not licence:
        log.warning("%s states no licence, so the model will state none; give one with --licence", source)
    # The weights take precedence: their card may be older.
    provenance = provenance or card.get("provenance", {})
    log.info("exporting %s (%s, %s) …", source, network.preset.name, wanted.precision)
    origin = Origin(sha256_of(source), __version__, licence, provenance)
    sizes = wanted.size, wanted.fixed_size
    built = build_onnx(network, origin, wanted.precision, photos, *sizes, prior=wanted.prior)
    _save_refiner(source, out / f"{base}{REFINER}.onnx", built.model, licence, lines)
    save_onnx(built.model, target)
    facts = {
        "name": name,
        "file": target.name,
        "sha256": sha256_of(target),
        "bytes": target.stat().st_size,
        "licence": licence,
        "summary": card.get("summary", ""),
        "provenance": provenance,
        "precision": wanted.precision,
    }
    if built.calibration_photos:
        facts["calibration_photos"] = built.calibration_photos
    _write_card(target, facts)
    lines.append(export_model.describe(target, built.parity))
    return target, {"sha256": facts["sha256"], "parity": built.parity.as_dict()}


def _save_refiner(source: Path, target: Path, model: Any, licence: str, lines: list[str]) -> None:
    """Export the refiner beside the weights, if there is one, and name it in the model."""
    from stylematte import __version__
    from stylematte.files import sha256_of
    from stylematte.weights import REFINER, TRAINING, read_card

    refiner = source.with_name(f"{source.stem}{REFINER}{TRAINING}")
    if not refiner.is_file():
        return
    from export.onnx import Origin
    from export.refiner import save_beside

    origin = Origin(sha256_of(refiner), __version__, licence, read_card(refiner).get("provenance", {}))
    save_beside(model, refiner, target, origin)
    lines.append(f"{target}: refines hair and fur; keep it beside the model")


def _check_matches(target: Path, source: Path, wanted: ExportOptions) -> None:
    """Check that an existing model file is the one that would be exported.

    Raises:
        InputError: It has other weights or properties.
    """
    from stylematte.files import sha256_of

    require("onnx", "safetensors", extra="train")
    from export.parity import takes_prior

    model = export_engine.read_model(target)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    fixed = "any" if wanted.fixed_size is None else "{}x{}".format(*wanted.fixed_size)
    preset = _preset_of(source)
    has_to_be = {
        "weights_sha256": sha256_of(source),
        "precision": wanted.precision,
        "working_size": str(wanted.size or preset.working_size),
        "working_sizes": fixed,
    }
    if wanted.licence:
        has_to_be["licence"] = wanted.licence
    there_is = {key: metadata.get(f"stylematte.{key}") or "any" for key in has_to_be}
    has_to_be["input prior"] = "yes" if preset.prior and wanted.prior else "no"
    there_is["input prior"] = "yes" if takes_prior(model) else "no"
    called = {"weights_sha256": "weights", "working_size": "size", "working_sizes": "fixed size"}
    different = [
        f"{called.get(key, key)} {there_is[key][:12]}, not {value[:12]}"
        for key, value in has_to_be.items()
        if there_is[key] != value
    ]
    if different:
        raise InputError(
            f"{target} already exists and is another model: {'; '.join(different)}",
            "Give --overwrite to replace it, or another --out",
        )


def _preset_of(source: Path) -> "Preset":
    """Return the preset of the weights' network."""
    from models.presets import preset_of
    from stylematte.weights import read_metadata

    try:
        return preset_of(read_metadata(source))
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None


def _write_card(target: Path, facts: dict[str, Any]) -> None:
    from stylematte.files import write_bytes

    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_bytes(target.with_suffix(".json"), text.encode())


def _precision(fp16: bool, bf16: bool, int8: bool, photos: Path | None) -> "Precision":
    """Read the three flags, of which at most one may be given."""
    flags: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "int8": int8}
    asked = [precision for precision, is_asked in flags.items() if is_asked]
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} exclude each other", "Run export once for each")
    if int8 and photos is None:
        raise UsageError(
            "--int8 needs --photos DIR for calibration",
            "Give a folder of photos similar to those you will matte",
        )
    return asked[0] if asked else "fp32"


def _read_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if match is None:
        raise UsageError(
            f"--fixed-size {text!r} is not a size", "Give height and width: --fixed-size 480x640"
        )
    return int(match[1]), int(match[2])
