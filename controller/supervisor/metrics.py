"""What the controller counts, in Prometheus's text form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
# From a turn that is free at once to the longest `max_wait` that is usual.
_WAIT_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_START_BUCKETS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """What is so at the moment, of one model; None where it is not known."""

    state: str
    in_flight: int
    waiting: int
    memory_bytes: int | None
    counted_bytes: int | None


class Metrics:
    """Thread-safe."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        of_model = ["model"]
        self._waits = Histogram(
            "orchestrar_queue_wait_seconds",
            "How long requests waited until they had their turn, the model's start included",
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
        self._refused = Counter(
            "orchestrar_refused_requests", "Requests that got no turn, by error code", ["model", "code"], registry=own
        )
        self._failures = Counter(
            "orchestrar_failed_starts", "Starts that failed, by error code", ["model", "code"], registry=own
        )
        self._deaths = Counter(
            "orchestrar_deaths", "Models that ended on their own while they served", of_model, registry=own
        )
        self._evictions = Counter(
            "orchestrar_evictions", "Models told to leave their memory to another one", of_model, registry=own
        )

    def waited(self, model_id: str, seconds: float) -> None:
        """A request has its turn."""
        self._waits.labels(model_id).observe(seconds)

    def refused(self, model_id: str, code: str) -> None:
        """A request got none."""
        self._refused.labels(model_id, code).inc()

    def started(self, model_id: str, seconds: float) -> None:
        """A model became ready."""
        self._starts.labels(model_id).observe(seconds)

    def start_failed(self, model_id: str, code: str) -> None:
        """A start ended otherwise."""
        self._failures.labels(model_id, code).inc()

    def died(self, model_id: str) -> None:
        """A model ended on its own."""
        self._deaths.labels(model_id).inc()

    def evicted(self, model_id: str) -> None:
        """A model leaves for another one."""
        self._evictions.labels(model_id).inc()

    def show(self, gauges: Callable[[], Mapping[str, Gauges]]) -> None:
        """Show what is so at each moment, too; asked for at each `text`."""
        self._registry.register(_Now(gauges))

    def text(self) -> bytes:
        """All of them now."""
        return generate_latest(self._registry)


class _Now(Collector):
    def __init__(self, gauges: Callable[[], Mapping[str, Gauges]]) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: prometheus-client would collect instead, before there is anything."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = self._gauges()
        state = GaugeMetricFamily("orchestrar_model_state", "1 for the state that it is in", labels=["model", "state"])
        for model_id, now in found.items():
            state.add_metric([model_id, now.state], 1)
        yield state
        for name, text, field in (
            ("in_flight", "Requests that it works on", "in_flight"),
            ("waiting", "Requests that wait for it", "waiting"),
            ("memory_bytes", "What it uses, measured every 10 s", "memory_bytes"),
            ("memory_counted_bytes", "What it takes of the memory budget", "counted_bytes"),
        ):
            family = GaugeMetricFamily(f"orchestrar_model_{name}", text, labels=["model"])
            for model_id, now in found.items():
                if (shown := getattr(now, field)) is not None:
                    family.add_metric([model_id], shown)
            yield family
