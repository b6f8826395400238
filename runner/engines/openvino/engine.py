"""The engine on OpenVINO GenAI's continuous batching: fast on CPUs, with many requests at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from runner.engine import (
    Capabilities,
    EncodedRequest,
    EngineError,
    GenerationRequest,
    PartialSampling,
    Phase,
    PieceReceiver,
)
from runner.engines.memory import anonymous_bytes, memory_limit_bytes
from runner.engines.openvino.batch import OpenVinoBatch, last_line
from runner.engines.openvino.fair_lock import FairLock
from runner.engines.openvino.grammar_cache import GrammarCache
from runner.engines.openvino.grammar_compiler import GrammarCompiler
from runner.engines.openvino.grammar_tokenizer import make_grammar_tokenizer
from runner.engines.openvino.idle_reload import RELOAD_AFTER_S, IdleReloader
from runner.engines.openvino.kv_memory import KV_BLOCK_TOKENS, kv_blocks, kv_bytes_per_token
from runner.engines.openvino.precision import arithmetic
from runner.engines.sampling_defaults import encode_request
from runner.engines.step_loop import StepLoop
from runner.engines.token_text import TokenText
from runner.kernels import LIBRARY, OWN_PRODUCTS
from runner.settings import RunnerSettings
from runner.tokenizer import ModelTokenizer, load_tokenizer

log = logging.getLogger("runner")
P = TypeVar("P")

MODEL_FILE = "openvino_model.xml"
FALLBACK_CONTEXT_LENGTH = 2048
# Prompts are computed in parts of this many tokens, so that a long one delays the others' next token only briefly.
BATCHED_TOKENS = 256


class OpenVinoEngine:
    """See `runner.engine.Engine`. Runs up to `max_concurrency` generations at once."""

    def __init__(self, settings: RunnerSettings, *, reload_after_s: float = RELOAD_AFTER_S) -> None:
        self._settings = settings
        self._context_length = 0
        self._arithmetic = arithmetic("auto", has_own_products=False)
        self._model_defaults = PartialSampling()
        self._tokenizer: ModelTokenizer | None = None
        self._has_grammars = False
        self._pipeline: Any = None
        self._grammars: GrammarCache | None = None
        self._loop: StepLoop | None = None
        # Callers of the engine share it; a reload of the model holds it alone.
        self._use_lock = FairLock()
        self._failure: str | None = None
        self._idle_reloader = IdleReloader(
            idle_s=self._idle_s,
            memory_bytes=anonymous_bytes,
            reload=self._reload_if_idle,
            reload_after_s=reload_after_s,
        )

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        self._load(on_phase)
        self._idle_reloader.start()

    def _load(self, on_phase: Callable[[Phase], None]) -> None:
        if self._settings.task == "embedding":
            raise EngineError("the openvino engine cannot make embeddings; write `engine: transformers`")
        on_phase("importing")
        import openvino_genai

        on_phase("loading")
        folder = self._settings.model_path
        if not (folder / MODEL_FILE).is_file():
            raise EngineError(f"{folder} has no {MODEL_FILE}; choose a source in OpenVINO's format, or a GGUF file")
        config = read_config(folder)
        self._arithmetic = arithmetic(self._settings.dtype, has_own_products=bool(config.get(OWN_PRODUCTS)))
        blocks = self._cache_blocks(config)
        self._context_length = self._bounded_context(config, blocks * KV_BLOCK_TOKENS)
        has_chat = self._settings.task == "chat"
        self._tokenizer = load_tokenizer(folder, has_chat=has_chat, template_file=self._settings.chat_template)
        token_bytes = self._tokenizer.token_bytes()
        self._has_grammars = token_bytes is not None and bool(self._tokenizer.ends)
        library_tokenizer = make_grammar_tokenizer(openvino_genai, token_bytes or [b""], self._tokenizer.ends)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = blocks
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = self._settings.max_concurrency
        scheduler.max_num_batched_tokens = max(BATCHED_TOKENS, self._settings.max_concurrency)
        try:
            pipeline = openvino_genai.ContinuousBatchingPipeline(
                folder, library_tokenizer, scheduler, "CPU",
                INFERENCE_NUM_THREADS=self._settings.cpus, extensions=[str(LIBRARY)], **self._arithmetic.properties,
            )  # fmt: skip
        except RuntimeError as error:
            raise EngineError(f"the engine cannot load the model's files: {last_line(error)}") from error
        self._pipeline = pipeline
        self._read_sampling_defaults(pipeline.get_config())
        self._grammars = GrammarCache(GrammarCompiler(openvino_genai, library_tokenizer, folder / MODEL_FILE))
        self._loop = StepLoop(OpenVinoBatch(openvino_genai, pipeline, self._tokenizer.ends), self._text_of)
        self._idle_reloader.note_load()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="openvino",
            device="cpu",
            dtype=self._arithmetic.name,
            context_length=self._context_length,
            concurrency=self._settings.max_concurrency,
            grammars=self._has_grammars,
            tool_syntax=self._require(self._tokenizer).tool_syntax,
        )

    def failure(self) -> str | None:
        loop = self._loop
        return self._failure or (None if loop is None else loop.failure)

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        if request.grammar is not None:
            self._reload_if_grammars_full()
        with self._use_lock.sharing():
            tokens = self._require(self._tokenizer).encode(request)
            sources = (request.sampling, self._settings.generation, self._model_defaults)
            encoded_request = encode_request(tokens, self._context_length, *sources)
            if request.grammar is not None:
                self._require(self._grammars).compile(request.grammar)
        return replace(encoded_request, grammar=request.grammar)

    def submit(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        with self._use_lock.sharing():
            submit = self._require(self._loop).submit
            if request.grammar is None:
                submit(request, receiver)
            else:
                self._require(self._grammars).submit(request, receiver, submit)

    def cache_use(self) -> float | None:
        pipeline = self._pipeline
        return None if pipeline is None else pipeline.get_metrics().cache_usage / 100

    def close(self) -> None:
        self._idle_reloader.close()
        self._unload()

    def _unload(self) -> None:
        if self._loop is not None:
            self._loop.close()
        self._loop = self._pipeline = self._tokenizer = self._grammars = None

    def _reload_if_grammars_full(self) -> None:
        """Free compiled grammars in the only way there is: by reloading the model."""
        grammars = self._grammars
        if grammars is None or not grammars.is_full():
            return
        with self._use_lock.exclusive():
            if self._require(self._grammars).is_full():
                log.info("reloading the model to free the memory of earlier requests' grammars")
                self._reload()

    def _reload_if_idle(self) -> None:
        """Free the KV cache, which never shrinks and never drops earlier prompts, by reloading the model."""
        with self._use_lock.exclusive():
            # A request may have come since the reload became due.
            if self._idle_reloader.is_due():
                before_bytes = anonymous_bytes()
                self._reload()
                freed_mb = (before_bytes - anonymous_bytes()) / 1e6
                log.info("reloaded the model after a long idle time; this freed %.0f MB", freed_mb)

    def _reload(self) -> None:
        """Reload the model. The caller holds the lock alone, so new requests wait."""
        self._require(self._loop).drain()
        self._unload()
        try:
            self._load(lambda _phase: None)
        except EngineError as error:
            self._failure = str(error)
            raise
        finally:
            if self._loop is None:
                self._failure = self._failure or "the engine could not reload the model"

    def _idle_s(self) -> float | None:
        loop = self._loop
        return None if loop is None or loop.failure is not None else loop.idle_s()

    def _require(self, part: P | None) -> P:
        if part is None:
            raise EngineError(self._failure or "the model is not loaded")
        return part

    def _text_of(self, request: EncodedRequest) -> TokenText:
        tokenizer = self._require(self._tokenizer)
        return TokenText(tokenizer.detokenizer(), stop=request.sampling.stop, eos=tokenizer.ends)

    def _cache_blocks(self, config: dict[str, Any]) -> int:
        weights = sum(path.stat().st_size for path in self._settings.model_path.glob("openvino_model*"))
        kv_bytes = kv_bytes_per_token(config)
        longest = self._settings.context_length or config.get("max_position_embeddings") or FALLBACK_CONTEXT_LENGTH
        return kv_blocks(memory_limit_bytes(), weights, kv_bytes, self._settings.max_concurrency, longest)

    def _bounded_context(self, config: dict[str, Any], cached_tokens: int) -> int:
        own = config.get("max_position_embeddings") or FALLBACK_CONTEXT_LENGTH
        length = self._settings.context_length or own
        if length > own:
            log.warning("context_length %d exceeds the model's own %d; the engine uses %d", length, own, own)
        if cached_tokens < min(own, length):
            log.warning("memory has room for a context of %d tokens; raise resources.memory for more", cached_tokens)
        return int(min(own, length, cached_tokens))

    def _read_sampling_defaults(self, config: Any) -> None:
        if config.do_sample:
            top_k = config.top_k if config.top_k < 2**31 else 0
            self._model_defaults = PartialSampling(temperature=config.temperature, top_p=config.top_p, top_k=top_k)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the model's config.json; empty if there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EngineError(f"config.json is not valid JSON: {error}; download the model again") from None
    return config if isinstance(config, dict) else {}
