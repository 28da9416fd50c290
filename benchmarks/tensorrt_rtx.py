"""Check that TensorRT accepts our files: TensorRT-RTX parses and builds them without a GPU or driver.

    pip install onnx tensorrt-rtx-cu13-bindings==1.7.1.116 onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0
    python benchmarks/tensorrt_rtx.py MODEL.onnx… [--side 512]

Use a separate virtual environment: the packages are 150 MB, for x86-64. TensorRT-RTX shares its ONNX parser
with the TensorRT that `stylematte export --format tensorrt` uses; its engines are for other GPUs, and are
discarded. The guided filter is in standard operators, as in files for general use.
"""

import argparse
import ctypes
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import onnx

CARD = "SM89"  # any architecture that RTX supports


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument(
        "--side", type=int, default=512, help="of the working size; of the guide, four times it"
    )
    arguments = parser.parse_args()
    spec = find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if spec is None or spec.origin is None or find_spec("tensorrt_rtx_bindings") is None:
        print("TensorRT-RTX is not installed; the first lines of --help say how", file=sys.stderr)
        return 4
    libraries = Path(spec.origin).parent
    for name in ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"):
        library = next(libraries.glob(f"{name}*"))  # some wheels put the full version into the name
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return max(build(path, arguments.side) for path in arguments.models)


def build(path: Path, side: int) -> int:
    """Parse and build one file; returns 0, or 5 after printing TensorRT's errors."""
    import tensorrt_rtx_bindings as trt

    model = onnx.load(path)
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        print(f"{path}: " + "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
        return 5
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, CARD), 0)
    profile = builder.create_optimization_profile()
    fixed = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][2:]
    height, width = fixed if all(fixed) else (side, side)
    profile.set_shape("image", *[(1, 3, height, width)] * 3)
    if any(port.name == "prior" for port in model.graph.input):
        profile.set_shape("prior", *[(1, 1, height, width)] * 3)
    profile.set_shape("guide", (1, 3, 1, 1), (1, 3, 4 * height, 4 * width), (1, 3, 4096, 4096))
    config.add_optimization_profile(profile)
    began = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        print(f"{path}: parsed, {network.num_layers} layers, and not built")
        return 5
    seconds = time.perf_counter() - began
    size_mb = engine.nbytes / 1e6
    print(f"{path}: {network.num_layers} layers, built for {CARD} in {seconds:.1f} s, {size_mb:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
