"""What the runner counts, in Prometheus's text form."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from runner.engine import Engine
from runner.jobs import Job


class Metrics:
    """Thread-safe."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "orchestrar_runner_requests", "Generations that have ended, by how", ["finish"], registry=own
        )
        for finish in ("stop", "length", "cancelled", "failed"):
            self._requests.labels(finish)
        self._prompt_tokens = Counter("orchestrar_runner_prompt_tokens", "Tokens of their prompts", registry=own)
        self._tokens = Counter("orchestrar_runner_completion_tokens", "Tokens generated for them", registry=own)
        self._in_flight = Gauge("orchestrar_runner_in_flight", "Generations that wait or run", registry=own)
        self._cache_use = Gauge(
            "orchestrar_runner_kv_cache_use_ratio", "Share of the KV cache in use; NaN where not known", registry=own
        )

    def begun(self) -> None:
        """A generation was taken on."""
        self._in_flight.inc()

    def ended(self, job: Job) -> None:
        """It has ended, in whatever way; once for each."""
        self._in_flight.dec()
        self._requests.labels(job.outcome()).inc()
        self._prompt_tokens.inc(len(job.request.prompt_tokens))
        self._tokens.inc(job.completion_tokens)

    def text(self) -> bytes:
        """All of them now."""
        use = self._engine.cache_use()
        self._cache_use.set(float("nan") if use is None else use)
        return generate_latest(self._registry)
