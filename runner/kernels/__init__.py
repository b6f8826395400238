"""Our own matrix products for OpenVINO; building the image compiles them into one library."""

from __future__ import annotations

from pathlib import Path

# The key in a prepared model's config.json that says that the graph uses our operations.
OWN_PRODUCTS = "orchestrar_kernels"
LIBRARY = Path(__file__).with_name("libkernels.so")
