from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runner.engine import EncodedRequest, EngineError, GenerationRequest
from tests.runner.conftest import RunnerServer
from tests.runner.fake_engine import FakeEngine

Serve = Callable[..., RunnerServer]


class LateGate:
    """A gate that lets the warm-up's word through, then one word per permit."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(1)

    def acquire(self, *, timeout: float) -> bool:
        return self._permits.acquire(timeout=timeout)

    def release(self, count: int = 1) -> None:
        self._permits.release(count)


def assert_error(answer: tuple[int, Any, Any], status: int, code: str, param: str | None = None) -> str:
    """Check the one error shape; return its message."""
    assert status == answer[0]
    assert {"error"} == set(answer[1])
    error = answer[1]["error"]
    assert {"message", "type", "code", "param", "src", "request_id", "details"} == set(error)
    assert ("model", code, param) == (error["src"], error["code"], error["param"])
    assert error["request_id"]
    assert "Traceback" not in error["message"]
    return str(error["message"])


def read_event(response: Any) -> Any:
    """Return the next event's value; skip comments."""
    while True:
        line = response.readline()
        if line.startswith(b"data: "):
            return json.loads(line[6:])
        assert line.strip() in (b"", b":"), line
        if not line:
            return None


def test_health_is_503_with_the_phase_until_the_first_token(serve: Serve) -> None:
    """A loaded model that has not generated a token yet is not healthy."""
    gate, load_gate = threading.Semaphore(0), threading.Event()
    engine = FakeEngine(gate=gate, load_gate=load_gate)
    runner = serve(engine, wait=False)
    assert 503 == runner.request("GET", "/health")[0]
    assert_error(runner.request("POST", "/inference", {"prompt": "x"}), 503, "model_loading")
    load_gate.set()
    assert engine.starts.acquire(timeout=20)
    assert (503, {"status": "loading", "phase": "warming"}) == runner.request("GET", "/health")[:2]
    gate.release()
    assert runner.loader.load_end.wait(20)
    status, health, _ = runner.request("GET", "/health")
    assert (200, "ok", "fake", "fake") == (status, health["status"], health["engine"], health["model_id"])
    assert {"import_s", "load_s", "first_token_s"} == set(health["phases"])
    assert health["load_s"] >= 0


@pytest.mark.parametrize("error", [EngineError("the weights are missing"), RuntimeError("the weights are missing")])
def test_a_failed_load_gives_one_sentence(serve: Serve, error: Exception) -> None:
    """Whatever a library raises, the process learns of it and never becomes healthy."""
    engine = FakeEngine()
    engine.load_error = error
    runner = serve(engine)
    assert runner.loader.failure is not None
    assert "the weights are missing" in runner.loader.failure
    assert 503 == runner.request("GET", "/health")[0]


def test_an_answer_has_text_usage_and_timings(serve: Serve) -> None:
    """A plain answer has all fields of the contract."""
    status, answer, _ = serve(FakeEngine()).request("POST", "/inference", {"prompt": "one two"})
    assert 200 == status
    assert {"text", "finish_reason", "usage", "timings"} == set(answer)
    assert ("one two ", "stop") == (answer["text"], answer["finish_reason"])
    assert {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9} == answer["usage"]
    assert 0 <= answer["timings"]["ttft_s"] <= answer["timings"]["total_s"]


def test_messages_are_answered_and_max_tokens_ends_with_length(serve: Serve) -> None:
    """A conversation is a request, too, and an answer that was cut says so."""
    body = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 2}
    status, answer, _ = serve(FakeEngine()).request("POST", "/inference", body)
    assert (200, "one two ", "length") == (status, answer["text"], answer["finish_reason"])


def test_a_stream_sends_each_piece_at_once(serve: Serve) -> None:
    """An event arrives before the next token exists; the last event is the summary."""
    gate = LateGate()
    runner = serve(FakeEngine(gate=gate))
    gate.release()
    connection, response = runner.stream({"prompt": "one two"})
    assert "text/event-stream; charset=utf-8" == response.headers["Content-Type"]
    assert {"text": "one "} == read_event(response)
    gate.release()
    assert {"text": "two "} == read_event(response)
    end = read_event(response)
    assert {"done", "finish_reason", "usage", "timings"} == set(end)
    assert (True, "stop", 2) == (end["done"], end["finish_reason"], end["usage"]["completion_tokens"])
    assert read_event(response) is None
    connection.close()


def test_a_silent_stream_sends_comments(serve: Serve) -> None:
    """While the engine reads the prompt, comments show that the connection is alive."""
    gate = LateGate()
    runner = serve(FakeEngine(gate=gate))
    connection, response = runner.stream({"prompt": "one"})
    assert b":\n" == response.readline()
    gate.release()
    assert {"text": "one "} == read_event(response)
    connection.close()


def test_a_failure_after_the_start_is_an_event_without_done(serve: Serve) -> None:
    """A stream that fails says so and never looks complete."""
    engine = FakeEngine()
    runner = serve(engine)
    engine.fail_after = 1
    connection, response = runner.stream({"prompt": "one two"})
    events = [read_event(response)]
    while events[-1] is not None:
        events.append(read_event(response))
    connection.close()
    assert "generation_failed" == events[-2]["error"]["code"]
    assert not any("done" in event for event in events[:-1])


