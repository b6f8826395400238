"""The engine on torch and transformers: any causal Hugging Face architecture, from safetensors, on CPU or GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from runner.chat_template import template_messages, template_tools, tool_syntax
from runner.engine import (
    Capabilities,
    EncodedRequest,
    FinishReason,
    GenerationRequest,
    PartialSampling,
    Phase,
    Piece,
    PromptInvalid,
    Sink,
)
from runner.engines.one_at_a_time import OneAtATime
from runner.engines.pretrained import LOCAL, load_config, load_model
from runner.sampling_defaults import encoded_request
from runner.settings import RunnerSettings
from runner.text import Detokenizer, StopStrings

log = logging.getLogger("runner")

# Between two chunks of a prompt a leaving client is noticed; a chunk of this length still keeps the cores busy.
PREFILL_CHUNK_TOKENS = 256
FALLBACK_CONTEXT_LENGTH = 2048


class TransformersEngine:
    """See `runner.engine.Engine`. One generation at a time."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._context_length = 0
        self._model_defaults = PartialSampling()
        self._eos: frozenset[int] = frozenset()
        # The tokenizer's Rust half refuses to be borrowed twice at once.
        self._tokenizer_lock = threading.Lock()
        self._torch: Any = None
        self._tokenizer: Any = None
        self._model: Any = None
        self._queue = OneAtATime(self.generate)

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        on_phase("importing")
        from runner.engines.lean_import import import_torch

        torch = self._torch = import_torch()
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()

        on_phase("loading")
        torch.set_num_threads(self._settings.cpus)
        config = load_config(self._settings)
        self._tokenizer = AutoTokenizer.from_pretrained(self._settings.model_path, **LOCAL)
        self._context_length = self._bounded_context(config)
        self._model = load_model(AutoModelForCausalLM, config, self._settings)
        self._read_generation_config()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="transformers",
            device=str(self._model.device),
            dtype=str(self._model.dtype).removeprefix("torch."),
            context_length=self._context_length,
            concurrency=1,
            tool_syntax=tool_syntax(str(self._tokenizer.chat_template or ""))
            if self._settings.task == "chat"
            else None,
        )

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        with self._tokenizer_lock:
            text, is_templated = self._prompt_text(request)
            # A template writes the special tokens itself.
            tokens = tuple(self._tokenizer(text, add_special_tokens=not is_templated)["input_ids"])
        own = (request.sampling, self._settings.generation, self._model_defaults)
        return encoded_request(tokens, self._context_length, *own)

    def submit(self, request: EncodedRequest, sink: Sink) -> None:
        self._queue.submit(request, sink)

    def generate(self, request: EncodedRequest, cancelled: Callable[[], bool]) -> Iterator[Piece]:
        """The pieces as they are made; `cancelled` is asked before each token."""
        from runner.engines.torch_sampling import Sampler

        sampler = Sampler(request.sampling)
        detokenizer = Detokenizer(self._decode)
        stops = StopStrings(request.sampling.stop)
        cache, logits = self._prefill(request.prompt_tokens, cancelled)
        count = 0
        while not cancelled():
            token = sampler.choose(logits)
            count += 1
            is_eos = token in self._eos
            text, is_stopped = ("", False) if is_eos else stops.feed(detokenizer.feed(token))
            if is_eos or is_stopped or count >= request.sampling.max_tokens:
                yield _last_piece(text, count, is_eos, is_stopped, detokenizer, stops)
                return
            if text:
                yield Piece(text=text, completion_tokens=count)
            cache, logits = self._forward((token,), cache)
        yield Piece(text="", completion_tokens=count, finish_reason="cancelled")

    def failure(self) -> str | None:
        return None

    def cache_use(self) -> float | None:
        return None

    def close(self) -> None:
        self._queue.close()
        self._model = self._tokenizer = None

    def _bounded_context(self, config: Any) -> int:
        own = getattr(config.get_text_config(), "max_position_embeddings", None) or FALLBACK_CONTEXT_LENGTH
        wanted = self._settings.context_length or own
        if wanted > own:
            log.warning("context_length %d is more than the model's own %d, which is used", wanted, own)
        return min(own, wanted)

    def _read_generation_config(self) -> None:
        own = getattr(self._model, "generation_config", None)
        eos = getattr(own, "eos_token_id", None)
        tokens = {self._tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
        self._eos = frozenset(token for token in tokens if token is not None)
        if own is not None and own.do_sample:
            self._model_defaults = PartialSampling(temperature=own.temperature, top_p=own.top_p, top_k=own.top_k)

    def _prompt_text(self, request: GenerationRequest) -> tuple[str, bool]:
        has_template = bool(self._tokenizer.chat_template) and self._settings.task == "chat"
        if request.prompt is not None and (request.raw or not has_template):
            return request.prompt, False
        if not has_template:
            raise PromptInvalid("This model has no chat template; send a prompt.", param="messages")
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
        with self._tokenizer_lock:
            text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _prefill(self, tokens: tuple[int, ...], cancelled: Callable[[], bool]) -> tuple[Any, Any]:
        cache, logits = None, None
        for start in range(0, len(tokens), PREFILL_CHUNK_TOKENS):
            if start and cancelled():
                break
            cache, logits = self._forward(tokens[start : start + PREFILL_CHUNK_TOKENS], cache)
        return cache, logits

    def _forward(self, tokens: tuple[int, ...], cache: Any) -> tuple[Any, Any]:
        """The cache with these tokens, and the logits after the last of them."""
        torch = self._torch
        # Entered anew for each step: the mode belongs to the thread, and a generator hands the thread back in between.
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([tokens], device=self._model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.past_key_values, output.logits[0, -1]


def _last_piece(
    text: str, count: int, is_eos: bool, is_stopped: bool, detokenizer: Detokenizer, stops: StopStrings
) -> Piece:
    if not is_stopped:
        rest, is_stopped = stops.feed(detokenizer.flush())
        text += rest if is_stopped else rest + stops.flush()
    reason: FinishReason = "stop" if is_eos or is_stopped else "length"
    return Piece(text=text, completion_tokens=count, finish_reason=reason)
