"""Quantise to 8-bit integers: calibrated on photos, per-channel weights, sensitive layers in float32."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from export.contract import Float, feed
from export.parity import own_alpha, run_onnx, takes_prior
from export.precision import SENSITIVE, ancestors, set_metadata
from stylematte.errors import EngineError, InputError

FEWEST_PHOTOS, MOST_PHOTOS = 16, 64
_QUANTISED_OPS = ["Conv", "MatMul", "Gemm", "Add", "Relu", "Clip", "Resize"]


def to_int8(model: onnx.ModelProto, images: Sequence[Float]) -> onnx.ModelProto:
    """Convert a float32 contract file to int8, in QDQ (QuantizeLinear/DequantizeLinear) format.

    Activations are uint8 with a zero point, so that clipping at zero is free; weights are int8 with one
    scale per channel. The guide, the guided filter, the logits and `SENSITIVE` layers stay float32.

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
    del result.graph.value_info[:]
    del result.metadata_props[:]  # the quantiser adds its own entry
    result.metadata_props.extend(model.metadata_props)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    set_metadata(result, "precision", "int8")
    onnx.checker.check_model(result, full_check=True)
    return result


class _Reader:
    """Gives the quantiser the calibration images one by one.

    If the file takes a prior, every image is used twice, the second time with its own alpha: a prior may
    move a tensor further than any image does.
    """

    def __init__(self, model: onnx.ModelProto, images: Sequence[Float]) -> None:
        self._feeds = self._all_feeds(model, images)

    def get_next(self) -> dict[str, Float] | None:
        return next(self._feeds, None)

    @staticmethod
    def _all_feeds(model: onnx.ModelProto, images: Sequence[Float]) -> Iterator[dict[str, Float]]:
        names = [port.name for port in model.graph.input]
        run = run_onnx(model) if takes_prior(model) else None
        for image in images:
            yield feed(names, image[None])
            if run is not None:
                yield feed(names, image[None], prior=own_alpha(run, image[None]))


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
