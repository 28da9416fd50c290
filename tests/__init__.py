"""Tests; the tool is imported before them, since ONNX Runtime then reports to nobody."""

import stylematte  # noqa: F401
