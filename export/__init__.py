"""Trained weights become files that other programs run, each proven against what it was made from."""

import os

# See `stylematte_cli`: this package imports ONNX Runtime, too, and knows nothing of the tool.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"
