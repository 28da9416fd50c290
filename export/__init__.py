"""Convert trained weights to files that other programs run; each is compared with its source."""

import stylematte  # noqa: F401  # turns off ONNX Runtime's telemetry before anything here imports it
