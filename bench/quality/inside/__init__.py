"""The parts that run in the runner's images: each reads JSON on stdin and prints JSON as its last line."""
