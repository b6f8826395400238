"""How close the openvino engine's answers are to exact ones: `python -m bench.quality`, and the figures for the tests."""