def test_an_engine_that_has_failed_is_unhealthy(serve: Serve) -> None:
    """After its failure, /health is 503 with the reason and new requests get a 503 so that clients retry; the process
    ends even if the only requests are for its health."""
    engine = FakeEngine()
    runner = serve(engine)
    engine.failure_reason = "out of pages"
    status, health, _ = runner.request("GET", "/health")
    assert (status, health) == (503, {"status": "failed", "reason": "out of pages"})
    assert "out of pages" == runner.loader.failure
    assert "out of pages" in assert_error(runner.request("POST", "/inference", {"prompt": "one"}), 503, "engine_failed")


def test_a_failure_before_the_answer_is_a_500(serve: Serve) -> None:
    """A failed engine gives an error in the one shape, with the reason and without a traceback."""
    engine = FakeEngine()
    runner = serve(engine)
    engine.fail_after = 1
    message = assert_error(runner.request("POST", "/inference", {"prompt": "one two"}), 500, "generation_failed")
    assert "the fake failed" in message


class Unlucky(FakeEngine):
    """Fails to encode a prompt that is not at fault."""

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        if request.prompt == "unlucky":
            raise EngineError("the grammar's compiler failed")
        return super().encode(request)


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_to_encode_is_a_500(serve: Serve, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that cannot encode gives a server error with its reason in the log, and the request takes no place."""
    runner = serve(Unlucky(), max_concurrency=1)
    for _ in range(6):
        answer = runner.request("POST", "/inference", {"prompt": "unlucky", "stream": stream})
        assert_error(answer, 500, "internal_error")
        assert "server_error" == answer[1]["error"]["type"]
    assert "the grammar's compiler failed" in caplog.text
    assert 200 == runner.request("POST", "/inference", {"prompt": "one"})[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_generation(serve: Serve, stream: bool) -> None:
    """Streamed or not, a closed connection ends the work, even if nothing is written to it."""
    engine = FakeEngine(gate=LateGate())
    runner = serve(engine)
    assert engine.ends.acquire(timeout=20)
    assert engine.starts.acquire(timeout=20)
    connection = runner.connect()
    connection.request("POST", "/inference", json.dumps({"prompt": "one two", "stream": stream}))
    assert engine.starts.acquire(timeout=20)
    connection.sock.close()
    assert engine.ends.acquire(timeout=20)


def test_a_client_that_leaves_the_queue_is_never_served(serve: Serve) -> None:
    """If a client leaves while it waits, the next one takes its place."""
    gate = LateGate()
    engine = FakeEngine(gate=gate)
    runner = serve(engine)
    engine.starts.acquire(timeout=20)
    first, response = runner.stream({"prompt": "first"})
    engine.starts.acquire(timeout=20)
    left, left_response = runner.stream({"prompt": "left"})
    assert b":\n" == left_response.readline()
    left_response.close()
    left.close()
    last, last_response = runner.stream({"prompt": "last"})
    assert b":\n" == last_response.readline()
    gate.release(2)
    assert {"text": "first "} == read_event(response)
    assert {"text": "last "} == read_event(last_response)
    assert "left" not in engine.prompts
    for connection in (first, last):
        connection.close()


def test_more_than_the_places_is_refused_at_once(serve: Serve) -> None:
    """Threads stay free for /health: a request that cannot wait inside gets a 503 with Retry-After."""
    gate = LateGate()
    runner = serve(FakeEngine(gate=gate), max_concurrency=1)
    waiting = [runner.stream({"prompt": "x"}) for _ in range(5)]
    answer = runner.request("POST", "/inference", {"prompt": "x"})
    assert_error(answer, 503, "overloaded")
    assert "1" == answer[2]["Retry-After"]
    assert 200 == runner.request("GET", "/health")[0]
    gate.release(5)
    for connection, response in waiting:
        response.read()
        connection.close()
    gate.release()
    assert 200 == runner.request("POST", "/inference", {"prompt": "x"})[0]


def test_refusals_have_one_shape_and_the_right_status(serve: Serve) -> None:
    """Wrong bodies, routes, methods and sizes give a 4xx; the request id is the caller's."""
    runner = serve(FakeEngine())
    assert_error(runner.request("GET", "/nothing"), 404, "route_not_found")
    answer = runner.request("GET", "/inference")
    assert_error(answer, 405, "method_not_allowed")
    assert "POST" in answer[2]["Allow"]
    assert_error(runner.request("POST", "/inference", b"{"), 400, "invalid_body")
    assert_error(runner.request("POST", "/inference", {"prompt": "x", "mood": 1}), 400, "invalid_body", "mood")
    assert_error(runner.request("POST", "/inference", b" " * (16 * 1024 * 1024 + 1)), 413, "body_too_large")
    deep = b'{"prompt": ' + b"[" * 100_000
    assert_error(runner.request("POST", "/inference", deep), 400, "invalid_body")
    answer = runner.request("POST", "/inference", b"{", {"X-Request-Id": "from-the-caller"})
    assert "from-the-caller" == answer[1]["error"]["request_id"]


def test_a_prompt_longer_than_the_context_names_both_lengths(serve: Serve) -> None:
    """The client learns how much to cut, even if it asked for a stream."""
    runner = serve(FakeEngine())
    for stream in (False, True):
        answer = runner.request("POST", "/inference", {"prompt": "x" * 150, "stream": stream})
        message = assert_error(answer, 400, "context_length_exceeded", "prompt")
        assert "150" in message
        assert "100" in message
