from __future__ import annotations

import struct
from pathlib import Path

import pytest

from runner.convert.gguf_header import read_header
from runner.convert.openvino import model_config
from runner.prepare import has_tools


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(pairs: list[bytes], shapes: list[tuple[int, ...]]) -> bytes:
    """Return a GGUF file's header, as the format's description defines it."""
    tensors = b"".join(
        text(f"t{n}")
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", 0, 0)
        for n, shape in enumerate(shapes)
    )
    return b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(pairs)) + b"".join(pairs) + tensors


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


NAME = text("general.architecture") + struct.pack("<I", 8) + text("llama")
TOKENS = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")


def test_the_shape_is_read_from_the_header(tmp_path: Path) -> None:
    """Parameters are the tensors' sizes; the configuration has the metadata under its usual names."""
    file = tmp_path / "m.gguf"
    pairs = [NAME, TOKENS, number("llama.block_count", 3), number("llama.attention.head_count", 4)]
    file.write_bytes(gguf([*pairs, number("llama.context_length", 128)], [(2, 3), (5,)]) + b"weights")
    header = read_header(file)
    assert header.parameters == 11
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "b"]
    assert model_config(header) == {
        "model_type": "llama",
        "max_position_embeddings": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }


@pytest.mark.parametrize("length", [4, 20, 60])
def test_a_truncated_file_is_an_error(tmp_path: Path, length: int) -> None:
    """The error calls a header that ends too early damaged."""
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf([NAME, TOKENS], [(2, 3)])[:length])
    with pytest.raises(ValueError, match="damaged"):
        read_header(file)


def test_impossible_lengths_are_refused(tmp_path: Path) -> None:
    """A number from a damaged file never reserves that much memory."""
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0))
    with pytest.raises(ValueError, match="impossible"):
        read_header(file)


@pytest.mark.parametrize(
    ("template", "has_known_tools"),
    [("{% if tools %}<tool_call>{% endif %}", True), ("{{ messages }}", False), ("{{ tools }}", False), (None, False)],
)
def test_a_template_shows_whether_a_model_has_tools(
    tmp_path: Path, template: str | None, has_known_tools: bool
) -> None:
    """A model has tools if its file's chat template takes them and writes calls in a known form."""
    file = tmp_path / "m.gguf"
    key = text("tokenizer.chat_template") + struct.pack("<I", 8)
    file.write_bytes(gguf([NAME] if template is None else [NAME, key + text(template)], []))
    assert has_known_tools == has_tools(file)
