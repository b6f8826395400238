"""Our own matrix products for OpenVINO, compiled into one library when the image is built."""

from __future__ import annotations

from pathlib import Path

# In a prepared model's config.json: the graph names our operations.
OWN_PRODUCTS = "orchestrar_kernels"
LIBRARY = Path(__file__).with_name("libkernels.so")
