"""The runner's metrics, in Prometheus's text format."""

from __future__ import annotations

from typing import Literal, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from runner.engine import Engine
from runner.engines.job import Job

CONTENT_TYPE = CONTENT_TYPE_LATEST
EmbeddingOutcome = Literal["done", "cancelled", "failed"]


class MetricsSource(Protocol):
    """Something with metrics to show."""

    def text(self) -> bytes:
        """Return all metrics as they are now."""


class EmbeddingMetrics:
    """Thread-safe."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        name = "orchestrar_runner_embedding_requests"
        self._requests = Counter(name, "Finished requests for embeddings, by outcome", ["finish"], registry=own)
        for finish in ("done", "cancelled", "failed"):
            self._requests.labels(finish)
        self._texts = Counter("orchestrar_runner_embedded_texts", "Texts embedded for these requests", registry=own)
        self._tokens = Counter("orchestrar_runner_prompt_tokens", "Tokens in the texts of these requests", registry=own)
        self._in_flight = Gauge("orchestrar_runner_in_flight", "Requests that wait or run", registry=own)

    def note_start(self) -> None:
        """Count a request that the runner accepted."""
        self._in_flight.inc()

    def note_end(self, outcome: EmbeddingOutcome, *, texts: int, tokens: int) -> None:
        """Count the end of a request, and how many of its texts were embedded; call once for each."""
        self._in_flight.dec()
        self._requests.labels(outcome).inc()
        self._texts.inc(texts)
        self._tokens.inc(tokens)

    def text(self) -> bytes:
        """Return all metrics as they are now."""
        return generate_latest(self._registry)


class Metrics:
    """Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "orchestrar_runner_requests", "Finished generations, by outcome", ["finish"], registry=own
        )
        for finish in ("stop", "length", "cancelled", "failed"):
            self._requests.labels(finish)
        self._prompt_tokens = Counter("orchestrar_runner_prompt_tokens", "Tokens in their prompts", registry=own)
        self._tokens = Counter("orchestrar_runner_completion_tokens", "Tokens that they generated", registry=own)
        self._in_flight = Gauge("orchestrar_runner_in_flight", "Generations that wait or run", registry=own)
        self._cache_use = Gauge(
            "orchestrar_runner_kv_cache_use_ratio", "Share of the KV cache in use; NaN if unknown", registry=own
        )

    def note_start(self) -> None:
        """Count a generation that the runner accepted."""
        self._in_flight.inc()

    def note_end(self, job: Job) -> None:
        """Count the end of a generation, whatever its outcome; call once for each."""
        self._in_flight.dec()
        self._requests.labels(job.outcome()).inc()
        self._prompt_tokens.inc(len(job.request.prompt_tokens))
        self._tokens.inc(job.completion_tokens)

    def text(self) -> bytes:
        """Return all metrics as they are now."""
        use = self._engine.cache_use()
        self._cache_use.set(float("nan") if use is None else use)
        return generate_latest(self._registry)
