"""Which GGUF file of a hub repository is taken, and why: the one that is named, or the best that fits into memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controller.errors import SourceError
from controller.sources import weights
from controller.sources.split_files import model_of, parts_of
from controller.sources.values import WeightsRoom
from controller.system.sizes import write_bytes

_GGUF = re.compile(r"([^/.][^/]*/)*[^/.][^/]*\.gguf", re.IGNORECASE)
_MOST_LISTED = 20
# The first one that a repository has is taken: good ones that are small, then wider ones, then those that cost quality.
_PREFERENCE = (
    *("q4_k_m", "q4_k_xl", "q4_k_l", "q4_k_s", "q4_0", "q4_1", "q4", "iq4_nl", "iq4_xs", "mxfp4_moe", "mxfp4"),
    *("q5_k_m", "q5_k_xl", "q5_k_l", "q5_k_s", "q5_0", "q5_1", "q5", "q6_k", "q6_k_l", "q6_k_xl", "q6"),
    *("q8_0", "q8_k_xl", "q8", "bf16", "f16", "f32"),
    *("q3_k_xl", "q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs"),
    *("q2_k_xl", "q2_k", "iq2_m", "iq2_s"),
)
_QUANT = re.compile(
    r"(?:^|[-_./])((?:ud-)?(?:i?q\d[a-z0-9_]*|tq\d_\d|bf16|fp?16|f32|mxfp4(?:_moe)?))(?=[-./]|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class Selection:
    """The names of a model's weights, and a sentence without a full stop that says why these; empty if all are."""

    names: frozenset[str]
    reason: str = ""


def best_gguf(
    label: str, sizes_bytes: Mapping[str, int], find_room: Callable[[], WeightsRoom | None]
) -> Selection | None:
    """Return the first quantisation in a fixed order, Q4_K_M before others, or the largest that fits into the room.

    None without a GGUF file. Raises SourceError if none fits, or if it is not clear which file that is.
    """
    candidates = _ggufs(sizes_bytes)
    # Files in folders are parts of a large model, or variants: those beside the description come first.
    candidates = [name for name in candidates if "/" not in name] or candidates
    if not candidates:
        return None
    best = min(map(_rank, candidates))
    first = _one_group(label, [name for name in candidates if _rank(name) == best])
    file = _describe(first, sizes_bytes)
    if len({model_of(name) for name in candidates}) == 1:
        return Selection(first, f"{file} is the only GGUF model of the repository")
    room = find_room()
    if room is None or _bytes(first, sizes_bytes) <= room.most_bytes:
        fits = "" if room is None else f", and fits into {room.bound}"
        return Selection(first, f"{file} comes first in the order of quantisations{fits}")
    smaller = _largest_that_fits(label, candidates, sizes_bytes, room)
    why = f"the largest that fits into {room.bound}; {file} comes first, but would not fit"
    return Selection(smaller, f"{_describe(smaller, sizes_bytes)} is {why}")


def named_gguf(label: str, sizes_bytes: Mapping[str, int], file: str | None, quant: str | None) -> Selection:
    """Return the file of this name or quantisation with all its shards. Raises SourceError that lists what there is."""
    candidates = _ggufs(sizes_bytes)
    if file is not None:
        matches = [name for name in candidates if model_of(name) == model_of(file)] if file in candidates else []
    else:
        wish = (quant or "").lower().replace("fp16", "f16")
        matches = [name for name in candidates if wish in (_quant(name), _quant(name).removeprefix("ud-"))]
    if not matches:
        have = f"It has {_list(candidates)}." if candidates else "It has no .gguf file of a model."
        what = weights.gguf_addition(file) if file is not None and file in sizes_bytes else None
        wrong = f"{label} is no model, but {what}." if what else f"{label} has no such file."
        raise SourceError(f"{wrong} {have}")
    names = _one_group(label, matches)
    return Selection(names, f"{_describe(names, sizes_bytes)} is the one that models.yaml names")


def _largest_that_fits(
    label: str, candidates: list[str], sizes_bytes: Mapping[str, int], room: WeightsRoom
) -> frozenset[str]:
    groups = {model_of(name): frozenset(n for n in candidates if model_of(n) == model_of(name)) for name in candidates}
    by_size = sorted(groups.values(), key=lambda names: (_bytes(names, sizes_bytes), -_rank(min(names)), min(names)))
    fitting = [names for names in by_size if _bytes(names, sizes_bytes) <= room.most_bytes]
    if not fitting:
        raise SourceError(
            f"{label}: none of its GGUF files fits into {room.bound}, which leaves {write_bytes(room.most_bytes)} for "
            f"weights; the smallest is {_describe(by_size[0], sizes_bytes)}. Raise that, choose a smaller model, or "
            "name a file to take it all the same: hf://owner/name/file.gguf"
        )
    quant = _quant(min(fitting[-1]))
    return _one_group(label, [name for name in candidates if _quant(name) == quant])


def _ggufs(names: Mapping[str, int]) -> list[str]:
    return weights.gguf_models(name for name in names if _GGUF.fullmatch(name))


def _one_group(label: str, matches: list[str]) -> frozenset[str]:
    """Return the file with all its shards. Raises SourceError if these are several models, or a shard is missing."""
    groups = {model_of(name) for name in matches}
    if len(groups) > 1:
        raise SourceError(f"{label} has several such files: {_list(matches)}. Name one: hf://owner/name/file.gguf")
    parts = parts_of(min(matches))
    here = [name for name in parts if name in matches]
    if len(here) != len(parts):
        raise SourceError(f"{label} has only {len(here)} of the {len(parts)} parts of {groups.pop()}.")
    return frozenset(here)


def _list(names: list[str]) -> str:
    return ", ".join(sorted({model_of(name) for name in names})[:_MOST_LISTED])


def _describe(names: frozenset[str], sizes_bytes: Mapping[str, int]) -> str:
    return f"{model_of(min(names))} ({write_bytes(_bytes(names, sizes_bytes))})"


def _bytes(names: frozenset[str], sizes_bytes: Mapping[str, int]) -> int:
    return sum(sizes_bytes[name] for name in names)


def _quant(name: str) -> str:
    """Return the quantisation in a file's name, in small letters, `f16` for `fp16`; empty if it names none."""
    words = _QUANT.findall(model_of(name).removesuffix(".gguf").removesuffix(".GGUF"))
    return str(words[-1]).lower().replace("fp16", "f16") if words else ""


def _rank(name: str) -> int:
    quant = _quant(name).removeprefix("ud-")
    return _PREFERENCE.index(quant) if quant in _PREFERENCE else len(_PREFERENCE)
