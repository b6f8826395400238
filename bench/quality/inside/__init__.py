"""What runs in the runner's images: each module reads JSON on stdin and prints JSON as its last line."""
