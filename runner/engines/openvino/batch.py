"""Adapts OpenVINO GenAI's continuous batching to the step loop."""

from __future__ import annotations

import itertools
import random
from typing import Any

from runner.engine import EncodedRequest, FinishReason
from runner.engines.step_loop import BatchSequence, RequestFailed, Tokens


class OpenVinoBatch:
    """See `runner.engines.step_loop.BatchPipeline`."""

    def __init__(self, library: Any, pipeline: Any, eos: frozenset[int]) -> None:
        import numpy
        import openvino

        self._numpy, self._tensor = numpy, openvino.Tensor
        self._library = library
        self._pipeline = pipeline
        self._eos = eos
        self._ids = itertools.count()
        # Looked up once: an attribute of a bound enumeration costs more than the comparison.
        self._reasons: dict[Any, FinishReason] = {
            library.GenerationFinishReason.STOP: "stop",
            library.GenerationFinishReason.LENGTH: "length",
        }

    def add(self, request: EncodedRequest) -> BatchSequence:
        tokens = self._tensor(self._numpy.array([request.prompt_tokens], dtype=self._numpy.int64))
        try:
            handle = self._pipeline.add_request(next(self._ids), tokens, self._generation_config(request))
        except RuntimeError as error:
            raise RequestFailed(f"the engine refused this request: {last_line(error)}") from error
        return _Sequence(handle, self._reasons, self._library.GenerationStatus.IGNORED)

    def step(self) -> None:
        self._pipeline.step()

    def _generation_config(self, request: EncodedRequest) -> Any:
        sampling = request.sampling
        config = self._library.GenerationConfig(max_new_tokens=sampling.max_tokens)
        config.stop_token_ids = set(self._eos)
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            seed = random.getrandbits(64) if sampling.seed is None else sampling.seed
            config.rng_seed = seed % 2**64
        if request.grammar is not None:
            config.structured_output_config = self._library.StructuredOutputConfig(grammar=request.grammar.text)
        return config


class _Sequence:
    def __init__(self, handle: Any, reasons: dict[Any, FinishReason], ignored: Any) -> None:
        self._handle = handle
        self._reasons = reasons
        self._ignored = ignored

    def take(self) -> Tokens | None:
        if not self._handle.can_read():
            if self._handle.get_status() == self._ignored:
                raise _no_room()
            return None
        (output,) = self._handle.read().values()
        tokens = output.generated_ids
        if not tokens and self._handle.get_status() == self._ignored:
            raise _no_room()
        return Tokens(tokens, self._reasons.get(output.finish_reason))

    def cancel(self) -> None:
        self._handle.cancel()


def _no_room() -> RequestFailed:
    return RequestFailed("memory has no room for this request's context; raise resources.memory")


def last_line(error: BaseException) -> str:
    """Return the last line of a message; OpenVINO's begin with the place in its source that threw them."""
    return str(error).strip().rpartition("\n")[2]
