"""Converts GGUF to OpenVINO IR, tokenizers and configuration, as OpenVINO GenAI saves and reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.convert.gguf_header import GgufHeader, read_header
from runner.convert.gguf_tensors import GgufTensors
from runner.convert.llama_shape import Shape, model_shape
from runner.engine import EngineError
from runner.kernels import OWN_PRODUCTS


def convert_to_openvino(source: Path, target: Path, *, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Write a folder that the openvino engine reads without the GGUF; return the configuration written there.

    The library's own reader converts only the tokenizer, since it rounds the offsets of 4-bit weights: `bench.quality`
    then measures 1.2 times the file's perplexity with SmolLM2-135M. Raises EngineError for a model of another family.
    """
    header = read_header(source)
    shape = model_shape(source.name, header)
    on_progress(0.05)
    _write_tokenizer(source, target)
    on_progress(0.3)
    _write_model(source, header, shape, target)
    on_progress(0.9)
    config = {**model_config(header), OWN_PRODUCTS: True}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id")}
    (target / "generation_config.json").write_text(json.dumps(generation) + "\n", encoding="utf-8")
    return config


def _write_model(source: Path, header: GgufHeader, shape: Shape, target: Path) -> None:
    import openvino

    from runner.convert.llama_graph import build

    tensors = GgufTensors(source, header)
    # Llama 3 stores its longer context as a divisor for each frequency.
    if (factors := tensors.vector("rope_freqs.weight")) is not None:
        shape = replace(shape, inverse_frequencies=shape.inverse_frequencies / factors)
    openvino.save_model(build(shape, tensors), target / "openvino_model.xml", compress_to_fp16=False)


def _write_tokenizer(source: Path, target: Path) -> None:
    import openvino_genai

    # The library opens the file for writing and puts its output beside it, but the source is mounted read-only.
    copy = target / source.name
    shutil.copyfile(source, copy)
    try:
        openvino_genai.Tokenizer(copy, enable_save_ov_model=True)
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise EngineError(f"OpenVINO cannot convert the tokenizer of {source.name}: {reason}") from error
    finally:
        copy.unlink()
    _lift_truncation(target / "openvino_tokenizer.xml")


def _lift_truncation(tokenizer: Path) -> None:
    """Make the tokenizer return all tokens of a text.

    The library always cuts at the context length: a prompt that is too long would silently lose its beginning.
    """
    import numpy
    import openvino
    import openvino_tokenizers  # noqa: F401  makes the tokenizers' operations known to OpenVINO

    model = openvino.Core().read_model(tokenizer)
    for node in model.get_ops():
        if node.get_type_name() == "Minimum":
            for place in node.inputs():
                limit = place.get_source_output().get_node()
                if limit.get_type_name() == "Constant" and limit.get_output_size() == 1 and limit.data.size == 1:
                    no_limit = openvino.op.Constant(numpy.array(2**31 - 1, dtype=limit.data.dtype))
                    place.replace_source_output(no_limit.output(0))
    # A new file, since the old one stays mapped until the model is deleted.
    whole = tokenizer.with_name("lifted.xml")
    openvino.serialize(model, whole, whole.with_suffix(".bin"))
    del model
    whole.with_suffix(".bin").replace(tokenizer.with_suffix(".bin"))
    whole.replace(tokenizer)


def model_config(header: GgufHeader) -> dict[str, Any]:
    """Return the model's shape under the names in a config.json."""
    heads = int(header.of_model("attention.head_count", 0))
    config = {
        "model_type": header.metadata.get("general.architecture"),
        "max_position_embeddings": header.of_model("context_length"),
        "hidden_size": header.of_model("embedding_length"),
        "num_hidden_layers": header.of_model("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.of_model("attention.head_count_kv", heads),
        "head_dim": header.of_model("attention.key_length"),
    }
    return {name: value for name, value in config.items() if value is not None}
