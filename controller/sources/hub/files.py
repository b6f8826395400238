"""The choice of files in a hub repository: only data, and only what a model needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from huggingface_hub.hf_api import RepoSibling

from controller.errors import SourceError
from controller.sources import weights
from controller.sources.hub.gguf_choice import Selection, best_gguf, named_gguf
from controller.sources.hub.other_forms import form_of, is_of_other_form
from controller.sources.values import WeightsRoom

_TEXTS = re.compile(
    r"[^/.][^/]*\.(json|jinja|txt|model|tiktoken)|LICENSE[^/]*|(additional_)?chat_templates/[^/.][^/]*\.jinja"
)
_MODULE_FOLDER = re.compile(r"\d+_[A-Za-z]+/[^/.][^/]*\.(json|safetensors)")
_SAFETENSORS = re.compile(r"[^/.][^/]*\.safetensors")
_CANONICAL = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_IR_FILE = re.compile(r"openvino_(model|tokenizer|detokenizer)\.(xml|bin)")


@dataclass(frozen=True)
class Choice:
    """The files to fetch, small ones first, and why these weights; empty if there was nothing to choose."""

    files: tuple[RepoSibling, ...]
    reason: str = ""


def choose(
    label: str,
    siblings: list[RepoSibling],
    *,
    file: str | None = None,
    quant: str | None = None,
    room: Callable[[], WeightsRoom | None] = lambda: None,
    base: str | None = None,
) -> Choice:
    """Return the files to fetch: those of this file or quantisation, or of the best that fits into `room`.

    Raises SourceError if there is no such file, or if no weights are in a form that is read; `base` is the repository
    of the model that these weights are made of, if that is known.
    """
    by_name = {file.rfilename: file for file in siblings if file.rfilename.isprintable() and "\\" not in file.rfilename}
    names = set(by_name)
    sizes_bytes = {name: file.size or 0 for name, file in by_name.items()}
    if file is not None or quant is not None:
        selection = named_gguf(label, sizes_bytes, file, quant)
    elif safetensors := _safetensors(names):
        selection = Selection(frozenset(safetensors))
    else:
        selection = best_gguf(label, sizes_bytes, room) or Selection(frozenset(_ir(names)))
    if not selection.names:
        raise _no_weights(label, names, base)
    texts = {name for name in names if _TEXTS.fullmatch(name) or _MODULE_FOLDER.fullmatch(name)}
    files = sorted((by_name[n] for n in selection.names | texts), key=lambda file: (file.size or 0, file.rfilename))
    return Choice(tuple(files), selection.reason)


def _safetensors(names: set[str]) -> set[str]:
    """Return `model.safetensors` or its shards; without them other names, which else are copies of the same weights."""
    canonical = {name for name in names if _CANONICAL.fullmatch(name)}
    return canonical or {name for name in names if _SAFETENSORS.fullmatch(name)}


def _ir(names: set[str]) -> set[str]:
    """Return the files of OpenVINO's IR: .xml and .bin of the model, the tokenizer and the detokenizer."""
    pairs = {name for name in names if _IR_FILE.fullmatch(name)}
    return pairs if {"openvino_model.xml", "openvino_model.bin"} <= pairs else set()


def unreadable(label: str, form: str, base: str | None) -> SourceError:
    """Return the error for weights in a form that no engine of ours reads; `base` is the model that they come from."""
    original = f"hf://{base}" if base else "the repository of the original model"
    return SourceError(
        f"{label} has weights in the form of {form}, which the engine cannot read. What works: {original}, with "
        "safetensors that are not quantised, or a repository of the same model with .gguf files."
    )


def _no_weights(label: str, names: set[str], base: str | None) -> SourceError:
    pickles = sorted(name for name in names if weights.is_pickle(name, names) and not is_of_other_form(name))
    form = form_of(names)
    if form is not None and not pickles:
        return unreadable(label, f"{form[0]} ({form[1]})", base)
    text = f"{label} has no .safetensors and no .gguf file. "
    if pickles:
        return SourceError(text + weights.refusal(pickles[0]))
    return SourceError(text + "Choose a repository that has the model's weights.")
