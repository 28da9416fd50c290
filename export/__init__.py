"""Trained weights become files that other programs run, each proven against what it was made from."""

import stylematte  # noqa: F401  # tells ONNX Runtime to report to nobody, before anything here imports it
