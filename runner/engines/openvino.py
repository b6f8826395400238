"""The engine on OpenVINO GenAI's continuous batching: fast on CPUs, for many requests at once."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.engine import (
    Capabilities,
    EncodedRequest,
    EngineError,
    FinishReason,
    GenerationRequest,
    PartialSampling,
    Phase,
    Sink,
)
from runner.engines.openvino_arithmetic import arithmetic
from runner.engines.openvino_memory import KV_BLOCK_TOKENS, kv_blocks, kv_bytes_per_token
from runner.engines.stepping import BatchSequence, RequestFailed, StepLoop, Tokens
from runner.engines.token_text import TokenText
from runner.memory import memory_limit_bytes
from runner.sampling_defaults import encoded_request
from runner.settings import RunnerSettings

log = logging.getLogger("runner")

MODEL_FILE = "openvino_model.xml"
FALLBACK_CONTEXT_LENGTH = 2048
# Prompts are computed in parts of this many tokens, so that a long one holds up the others' next token only briefly.
BATCHED_TOKENS = 256


class OpenVinoEngine:
    """See `runner.engine.Engine`. As many generations at once as `max_concurrency` says."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._context_length = 0
        self._model_defaults = PartialSampling()
        self._eos: frozenset[int] = frozenset()
        self._tokenizer: Any = None
        self._pipeline: Any = None
        self._loop: StepLoop | None = None

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        if self._settings.task == "embedding":
            raise EngineError("the openvino engine makes no embeddings; write `engine: transformers`")
        on_phase("importing")
        import openvino_genai

        from runner.engines.openvino_tokenizer import OpenVinoTokenizer

        on_phase("loading")
        folder = self._settings.model_path
        if not (folder / MODEL_FILE).is_file():
            raise EngineError(f"{folder} has no {MODEL_FILE}; choose a source in OpenVINO's form, or a GGUF file")
        config = read_config(folder)
        blocks = self._bounded_cache(config)
        self._context_length = self._bounded_context(config, blocks * KV_BLOCK_TOKENS)
        self._tokenizer = OpenVinoTokenizer(folder, has_chat=self._settings.task == "chat")
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = blocks
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = self._settings.max_concurrency
        scheduler.max_num_batched_tokens = max(BATCHED_TOKENS, self._settings.max_concurrency)
        try:
            pipeline = openvino_genai.ContinuousBatchingPipeline(
                folder, self._tokenizer.library, scheduler, "CPU",
                INFERENCE_NUM_THREADS=self._settings.cpus, **arithmetic(self._settings.dtype).properties,
            )  # fmt: skip
        except RuntimeError as error:
            raise EngineError(f"the model's files cannot be loaded: {_last_line(error)}") from error
        self._pipeline = pipeline
        self._read_generation_config(pipeline.get_config())
        self._loop = StepLoop(_Pipeline(openvino_genai, pipeline, self._eos), self._text_of)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="openvino",
            device="cpu",
            dtype=arithmetic(self._settings.dtype).name,
            context_length=self._context_length,
            concurrency=self._settings.max_concurrency,
        )

    def failure(self) -> str | None:
        return None if self._loop is None else self._loop.failure

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        tokens = self._tokenizer.encode(request)
        own = (request.sampling, self._settings.generation, self._model_defaults)
        return encoded_request(tokens, self._context_length, *own)

    def submit(self, request: EncodedRequest, sink: Sink) -> None:
        if self._loop is None:
            raise EngineError("the model is not loaded")
        self._loop.submit(request, sink)

    def cache_use(self) -> float | None:
        return None if self._pipeline is None else self._pipeline.get_metrics().cache_usage / 100

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()
        self._loop = self._pipeline = self._tokenizer = None

    def _text_of(self, request: EncodedRequest) -> TokenText:
        return TokenText(self._tokenizer.detokenizer(), stop=request.sampling.stop, eos=self._eos)

    def _bounded_cache(self, config: dict[str, Any]) -> int:
        weights = sum(path.stat().st_size for path in self._settings.model_path.glob("openvino_model*"))
        kv_bytes = kv_bytes_per_token(config, arithmetic(self._settings.dtype).kv_bits)
        longest = self._settings.context_length or config.get("max_position_embeddings") or FALLBACK_CONTEXT_LENGTH
        return kv_blocks(memory_limit_bytes(), weights, kv_bytes, self._settings.max_concurrency, longest)

    def _bounded_context(self, config: dict[str, Any], cached_tokens: int) -> int:
        own = config.get("max_position_embeddings") or FALLBACK_CONTEXT_LENGTH
        wanted = self._settings.context_length or own
        if wanted > own:
            log.warning("context_length %d is more than the model's own %d, which is used", wanted, own)
        if cached_tokens < min(own, wanted):
            log.warning("memory has room for a context of %d tokens; raise resources.memory for more", cached_tokens)
        return int(min(own, wanted, cached_tokens))

    def _read_generation_config(self, config: Any) -> None:
        found = {config.eos_token_id, *config.stop_token_ids, self._tokenizer.library.get_eos_token_id()}
        self._eos = frozenset(token for token in found if token >= 0)
        if config.do_sample:
            top_k = config.top_k if config.top_k < 2**31 else 0
            self._model_defaults = PartialSampling(temperature=config.temperature, top_p=config.top_p, top_k=top_k)


class _Pipeline:
    """See `runner.engines.stepping.BatchPipeline`."""

    def __init__(self, library: Any, pipeline: Any, eos: frozenset[int]) -> None:
        import numpy
        import openvino

        self._numpy, self._tensor = numpy, openvino.Tensor
        self._library = library
        self._pipeline = pipeline
        self._eos = eos
        self._ids = itertools.count()
        # Named once: an attribute of a bound enumeration costs more than the comparison.
        self._reasons: dict[Any, FinishReason] = {
            library.GenerationFinishReason.STOP: "stop",
            library.GenerationFinishReason.LENGTH: "length",
        }

    def add(self, request: EncodedRequest) -> BatchSequence:
        tokens = self._tensor(self._numpy.array([request.prompt_tokens], dtype=self._numpy.int64))
        try:
            handle = self._pipeline.add_request(next(self._ids), tokens, self._generation_config(request))
        except RuntimeError as error:
            raise RequestFailed(f"the engine refuses this request: {_last_line(error)}") from error
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
        return config


class _Sequence:
    def __init__(self, handle: Any, reasons: dict[Any, FinishReason], ignored: Any) -> None:
        self._handle = handle
        self._reasons = reasons
        self._ignored = ignored

    def take(self) -> Tokens | None:
        if not self._handle.can_read():
            if self._handle.get_status() == self._ignored:
                raise RequestFailed("the memory has no room for this request's context; raise resources.memory")
            return None
        (output,) = self._handle.read().values()
        tokens = output.generated_ids
        if not tokens and self._handle.get_status() == self._ignored:
            raise RequestFailed("the memory has no room for this request's context; raise resources.memory")
        return Tokens(tokens, self._reasons.get(output.finish_reason))

    def cancel(self) -> None:
        self._handle.cancel()


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EngineError(f"config.json is no JSON: {error}") from None
    return config if isinstance(config, dict) else {}


def _last_line(error: BaseException) -> str:
    """OpenVINO's texts begin with where in its source they were thrown."""
    return str(error).strip().rpartition("\n")[2]
