"""How close the answers of the openvino engine are to exact ones: `python -m bench.quality`; also for the tests."""
