"""What `GET /metrics` of the runner reports."""

from __future__ import annotations

import threading
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.runner.api.test_routes import LateGate, read_event
from tests.runner.conftest import RunnerServer
from tests.runner.fake_engine import FakeEmbedder, FakeEngine

Serve = Callable[..., RunnerServer]


def metrics(runner: RunnerServer) -> dict[str, float]:
    """Return each value by its name without the prefix, with its one label's value."""
    connection = runner.connect()
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    text = response.read().decode()
    connection.close()
    return {
        " ".join([sample.name.removeprefix("orchestrar_runner_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def wait_for(runner: RunnerServer, name: str, value: float) -> None:
    """Wait for a value: an answer's end reaches the client a moment before it is counted."""
    for _ in range(2000):
        if metrics(runner)[name] == value:
            return
        threading.Event().wait(0.005)
    raise AssertionError(metrics(runner))


def test_each_generation_is_counted_by_its_end(serve: Serve) -> None:
    """A client that leaves in the middle counts as cancelled, with its tokens; nothing stays in flight."""
    gate = LateGate()
    engine = FakeEngine(gate=gate)
    runner = serve(engine)
    connection, response = runner.stream({"prompt": "one two three"})
    gate.release()
    assert {"text": "one "} == read_event(response)
    assert 1 == metrics(runner)["in_flight"]
    response.close()
    connection.close()
    wait_for(runner, "requests_total cancelled", 1)
    gate.release(10)
    assert 200 == runner.request("POST", "/inference", {"prompt": "four five"})[0]
    runner.request("POST", "/inference", {"prompt": "six seven", "max_tokens": 1})
    engine.fail_after = 0
    assert 500 == runner.request("POST", "/inference", {"prompt": "eight"})[0]
    wait_for(runner, "requests_total failed", 1)
    values = metrics(runner)
    assert (1, 1, 0) == (values["requests_total stop"], values["requests_total length"], values["in_flight"])
    assert 4 == values["completion_tokens_total"]
    assert len("one two threefour fivesix seveneight") == values["prompt_tokens_total"]


def test_metrics_report_the_use_of_the_cache_if_the_engine_knows_it(serve: Serve) -> None:
    """An unknown value is NaN."""
    engine = FakeEngine()
    runner = serve(engine)
    assert metrics(runner)["kv_cache_use_ratio"] != metrics(runner)["kv_cache_use_ratio"]
    engine.cache_use = lambda: 0.25  # type: ignore[method-assign]
    assert 0.25 == metrics(runner)["kv_cache_use_ratio"]


def test_embeddings_are_counted_too(serve: Serve) -> None:
    """Requests by outcome, their texts and tokens; a refused request does not count."""
    runner = serve(FakeEmbedder())
    assert metrics(runner)["embedding_requests_total done"] == 0
    assert runner.request("POST", "/v1/embeddings", {"input": ["ab", "@"]})[0] == 200
    assert runner.request("POST", "/v1/embeddings", {"input": [""]})[0] == 400
    wait_for(runner, "embedding_requests_total done", 1)
    values = metrics(runner)
    assert (values["embedded_texts_total"], values["prompt_tokens_total"], values["in_flight"]) == (2, 3, 0)
