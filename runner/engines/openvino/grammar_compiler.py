"""Compiles grammars for OpenVINO GenAI's pipelines before a request joins the batch.

The library compiles a grammar in the step that its request joins. That would hold up all other requests, for seconds at
worst, and would fail them all if it cannot. The library keeps what it compiled with the tokenizer. So another pipeline
with the same tokenizer, around a model that computes nothing, compiles each grammar first; the step then finds it.

The library records how long a compilation took in a list without a lock. So nothing may be compiled while a request
joins: see `GrammarCache.submit`.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from runner.engine import EngineError
from runner.engines.openvino.grammar_cache import GrammarRefused
from runner.kernels import LIBRARY

# The library compiles in eight threads of its own; the batch has priority.
NICENESS = 10
# What the source path in an exception holds if the library's grammar reader threw it.
GRAMMAR_SOURCE = "xgrammar"


class GrammarCompiler:
    """Compiles grammars for a tokenizer; call it for one at a time. Raises GrammarRefused, EngineError."""

    def __init__(self, library: Any, tokenizer: Any, model_file: Path) -> None:
        self._library = library
        self._tokenizer = tokenizer
        self._model_file = model_file
        self._pipeline: Any = None

    def __call__(self, text: str) -> None:
        failures: list[Exception] = []
        # In a thread of its own: a lowered priority cannot be raised again, and new threads inherit it.
        thread = threading.Thread(target=self._compile, args=(text, failures), name="grammar")
        thread.start()
        thread.join()
        if failures:
            raise compile_error(failures[0]) from failures[0]

    def _compile(self, text: str, failures: list[Exception]) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            if self._pipeline is None:
                self._pipeline = _mute_pipeline(self._library, self._tokenizer, self._vocabulary())
            config = self._library.GenerationConfig(max_new_tokens=1)
            config.structured_output_config = self._library.StructuredOutputConfig(grammar=text)
            self._pipeline.generate(_one_token(), config)
        except Exception as error:  # The thread's outermost handler; the waiting thread raises it again.
            failures.append(error)

    def _vocabulary(self) -> int:
        """Return how many tokens the model scores; some models score more than there are."""
        import openvino

        core = openvino.Core()
        core.add_extension(LIBRARY)
        size = core.read_model(self._model_file).output(0).partial_shape[2]
        return int(size.get_length()) if size.is_static else len(self._tokenizer.get_vocab())


def compile_error(error: Exception) -> GrammarRefused | EngineError:
    """Return the error to raise: the grammar is at fault only if the library says so."""
    where, _, last = str(error).strip().rpartition(": ")
    if isinstance(error, RuntimeError) and GRAMMAR_SOURCE in where:
        return GrammarRefused(last)
    return EngineError(f"the grammar's compiler failed: {type(error).__name__}: {error}")


def _mute_pipeline(library: Any, tokenizer: Any, vocabulary: int) -> Any:
    """Return a pipeline that gives all tokens the same score, at no cost."""
    import numpy
    import openvino
    from openvino import opset13 as ops

    inputs = [
        ops.parameter([-1, -1], numpy.int64, name="input_ids"),
        ops.parameter([-1, -1], numpy.int64, name="attention_mask"),
        ops.parameter([-1], numpy.int32, name="beam_idx"),
    ]
    for parameter in inputs:
        parameter.output(0).set_names({parameter.get_friendly_name()})
    shape = ops.concat([ops.shape_of(inputs[0]), ops.constant(numpy.array([vocabulary], dtype=numpy.int64))], 0)
    logits = ops.broadcast(ops.constant(numpy.float32(0)), shape)
    logits.output(0).set_names({"logits"})
    xml, weights = _serialized(openvino.Model([logits], inputs, "mute"))
    return library.LLMPipeline(xml, weights, tokenizer, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=1)


def _serialized(model: Any) -> tuple[str, Any]:
    import numpy
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder, "mute.xml"), Path(folder, "mute.bin")
        openvino.serialize(model, xml, weights)
        return xml.read_text(encoding="utf-8"), openvino.Tensor(numpy.fromfile(weights, dtype=numpy.uint8))


def _one_token() -> Any:
    import numpy
    import openvino

    return openvino.Tensor(numpy.array([[0]], dtype=numpy.int64))
