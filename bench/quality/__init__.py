"""How close the openvino engine's answers are to exact ones: `python -m bench.quality`, and figures for the tests."""
