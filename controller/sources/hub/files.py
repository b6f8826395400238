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
_GGUF_SHARD = re.compile(r"-\d{5}-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)
_MOST_LISTED = 20
# The first one that a repository has is taken: good ones that are small, then wider ones, then those that cost quality.
_GGUF_PREFERENCE = (
    *("q4_k_m", "q4_k_xl", "q4_k_l", "q4_k_s", "q4_0", "q4_1", "iq4_nl", "iq4_xs", "mxfp4_moe", "mxfp4"),
    *(
        "q5_k_m",
        "q5_k_xl",
        "q5_k_l",
        "q5_k_s",
        "q5_0",
        "q5_1",
        "q6_k",
        "q6_k_l",
        "q6_k_xl",
        "q8_0",
        "q8_k_xl",
        "bf16",
        "f16",
        "f32",
    ),
    *(
        "q3_k_xl",
        "q3_k_l",
        "q3_k_m",
        "q3_k_s",
        "iq3_m",
        "iq3_s",
        "iq3_xs",
        "iq3_xxs",
        "q2_k_xl",
        "q2_k",
        "iq2_m",
        "iq2_s",
    ),
)
_GGUF_QUANT = re.compile(
    r"(?:^|[-_./])((?:ud-)?(?:i?q\d[a-z0-9_]*|tq\d_\d|bf16|f16|f32|mxfp4(?:_moe)?))(?=[-./]|$)", re.IGNORECASE
)


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
        selection = _safetensors(names) or _gguf(label, names) or _ir(names)
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


def _gguf(label: str, names: set[str]) -> set[str]:
    """Return one quantisation with all its shards: the first one that exists in a fixed order, Q4_K_M before others.

    Raises SourceError if it is not clear which file that is.
    """
    candidates = _ggufs(names)
    # Files in folders are parts of a large model, or variants: those beside the description come first.
    candidates = [name for name in candidates if "/" not in name] or candidates
    best = min(map(_gguf_rank, candidates), default=0)
    return _one_group(label, [name for name in candidates if _gguf_rank(name) == best]) if candidates else set()


def _named_gguf(label: str, names: set[str], file: str | None, quant: str | None) -> set[str]:
    """Return the file of this name or quantisation with all its shards. Raises SourceError that lists what there is."""
    candidates = _ggufs(names)
    if file is not None:
        groups = {_GGUF_SHARD.sub("", file)} if file in candidates else set()
        matches = [name for name in candidates if _GGUF_SHARD.sub("", name) in groups]
    else:
        wish = (quant or "").lower()
        matches = [name for name in candidates if wish in (_quant(name), _quant(name).removeprefix("ud-"))]
    if not matches:
        have = f"It has {_list(candidates)}." if candidates else "It has no .gguf file of a model."
        what = weights.gguf_addition(file) if file in names else None
        wrong = f"{label} is no model, but {what}." if what else f"{label} has no such file."
        raise SourceError(f"{wrong} {have}")
    return _one_group(label, matches)


def _ggufs(names: set[str]) -> list[str]:
    return weights.gguf_models(name for name in names if _GGUF.fullmatch(name))


def _one_group(label: str, matches: list[str]) -> set[str]:
    """Return the file with all its shards. Raises SourceError if these are several models, or a shard is missing."""
    groups = {_GGUF_SHARD.sub("", name) for name in matches}
    if len(groups) > 1:
        raise SourceError(f"{label} has several such files: {_list(matches)}. Name one: hf://owner/name/file.gguf")
    shards = [(name, match) for name in matches if (match := _GGUF_SHARD.search(name))]
    if shards and len(shards) != int(shards[0][1][1]):
        raise SourceError(f"{label} has only {len(shards)} of the {int(shards[0][1][1])} parts of {groups.pop()}.")
    return {name for name, _ in shards} or set(matches)


def _list(names: list[str]) -> str:
    return ", ".join(sorted({_GGUF_SHARD.sub("", name) for name in names})[:_MOST_LISTED])


def _quant(name: str) -> str:
    """Return the quantisation in a file's name, in small letters; empty if it names none."""
    words = _GGUF_QUANT.findall(_GGUF_SHARD.sub("", name).removesuffix(".gguf").removesuffix(".GGUF"))
    return str(words[-1]).lower() if words else ""


def _gguf_rank(name: str) -> int:
    quant = _quant(name).removeprefix("ud-")
    return _GGUF_PREFERENCE.index(quant) if quant in _GGUF_PREFERENCE else len(_GGUF_PREFERENCE)


def _no_weights(label: str, names: set[str]) -> str:
    pickles = sorted(name for name in names if weights.is_pickle(name, names))
    if pickles:
        return f"{label} has no .safetensors and no .gguf file. " + weights.refusal(pickles[0])
    return f"{label} has no .safetensors and no .gguf file. Choose a repository that has the model's weights."
