"""Names of models in other tools' libraries, and addresses of the hub's pages: which source means the same. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_EXAMPLE = "hf://Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"
_HUB_HOSTS = ("huggingface.co/", "www.huggingface.co/", "hf.co/")
# What the hub's addresses show beside models.
_NO_MODELS = {"blog", "chat", "collections", "datasets", "docs", "join", "login", "models", "papers", "posts", "spaces"}
_OLLAMA_PLACES = ("registry.ollama.ai/", "ollama.com/", "library/")
_DOCKER_PLACES = ("index.docker.io/", "docker.io/", "hub.docker.com/r/", "hub.docker.com/", "ai/")
_OTHER_LIBRARIES = {"ollama": "Ollama's", "docker": "Docker's", "oci": "a registry's", "modelscope": "ModelScope's"}
_TAG = re.compile(
    r"(?P<size>\d+(?:\.\d+)?[bm])?-?(?:instruct|it|chat)?-?(?P<quant>i?q\d[a-z0-9_]*|fp16|f16|bf16)?", re.IGNORECASE
)


@dataclass(frozen=True)
class _Family:
    """The models of one name: by their size, the repositories of their GGUF files on the hub."""

    repos: dict[str, str]
    ollama: str = ""
    """The size without a tag, in Ollama's library; empty if that changes with time."""
    docker: str = ""


def _sizes(repo: str, *sizes: str) -> dict[str, str]:
    return {size.lower(): repo.format(size) for size in sizes}


# The commonest names of both libraries. The repositories are those that llama.cpp's users name most.
_FAMILIES = {
    "smollm2": _Family(_sizes("bartowski/SmolLM2-{}-Instruct-GGUF", "135M", "360M", "1.7B"), "1.7b", "360m"),
    "llama3.2": _Family(_sizes("bartowski/Llama-3.2-{}-Instruct-GGUF", "1B", "3B"), "3b", "3b"),
    "llama3.1": _Family(_sizes("bartowski/Meta-Llama-3.1-{}-Instruct-GGUF", "8B"), "8b", "8b"),
    "llama3": _Family(_sizes("bartowski/Meta-Llama-3-{}-Instruct-GGUF", "8B"), "8b"),
    "tinyllama": _Family(_sizes("TheBloke/TinyLlama-{}-Chat-v1.0-GGUF", "1.1B"), "1.1b"),
    "qwen2.5": _Family(_sizes("Qwen/Qwen2.5-{}-Instruct-GGUF", "0.5B", "1.5B", "3B", "7B"), "7b", "7b"),
    "qwen2.5-coder": _Family(_sizes("Qwen/Qwen2.5-Coder-{}-Instruct-GGUF", "0.5B", "1.5B", "3B", "7B"), "7b"),
    "qwen3": _Family(_sizes("unsloth/Qwen3-{}-GGUF", "0.6B", "1.7B", "8B"), "8b", "8b"),
    "gemma2": _Family(_sizes("bartowski/gemma-2-{}-it-GGUF", "2b", "9b"), "9b"),
    "gemma3": _Family(_sizes("ggml-org/gemma-3-{}-it-GGUF", "270m", "1b", "4b"), "4b", "4b"),
    "phi3.5": _Family({"3.8b": "bartowski/Phi-3.5-mini-instruct-GGUF"}, "3.8b"),
    "phi4": _Family({"14b": "bartowski/phi-4-GGUF"}, "14b", "14b"),
    "mistral": _Family(_sizes("bartowski/Mistral-{}-Instruct-v0.3-GGUF", "7B"), "7b", "7b"),
    "deepseek-r1": _Family(_sizes("bartowski/DeepSeek-R1-Distill-Qwen-{}-GGUF", "1.5B", "7B")),
    "nomic-embed-text": _Family({"": "nomic-ai/nomic-embed-text-v1.5-GGUF"}),
}


def advice(text: str) -> str | None:
    """Return what to write instead of a name or an address of this form; None if it is none of these forms."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if scheme not in ("", "http", "https", *_OTHER_LIBRARIES):
        return None
    if _after(rest, _HUB_HOSTS) is not None:
        source = hub_source(text)
        why = "an address of the hub is no name of a model"
        return f"{why}; write {source}" if source else f"{why}, and this one names none; write hf://owner/name"
    if library := _library_of(scheme, rest):
        return _of_library(library, rest)
    return _general(scheme) if scheme in _OTHER_LIBRARIES else None


def hub_source(address: str) -> str | None:
    """Return the source that an address of the hub means: a model's page, or a file of it; None for other addresses.

    Other tools also write `hf.co/owner/name:quant`.
    """
    path = _after(address.rpartition("://")[2], _HUB_HOSTS)
    parts = [unquote(part) for part in re.split("[?#]", path or "")[0].strip("/").split("/")]
    if len(parts) < 2 or parts[0] in _NO_MODELS:
        return None
    source = f"hf://{parts[0]}/{parts[1].removesuffix(':latest')}"
    if len(parts) < 4 or parts[2] not in ("blob", "raw", "resolve", "tree"):
        return source
    file = "/".join(parts[4:])
    named = f"/{file}" if file.lower().endswith(".gguf") else ""
    return source + named + (f"@{parts[3]}" if parts[3] != "main" else "")


def is_hub_file(address: str) -> bool:
    """Tell whether this address of the hub gives a file's bytes, and no page."""
    path = _after(address.rpartition("://")[2], _HUB_HOSTS)
    return path is not None and path.split("/")[2:3] == ["resolve"]


def _library_of(scheme: str, rest: str) -> str | None:
    """Return the library of this name, if its models are known here."""
    is_web = scheme in ("http", "https")
    if scheme == "ollama" or (not scheme and _is_ollama_name(rest)):
        return "ollama"
    # Without a scheme, `library/` and `ai/` are these libraries' own folders. In an address they would be hosts.
    if scheme != "docker" and _after(rest, _OLLAMA_PLACES[: 2 if is_web else None]) is not None:
        return "ollama"
    is_docker = scheme == "docker" or _after(rest, _DOCKER_PLACES[: 4 if is_web else None]) is not None
    return "docker" if is_docker else None


def _after(text: str, starts: tuple[str, ...]) -> str | None:
    """Return what follows the first of these; None if the text begins with none."""
    return next((text[len(start) :] for start in starts if text.lower().startswith(start)), None)


def _is_ollama_name(text: str) -> bool:
    name, has_tag, tag = text.lower().partition(":")
    is_name = re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) is not None
    return is_name and (name in _FAMILIES or (bool(has_tag) and re.fullmatch(r"[a-z0-9._-]+", tag) is not None))


def _of_library(library: str, rest: str) -> str:
    places = _OLLAMA_PLACES if library == "ollama" else _DOCKER_PLACES
    while (inner := _after(rest, places)) is not None:
        rest = inner
    name, _, tag = rest.lower().partition(":")
    family, match = _FAMILIES.get(name), _TAG.fullmatch(tag.removeprefix("latest"))
    if family is None or match is None:
        return _general(library)
    repo = family.repos.get((match["size"] or "").lower() or (family.ollama if library == "ollama" else family.docker))
    if repo is None:
        return _general(library)
    quant = f":{match['quant'].upper().replace('FP16', 'F16')}" if match["quant"] else ""
    return f"names of {_OTHER_LIBRARIES[library]} library are not read; write hf://{repo}{quant}, the same model"


def _general(library: str) -> str:
    return (
        f"names of {_OTHER_LIBRARIES[library]} library are not read; write the model's name on the hub, such as "
        f"{_EXAMPLE}"
    )
