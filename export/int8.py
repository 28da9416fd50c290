"""Quantise to 8-bit integers: calibrated on photos, per-channel weights, sensitive layers in float32."""

import itertools
import logging
import math
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from export.branches import ancestors, sort_nodes
from export.contract import Float, feed
from export.precision import SENSITIVE, set_metadata
from stylematte.errors import EngineError, InputError

FEWEST_PHOTOS, MOST_PHOTOS = 16, 64
PROOF_SHARE = 4  # one photo in 4 checks an int8 file's parity; the others calibrate it
RANGE_PHOTOS = 8  # photos that `coarse_layers` measures
# U²-NetP's alphas change by 0.002 on average with 32 and 28 dB, and by 0.08 with 26.
LEAST_DB = 32.0
_QUANTISED_OPS = ["Conv", "MatMul", "Gemm", "Add", "Relu", "Clip", "Resize"]


def split_photos(images: dict[str, Float], where: Path) -> tuple[dict[str, Float], list[Float]]:
    """Split photos into those that check an int8 file's parity, by name, and those that calibrate it.

    Raises:
        InputError: There are too few.
    """
    calibration = [photo for i, photo in enumerate(images.values()) if i % PROOF_SHARE]
    if len(calibration) < FEWEST_PHOTOS:
        raise InputError(
            f"{where}: {len(images)} photos, but int8 needs at least {fewest_photos()}: {FEWEST_PHOTOS} "
            f"for calibration, and one in {PROOF_SHARE} to check the result",
            "Give a larger folder as --photos",
        )
    return {name: p for i, (name, p) in enumerate(images.items()) if i % PROOF_SHARE == 0}, calibration


def fewest_photos() -> int:
    """Return how many photos int8 needs, for calibration and parity check together."""
    return next(n for n in itertools.count(1) if n - math.ceil(n / PROOF_SHARE) >= FEWEST_PHOTOS)


def to_int8(model: onnx.ModelProto, images: Sequence[Float]) -> onnx.ModelProto:
    """Convert a float32 contract file to int8, in QDQ (QuantizeLinear/DequantizeLinear) format.

    Activations are uint8 with a zero point, so that clipping at zero is free; weights are int8 with one
    scale per channel. The guide, the guided filter, the logits, `SENSITIVE` layers and `coarse_layers` stay
    float32.

    Args:
        model: Result of `export.onnx.export_onnx`; it is not changed.
        images: (3, h, w) float32 RGB in [0, 1] at working size, similar to those the file will be used on.

    Raises:
        InputError: Fewer than `FEWEST_PHOTOS` images.
        EngineError: ONNX Runtime cannot quantise this network.

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", 2018, eq. 1.
    """
    if len(images) < FEWEST_PHOTOS:
        raise InputError(
            f"{len(images)} photos are too few for int8 calibration; give at least {FEWEST_PHOTOS}"
        )
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    keep_float = {n.name for n in ancestors(model.graph, ["coarse_guide", "fine_guide"])}
    keep_float |= {n.name for n in model.graph.node if SENSITIVE.search(n.name)}
    keep_float |= coarse_layers(model, images[:RANGE_PHOTOS])
    with tempfile.TemporaryDirectory() as folder, _quiet_root_log():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        try:
            quantize_static(
                source,
                target,
                _Reader(model, images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_QUANTISED_OPS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(keep_float),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"MatMulConstBOnly": True},
            )
        except OSError:
            raise
        except Exception as error:  # the quantiser documents no exception types
            raise EngineError(f"ONNX Runtime cannot quantise this network: {error}") from error
        result = onnx.load(target)
    sort_nodes(result.graph)  # the quantiser's order does not consider branches
    del result.graph.value_info[:]
    del result.metadata_props[:]  # the quantiser adds its own entry
    result.metadata_props.extend(model.metadata_props)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    set_metadata(result, "precision", "int8")
    onnx.checker.check_model(result, full_check=True)
    return result


def coarse_layers(model: onnx.ModelProto, images: Sequence[Float], least_db: float = LEAST_DB) -> set[str]:
    """Find layers whose input or output would lose too much to 256 steps between its extremes.

    A few outliers stretch the steps until most values fall into a few of them. The measure is the ratio of a
    tensor's variance to that of the rounding error, step² / 12.

    Args:
        model: As for `to_int8`.
        images: Likewise; a few are enough.
        least_db: Smallest ratio of a layer that is quantised, in dB.

    Returns:
        Names of convolutions, matrix products, and what is quantised between them.

    Reference:
        Widrow, Kollár, "Quantization Noise", 2008: the variance of uniform rounding.
    """
    import onnxruntime

    layers, fused = _touched(model)
    tensors = sorted(set().union(*layers.values()))
    measured = _with_ranges(model, tensors)
    session = onnxruntime.InferenceSession(measured.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [port.name for port in model.graph.input]
    found = np.asarray([session.run(None, feed(inputs, image[None])) for image in images], np.float64)
    low, high, mean, square = found.reshape(len(images), len(tensors), 4).transpose(2, 0, 1)
    low, high = low.min(0).clip(max=0), high.max(0).clip(min=0)  # the steps include zero
    variance = (square.mean(0) - mean.mean(0) ** 2).clip(min=0)
    noise = ((high - low) / 255) ** 2 / 12
    is_coarse = dict(zip(tensors, variance < noise * 10 ** (least_db / 10), strict=True))
    coarse = {name for name, touched in layers.items() if any(is_coarse[tensor] for tensor in touched)}
    return coarse | {activation for activation, layer in fused.items() if layer in coarse}


def _touched(model: onnx.ModelProto) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Return the layers that the quantiser treats, with the tensors that it stores in 8 bits for each.

    Also each activation function that it fuses with the layer before, and that layer: what lies between is
    not stored.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name for tensor in graph.initializer}
    layers: dict[str, set[str]] = {}
    fused: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in _QUANTISED_OPS or node.name in fused:
            continue
        if kinds.get(node.output[0], onnx.TensorProto.FLOAT) != onnx.TensorProto.FLOAT:  # sizes
            continue
        after, output = readers.get(node.output[0], []), node.output[0]
        if len(after) == 1 and after[0].op_type in ("Relu", "Clip"):
            output = after[0].output[0]
            fused[after[0].name] = node.name
        activations = node.input if node.op_type == "Add" else node.input[:1]
        layers[node.name] = {output, *(name for name in activations if name not in constants)}
    return layers, fused


def _with_ranges(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a copy whose outputs are the minimum, maximum, mean and mean square of each tensor."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.output[:]
    for name in tensors:
        square = f"{name}/square"
        result.graph.node.append(helper.make_node("Mul", [name, name], [square]))
        for kind, source in (("Min", name), ("Max", name), ("Mean", name), ("Mean", square)):
            output = f"{source}/{kind}"
            result.graph.node.append(helper.make_node(f"Reduce{kind}", [source], [output], keepdims=0))
            result.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    return result


class _Reader:
    """Reader of calibration data for the quantiser: one image at a time.

    Nothing that is quantised depends on a prior, so none is given.
    """

    def __init__(self, model: onnx.ModelProto, images: Sequence[Float]) -> None:
        names = [port.name for port in model.graph.input]
        self._feeds = (feed(names, image[None]) for image in images)

    def get_next(self) -> dict[str, Float] | None:
        return next(self._feeds, None)


@contextmanager
def _quiet_root_log():
    """Hide the quantiser's advice on the root logger to run a step that this exporter has already done."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
