"""What the names of files say about a model."""

from __future__ import annotations

import pytest

from controller.api.ollama.file_names import file_format, quantization


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("model-IQ4_XS.gguf", "IQ4_XS"),
        ("llama-f16.GGUF", "F16"),
        ("Q8_0.gguf", "Q8_0"),
        ("pypi://p==1/p/model.bf16.gguf", "BF16"),
        ("model-Q4_K_M-00001-of-00002.gguf", "Q4_K_M"),
        ("model.gguf", ""),
        ("q4_hf.safetensors", ""),
    ],
)
def test_the_quantization_of_a_gguf_file_is_in_its_name(name: str, expected: str) -> None:
    """As llama.cpp's tools write it, in either case; nothing is guessed."""
    assert expected == quantization([name])


def test_other_weights_have_the_type_of_their_numbers() -> None:
    """It is written as Ollama writes it, if it is known."""
    assert ["BF16", "F32", ""] == [
        quantization(["model.safetensors"], dtype) for dtype in ("bfloat16", "float32", "auto")
    ]


def test_the_format_is_known_by_endings() -> None:
    """Whatever other files are beside the weights."""
    assert "gguf" == file_format(["README.md", "a.GGUF"])
    assert "safetensors" == file_format(["config.json", "model.safetensors"])
    assert "openvino" == file_format(["openvino_tokenizer.xml", "openvino_model.xml"])
    assert "" == file_format(["hf://owner/name"])
