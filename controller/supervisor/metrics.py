"""What the controller counts, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
# From a lease that is free at once to the longest usual `max_wait`.
_WAIT_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_START_BUCKETS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """The present values of one model; None if a value is not known."""

    state: str
    in_flight: int
    waiting: int
    memory_bytes: int | None
    counted_bytes: int | None


class Metrics:
    """Counters, histograms and gauges of all models. Thread-safe."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        of_model = ["model"]
        # Observed by each request: a method here would cost it a call.
        self.queue_wait_s = Histogram(
            "orchestrar_queue_wait_seconds",
            "How long requests waited for their turn, the model's start included",
            of_model,
            buckets=_WAIT_BUCKETS_S,
            registry=own,
        )
        self._starts = Histogram(
            "orchestrar_start_seconds",
            "How long starts took until the model was ready",
            of_model,
            buckets=_START_BUCKETS_S,
            registry=own,
        )
        self._refusals = Counter(
            "orchestrar_refused_requests", "Requests that got no turn, by error code", ["model", "code"], registry=own
        )
        self._failures = Counter(
            "orchestrar_failed_starts", "Starts that failed, by error code", ["model", "code"], registry=own
        )
        self._deaths = Counter(
            "orchestrar_deaths", "Models that ended on their own while they served", of_model, registry=own
        )
        self._evictions = Counter(
            "orchestrar_evictions", "Models that were stopped to make room for another one", of_model, registry=own
        )

    def count_refusal(self, model_id: str, code: str) -> None:
        """Count a request that got no lease."""
        self._refusals.labels(model_id, code).inc()

    def count_start(self, model_id: str, seconds: float) -> None:
        """Count a model that became ready."""
        self._starts.labels(model_id).observe(seconds)

    def count_failed_start(self, model_id: str, code: str) -> None:
        """Count a start that failed."""
        self._failures.labels(model_id, code).inc()

    def count_death(self, model_id: str) -> None:
        """Count a model that ended on its own."""
        self._deaths.labels(model_id).inc()

    def count_eviction(self, model_id: str) -> None:
        """Count a model that is stopped to make room for another one."""
        self._evictions.labels(model_id).inc()

    def show(self, gauges: Callable[[], Mapping[str, Gauges]]) -> None:
        """Show these gauges, too; `gauges` is called at each `text`."""
        self._registry.register(_GaugeCollector(gauges))

    def text(self) -> bytes:
        """Return all metrics as they are now."""
        return generate_latest(self._registry)


class _GaugeCollector(Collector):
    def __init__(self, gauges: Callable[[], Mapping[str, Gauges]]) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: prometheus-client would collect instead, before there is anything."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauges = self._gauges()
        state = GaugeMetricFamily(
            "orchestrar_model_state", "1 for the model's present state", labels=["model", "state"]
        )
        for model_id, now in gauges.items():
            state.add_metric([model_id, now.state], 1)
        yield state
        for name, text, field in (
            ("in_flight", "Requests in flight", "in_flight"),
            ("waiting", "Requests that wait for the model", "waiting"),
            ("memory_bytes", "Memory that the model uses, measured every 10 s", "memory_bytes"),
            ("memory_counted_bytes", "Its part of the memory budget", "counted_bytes"),
        ):
            family = GaugeMetricFamily(f"orchestrar_model_{name}", text, labels=["model"])
            for model_id, now in gauges.items():
                if (value := getattr(now, field)) is not None:
                    family.add_metric([model_id], value)
            yield family
