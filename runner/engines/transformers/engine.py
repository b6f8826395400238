"""The engine on torch and transformers: any causal Hugging Face architecture, from safetensors, on CPU or GPU.

Requests share each pass through the model if its architecture allows that (see `probe`); otherwise they take turns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from runner.engine import (
    Capabilities,
    EncodedRequest,
    EngineError,
    GenerationRequest,
    PartialSampling,
    Phase,
    PieceReceiver,
)
from runner.engines.sampling_defaults import encode_request
from runner.engines.step_loop import StepLoop
from runner.engines.token_text import TokenText
from runner.engines.transformers.pretrained import bounded_context, load_pretrained
from runner.engines.transformers.row_batch import RowBatch
from runner.engines.transformers.tokenizer import from_pretrained
from runner.settings import RunnerSettings
from runner.tokenizer import ModelTokenizer

log = logging.getLogger("runner")

FALLBACK_CONTEXT_LENGTH = 2048


class TransformersEngine:
    """See `runner.engine.Engine`. Runs as many generations at once as `max_concurrency` and memory allow."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._context_length = 0
        self._model_defaults = PartialSampling()
        self._tokenizer: ModelTokenizer | None = None
        self._model: Any = None
        self._batch: RowBatch | None = None
        self._loop: StepLoop | None = None
        self._concurrency = 1

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        config, tokenizer, self._model = load_pretrained("AutoModelForCausalLM", self._settings, on_phase)
        generation = getattr(self._model, "generation_config", None)
        self._tokenizer = from_pretrained(
            tokenizer,
            has_chat=self._settings.task == "chat",
            named_ends=getattr(generation, "eos_token_id", None),
            template_file=self._settings.chat_template,
        )
        own = getattr(config.get_text_config(), "max_position_embeddings", None) or FALLBACK_CONTEXT_LENGTH
        self._context_length = bounded_context(self._settings, own, default=own)
        self._read_sampling_defaults()
        self._start_batch()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="transformers",
            device=str(self._model.device),
            dtype=str(self._model.dtype).removeprefix("torch."),
            context_length=self._context_length,
            concurrency=self._concurrency,
            tool_syntax=self._loaded_tokenizer().tool_syntax,
        )

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        tokens = self._loaded_tokenizer().encode(request)
        sources = (request.sampling, self._settings.generation, self._model_defaults)
        return encode_request(tokens, self._context_length, *sources)

    def submit(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        if self._loop is None:
            raise EngineError("the model is not loaded")
        self._loop.submit(request, receiver)

    def failure(self) -> str | None:
        return None if self._loop is None else self._loop.failure

    def cache_use(self) -> float | None:
        return None if self._batch is None else self._batch.cache_use()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()
        self._loop = self._batch = self._model = self._tokenizer = None

    def _start_batch(self) -> None:
        from runner.engines.transformers.probe import make_forward
        from runner.engines.transformers.sampling import Sampler

        forward, room = make_forward(self._model, rows=self._settings.max_concurrency, length=self._context_length)
        if room.context_length < self._context_length:
            log.warning(
                "memory has room for a context of %d tokens; raise resources.memory for more", room.context_length
            )
        self._context_length, self._concurrency = room.context_length, room.rows
        self._batch = RowBatch(forward, Sampler, eos=self._loaded_tokenizer().ends, room_tokens=room.tokens)
        self._loop = StepLoop(self._batch, self._text_of)

    def _text_of(self, request: EncodedRequest) -> TokenText:
        tokenizer = self._loaded_tokenizer()
        return TokenText(tokenizer.detokenizer(), stop=request.sampling.stop, eos=tokenizer.ends)

    def _loaded_tokenizer(self) -> ModelTokenizer:
        if self._tokenizer is None:
            raise EngineError("the model is not loaded")
        return self._tokenizer

    def _read_sampling_defaults(self) -> None:
        own = getattr(self._model, "generation_config", None)
        if own is not None and own.do_sample:
            self._model_defaults = PartialSampling(temperature=own.temperature, top_p=own.top_p, top_k=own.top_k)
