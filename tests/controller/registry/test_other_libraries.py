"""Names of other tools' libraries and addresses of the hub: each error says which source means the same."""

from __future__ import annotations

import pytest

from controller.registry.other_libraries import _FAMILIES, hub_source
from controller.registry.source_ref import HttpsSource, HubSource, parse_source

LLAMA = "hf://bartowski/Llama-3.2-1B-Instruct-GGUF"
LINES = {
    "llama3.2:1b": LLAMA,
    "llama3.2:1b-instruct-q8_0": f"{LLAMA}:Q8_0",
    "ollama://llama3.2:1b-instruct-fp16": f"{LLAMA}:F16",
    "ollama://library/llama3.2:1B": LLAMA,
    "registry.ollama.ai/library/llama3.2:1b": LLAMA,
    "https://ollama.com/library/llama3.2:1b": LLAMA,
    "ollama://llama3.2": "hf://bartowski/Llama-3.2-3B-Instruct-GGUF",
    "smollm2": "hf://bartowski/SmolLM2-1.7B-Instruct-GGUF",
    "smollm2:latest": "hf://bartowski/SmolLM2-1.7B-Instruct-GGUF",
    "ai/smollm2": "hf://bartowski/SmolLM2-360M-Instruct-GGUF",
    "ai/smollm2:latest": "hf://bartowski/SmolLM2-360M-Instruct-GGUF",
    "ai/smollm2:135M-Q4_K_M": "hf://bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M",
    "docker://ai/llama3.2:1B-Q8_0": f"{LLAMA}:Q8_0",
    "docker.io/ai/gemma3": "hf://ggml-org/gemma-3-4b-it-GGUF",
    "hub.docker.com/r/ai/gemma3": "hf://ggml-org/gemma-3-4b-it-GGUF",
    "nomic-embed-text": "hf://nomic-ai/nomic-embed-text-v1.5-GGUF",
    "hf.co/owner/name:Q8_0": "hf://owner/name:Q8_0",
    "ollama://hf.co/owner/name": "hf://owner/name",
    "huggingface.co/owner/name": "hf://owner/name",
    "https://huggingface.co/owner/name": "hf://owner/name",
    "http://huggingface.co/owner/name/": "hf://owner/name",
    "https://www.huggingface.co/owner/name?library=x": "hf://owner/name",
    "https://huggingface.co/owner/name/tree/main": "hf://owner/name",
    "https://huggingface.co/owner/name/tree/v1": "hf://owner/name@v1",
    "https://huggingface.co/owner/name/tree/main/Q4_K_M": "hf://owner/name",
    "https://huggingface.co/owner/name/blob/main/a/m.gguf": "hf://owner/name/a/m.gguf",
    "https://huggingface.co/owner/name/blob/main/model.safetensors": "hf://owner/name",
    "https://huggingface.co/owner/name/blob/refs%2Fpr%2F1/m.gguf": "hf://owner/name/m.gguf@refs/pr/1",
    "https://huggingface.co/owner/name/discussions/7": "hf://owner/name",
    "http://huggingface.co/owner/name/resolve/main/m.gguf?download=true": "hf://owner/name/m.gguf",
}


@pytest.mark.parametrize("text", LINES)
def test_the_line_to_write_is_in_the_error(text: str) -> None:
    """The error names the source, and that is one."""
    with pytest.raises(ValueError, match="write") as error:
        parse_source(text)
    line = str(error.value).partition("; write ")[2].removesuffix(", the same model")
    assert LINES[text] == line
    assert isinstance(parse_source(line), HubSource)


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("ollama://person/tuned:1b", "Ollama's"),
        ("ollama://llama3.2:1b-text-q8_0", "Ollama's"),
        ("ollama://deepseek-r1", "Ollama's"),
        ("qwen3:4b", "Ollama's"),
        ("unknown:1b", "Ollama's"),
        ("ai/unknown", "Docker's"),
        ("docker://person/model", "Docker's"),
        ("oci://registry.example/model", "a registry's"),
        ("modelscope://Qwen/Qwen3-0.6B", "ModelScope's"),
    ],
)
def test_an_unknown_name_is_not_guessed(text: str, library: str) -> None:
    """A model that is not known, or is another one with time, gets the form of a source, and an example of one."""
    with pytest.raises(ValueError, match=f"names of {library} library are not read; .*on the hub, such as hf://"):
        parse_source(text)


@pytest.mark.parametrize("path", ["", "datasets/owner/name", "spaces/owner/name", "owner"])
def test_a_page_without_a_model_is_told_as_one(path: str) -> None:
    """Other pages of the hub lead to the form of a source."""
    with pytest.raises(ValueError, match="names none; write hf://owner/name"):
        parse_source(f"https://huggingface.co/{path}")


def test_a_files_own_address_is_an_https_source() -> None:
    """It gives the file's bytes, so it works with a checksum; the shorter form is known."""
    url = "https://huggingface.co/owner/name/resolve/main/m.gguf"
    assert HttpsSource(url) == parse_source(url)
    assert hub_source(url) == "hf://owner/name/m.gguf"


@pytest.mark.parametrize("url", ["https://ai/smollm2.gguf", "https://library/llama3.2", "https://host/ai/smollm2"])
def test_other_hosts_are_no_library(url: str) -> None:
    """A host whose name is a library's folder is a host."""
    assert HttpsSource(url) == parse_source(url)


def test_every_name_of_the_table_leads_to_a_source() -> None:
    """Each repository of the table can be written as a source, and each size without a tag is one of the table."""
    for family in _FAMILIES.values():
        for repo in family.repos.values():
            assert HubSource(repo) == parse_source(f"hf://{repo}")
        assert {family.ollama, family.docker} <= {"", *family.repos}
