"""OpenVINO GenAI's own tokenizer object, made from the model's tokens.

Prompts and answers do not go through it: the runner has the model's own tokenizer. The library needs the object to be
constructed, and reads each token's bytes from it to keep answers to a grammar.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_END = "<end>"


def make_grammar_tokenizer(library: Any, token_bytes: Sequence[bytes], ends: frozenset[int]) -> Any:
    """Return a `Tokenizer` of the library whose token `i` is `token_bytes[i]`; tokens without bytes fit no grammar."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(
            _detokenizer(token_bytes), Path(folder) / "openvino_detokenizer.xml", compress_to_fp16=False
        )
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(_config(ends)))
        return library.Tokenizer(folder)


def _config(ends: frozenset[int]) -> dict[str, Any]:
    """Return where the library looks for an end of the text. It takes one; the others end a generation all the same."""
    if not ends:
        return {}
    return {"eos_token": _END, "added_tokens_decoder": {str(min(ends)): {"content": _END}}}


def _detokenizer(token_bytes: Sequence[bytes]) -> Any:
    """Return a graph from tokens to text, with the operations in which the library looks for the vocabulary."""
    import numpy
    import openvino
    import openvino_tokenizers
    from openvino import opset13 as ops

    create = openvino_tokenizers._get_factory().create
    ends = numpy.cumsum([len(token) for token in token_bytes], dtype=numpy.int32)
    begins = numpy.concatenate([numpy.zeros(1, dtype=numpy.int32), ends[:-1]])
    letters = numpy.frombuffer(b"".join(token_bytes), dtype=numpy.uint8)
    # The library replaces this constant by a state, and finds it behind a slice only.
    first, last, step, axis = (ops.constant(numpy.array([value], dtype=numpy.int32)) for value in (0, 2**31 - 1, 1, 0))
    hidden = ops.slice(ops.constant(numpy.array([0], dtype=numpy.int32)), first, last, step, axis)
    tokens = ops.parameter([-1, -1], numpy.int64, name="tokens")
    vocabulary = [ops.constant(values) for values in (begins, ends, letters)]
    parts = create("VocabDecoder", [ops.convert(tokens, "i32"), *vocabulary, hidden], {})
    rows = create("FuzeRagged", parts.outputs()[:4], {})
    valid = create("UTF8Validate", [*rows.outputs()[:2], parts.output(4)], {"replace_mode": False})
    text = create("StringTensorPack", valid.outputs()[:3], {})
    text.output(0).set_names({"string_output"})
    return openvino.Model([text.output(0)], [tokens], "detokenizer")
