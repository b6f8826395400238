"""The engine on torch and transformers: any causal Hugging Face architecture, from safetensors, on CPU or GPU.

Requests share each pass through the model if its architecture allows that (see `probe`); otherwise they take turns.
"""

from __future__ import annotations

import copy
import logging
import threading
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
    PromptInvalid,
)
from runner.engines.chat_template import template_messages, template_tools, tool_syntax, uses_template
from runner.engines.detokenizer import Detokenizer
from runner.engines.sampling_defaults import encode_request
from runner.engines.step_loop import StepLoop
from runner.engines.token_text import TokenText
from runner.engines.transformers.pretrained import bounded_context, load_pretrained
from runner.engines.transformers.row_batch import RowBatch
from runner.settings import RunnerSettings

log = logging.getLogger("runner")

FALLBACK_CONTEXT_LENGTH = 2048


class TransformersEngine:
    """See `runner.engine.Engine`. Runs as many generations at once as `max_concurrency` and memory allow."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._context_length = 0
        self._model_defaults = PartialSampling()
        self._eos: frozenset[int] = frozenset()
        # The tokenizer's Rust half fails if two threads use it at once, and a long prompt uses it for long. So the
        # stepping thread has its own copy, and its tokens need not wait for a prompt.
        self._tokenizer_lock = threading.Lock()
        self._tokenizer: Any = None
        self._step_tokenizer: Any = None
        self._model: Any = None
        self._batch: RowBatch | None = None
        self._loop: StepLoop | None = None
        self._concurrency = 1

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        config, self._tokenizer, self._model = load_pretrained("AutoModelForCausalLM", self._settings, on_phase)
        self._step_tokenizer = copy.deepcopy(self._tokenizer)
        own = getattr(config.get_text_config(), "max_position_embeddings", None) or FALLBACK_CONTEXT_LENGTH
        self._context_length = bounded_context(self._settings, own, default=own)
        self._read_generation_config()
        self._start_batch()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="transformers",
            device=str(self._model.device),
            dtype=str(self._model.dtype).removeprefix("torch."),
            context_length=self._context_length,
            concurrency=self._concurrency,
            tool_syntax=tool_syntax(str(self._tokenizer.chat_template or ""))
            if self._settings.task == "chat"
            else None,
        )

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        with self._tokenizer_lock:
            text, is_templated = self._prompt_text(request)
            # A template writes the special tokens itself.
            tokens = tuple(self._tokenizer(text, add_special_tokens=not is_templated)["input_ids"])
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
        self._loop = self._batch = self._model = self._tokenizer = self._step_tokenizer = None

    def _start_batch(self) -> None:
        from runner.engines.transformers.probe import make_forward
        from runner.engines.transformers.sampling import Sampler

        forward, room = make_forward(self._model, rows=self._settings.max_concurrency, length=self._context_length)
        if room.context_length < self._context_length:
            log.warning(
                "memory has room for a context of %d tokens; raise resources.memory for more", room.context_length
            )
        self._context_length, self._concurrency = room.context_length, room.rows
        self._batch = RowBatch(forward, Sampler, eos=self._eos, room_tokens=room.tokens)
        self._loop = StepLoop(self._batch, self._text_of)

    def _text_of(self, request: EncodedRequest) -> TokenText:
        return TokenText(Detokenizer(self._decode), stop=request.sampling.stop, eos=self._eos)

    def _read_generation_config(self) -> None:
        own = getattr(self._model, "generation_config", None)
        eos = getattr(own, "eos_token_id", None)
        tokens = {self._tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
        self._eos = frozenset(token for token in tokens if token is not None)
        if own is not None and own.do_sample:
            self._model_defaults = PartialSampling(temperature=own.temperature, top_p=own.top_p, top_k=own.top_k)

    def _prompt_text(self, request: GenerationRequest) -> tuple[str, bool]:
        has_template = bool(self._tokenizer.chat_template) and self._settings.task == "chat"
        if not uses_template(request, has_template=has_template):
            return request.prompt or "", False
        return self._render(request), True

    def _render(self, request: GenerationRequest) -> str:
        from jinja2 import TemplateError

        messages, tools = template_messages(request), template_tools(request)
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise PromptInvalid(f"The model's chat template refuses these messages: {error}.") from None
        return text

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._step_tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
