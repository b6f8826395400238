"""The choice of files in a hub repository: only data, and only what a model needs."""

from __future__ import annotations

import re

from huggingface_hub.hf_api import RepoSibling

from controller.errors import SourceError
from controller.sources import weights

_TEXTS = re.compile(
    r"[^/.][^/]*\.(json|jinja|txt|model|tiktoken)|LICENSE[^/]*|(additional_)?chat_templates/[^/.][^/]*\.jinja"
)
_MODULE_FOLDER = re.compile(r"\d+_[A-Za-z]+/[^/.][^/]*\.(json|safetensors)")
_SAFETENSORS = re.compile(r"[^/.][^/]*\.safetensors")
_CANONICAL = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_IR_FILE = re.compile(r"openvino_(model|tokenizer|detokenizer)\.(xml|bin)")
_GGUF = re.compile(r"([^/.][^/]*/)*[^/.][^/]*\.gguf", re.IGNORECASE)
_GGUF_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)", re.IGNORECASE)
_MOST_LISTED = 20
_GGUF_PREFERENCE = ("q4_k_m", "q4_0", "q4_1", "q5_k_m", "q6_k", "q8_0", "bf16", "f16", "f32")


def choose(
    label: str, siblings: list[RepoSibling], *, file: str | None = None, quant: str | None = None
) -> list[RepoSibling]:
    """Return the files to fetch, small ones first: those of this file or quantisation, or of the first that exists.

    Raises SourceError if there is no such file, or if no weights are in a data format.
    """
    by_name = {file.rfilename: file for file in siblings if file.rfilename.isprintable() and "\\" not in file.rfilename}
    names = set(by_name)
    if file is not None or quant is not None:
        selection = _named_gguf(label, names, file, quant)
    else:
        selection = _safetensors(names) or _gguf(names) or _ir(names)
    if not selection:
        raise SourceError(_no_weights(label, names))
    selection |= {name for name in names if _TEXTS.fullmatch(name) or _MODULE_FOLDER.fullmatch(name)}
    return sorted((by_name[name] for name in selection), key=lambda file: (file.size or 0, file.rfilename))


def _safetensors(names: set[str]) -> set[str]:
    """Return `model.safetensors` or its shards; without them other names, which else are copies of the same weights."""
    canonical = {name for name in names if _CANONICAL.fullmatch(name)}
    return canonical or {name for name in names if _SAFETENSORS.fullmatch(name)}


def _ir(names: set[str]) -> set[str]:
    """Return the files of OpenVINO's IR: .xml and .bin of the model, the tokenizer and the detokenizer."""
    pairs = {name for name in names if _IR_FILE.fullmatch(name)}
    return pairs if {"openvino_model.xml", "openvino_model.bin"} <= pairs else set()


def _gguf(names: set[str]) -> set[str]:
    """Return one quantisation with all its shards: the first one that exists in a fixed order, Q4_K_M before others."""
    candidates = _ggufs(names)
    # Files in folders are parts of a large model, or variants: those beside the description come first.
    candidates = [name for name in candidates if "/" not in name] or candidates
    return _shards(min(candidates, key=_gguf_rank), candidates) if candidates else set()


def _named_gguf(label: str, names: set[str], file: str | None, quant: str | None) -> set[str]:
    """Return the file of this name or quantisation with all its shards. Raises SourceError that lists what there is."""
    candidates = _ggufs(names)
    if file is not None:
        matches = [name for name in candidates if name == file]
    else:
        word = re.compile(rf"(?:^|[-_./]){re.escape(quant or '')}(?=[-./]|$)", re.IGNORECASE)
        matches = [name for name in candidates if word.search(_GGUF_SHARD.sub("", name))]
    if not matches:
        there_are = ", ".join(sorted({_GGUF_SHARD.sub("", name) for name in candidates})[:_MOST_LISTED])
        have = f"It has {there_are}." if candidates else "It has no .gguf file."
        raise SourceError(f"{label} has no such file. {have}")
    return _shards(min(matches, key=lambda name: (name.count("/"), len(name), name)), candidates)


def _ggufs(names: set[str]) -> list[str]:
    """Return the GGUF files with a language model: no part that sees, and no statistics for quantising."""
    others = ("mmproj", "imatrix")
    files = (name for name in names if _GGUF.fullmatch(name))
    return sorted(name for name in files if not name.rpartition("/")[2].lower().startswith(others))


def _shards(first: str, candidates: list[str]) -> set[str]:
    group = _GGUF_SHARD.sub("", first)
    return {name for name in candidates if _GGUF_SHARD.sub("", name) == group}


def _gguf_rank(name: str) -> tuple[int, str]:
    lower_name = name.lower()
    ranks = (rank for rank, kind in enumerate(_GGUF_PREFERENCE) if kind in lower_name)
    return next(ranks, len(_GGUF_PREFERENCE)), name


def _no_weights(label: str, names: set[str]) -> str:
    pickles = sorted(name for name in names if weights.is_pickle(name, names))
    if pickles:
        return f"{label} has no .safetensors and no .gguf file. " + weights.refusal(pickles[0])
    return f"{label} has no .safetensors and no .gguf file. Choose a repository that has the model's weights."
