"""Streams through the real gunicorn, carried past it by the pump: how they end, and what becomes of connections."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from bench.stubbed_controller import MODEL, controller_before
from tests.fakes import HANG_S
from tests.stub_runner import StubRunner, serving


def chat_events(messages: list[dict[str, str]]) -> list[str]:
    special_events = {"!": "!", "?": "?", "fail": json.dumps({"error": {"message": "the engine broke"}})}
    words = messages[-1]["content"].split(",")
    events = [special_events.get(word) or json.dumps({"choices": [{"delta": {"content": word}}]}) for word in words]
    return [*events, json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}), "[DONE]"]


class Runner(StubRunner):
    """Sends the pieces that the prompt lists, `!` to die, `?` to wait until its client has left.

    In a chat they are events of the OpenAI API, `fail` is an error.
    """

    client_left = threading.Event()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not body.get("stream"):
            self.send_whole(200, b'{"text": "whole", "timings": {}}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in chat_events(body["messages"]) if "messages" in body else body["prompt"].split(","):
            if piece == "!":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if piece == "?":
                self.connection.settimeout(HANG_S)
                assert self.connection.recv(1) == b""
                self.client_left.set()
                self.close_connection = True
                return
            event = b"data: %b\n\n" % piece.encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture(scope="module")
def runner_port() -> Iterator[int]:
    with serving(Runner) as port:
        yield port


@pytest.fixture(scope="module")
def controller(runner_port: int) -> Iterator[int]:
    with controller_before(runner_port) as (port, _):
        yield port


@pytest.fixture
def connection(controller: int) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", controller, timeout=HANG_S)) as connection:
        yield connection


def ask(connection: http.client.HTTPConnection, prompt: str, *, stream: bool = True) -> http.client.HTTPResponse:
    body = {"model_id": MODEL, "prompt": prompt, "stream": stream}
    connection.request("POST", "/inference", json.dumps(body))
    return connection.getresponse()


def events(raw: bytes) -> list[str]:
    assert raw.endswith(b"\n\n")
    return [event.removeprefix("data: ") for event in raw.decode().split("\n\n")[:-1]]


def in_flight(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/status")
    status: Any = json.loads(connection.getresponse().read())
    return int(status["models"][0]["in_flight"])


def test_a_stream_and_what_follows_it(connection: http.client.HTTPConnection) -> None:
    """A stream arrives whole, its connection serves the next requests, and no lease is held."""
    sock = None
    for count in (1, 2, 50):
        pieces = [f"piece {number}" for number in range(count)]
        assert pieces == events(ask(connection, ",".join(pieces)).read())
        sock = sock or connection.sock
        assert sock is connection.sock
        assert "whole" == json.loads(ask(connection, "x", stream=False).read())["text"]
    assert 0 == in_flight(connection)


def test_many_streams_at_once(controller: int) -> None:
    """Each client gets its own stream, whole."""

    def has_its_own(number: int) -> bool:
        pieces = [f"{number}.{turn}" for turn in range(40)]
        with closing(http.client.HTTPConnection("127.0.0.1", controller, timeout=HANG_S)) as connection:
            return pieces == events(ask(connection, ",".join(pieces)).read())

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(has_its_own, range(64)))


def test_requests_sent_together_are_all_answered(controller: int) -> None:
    """Requests that arrive in one piece, the next before the first is answered, get their answers in order."""
    body = json.dumps({"model_id": MODEL, "prompt": "a,b", "stream": True}).encode()
    request = b"POST /inference HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", controller), HANG_S) as client:
        client.sendall(request * 3)
        answers = b""
        while answers.count(b"\r\n0\r\n\r\n") < 3:
            data = client.recv(65536)
            assert data, answers
            answers += data
    assert 3 == answers.count(b"data: a\n\n") == answers.count(b"data: b\n\n")


@pytest.mark.parametrize("before", ["a", "a,b,c"])
def test_a_model_that_dies_mid_stream_ends_it_with_an_error(
    connection: http.client.HTTPConnection, before: str
) -> None:
    """One error event ends a stream that breaks, nothing follows it, and the connection stays usable."""
    *pieces, last = events(ask(connection, before + ",!").read())
    assert before.split(",") == pieces
    assert "model_died" == json.loads(last)["error"]["code"]
    assert ["next"] == events(ask(connection, "next").read())
    assert 0 == in_flight(connection)


def test_a_client_that_leaves_ends_the_models_work(controller: int) -> None:
    """The connection to the model is closed even while the model is silent."""
    Runner.client_left.clear()
    client = http.client.HTTPConnection("127.0.0.1", controller, timeout=HANG_S)
    response = ask(client, "a,b,?")
    assert ["a", "b"] == events(response.read1(9) + response.read1(9))
    response.close()
    client.close()
    assert Runner.client_left.wait(HANG_S)


def chat(connection: http.client.HTTPConnection, content: str) -> list[dict[str, Any]]:
    """Chat by Ollama's API, whose lines are the model's events, translated."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    connection.request("POST", "/api/chat", json.dumps(body))
    return [json.loads(line) for line in connection.getresponse().read().splitlines()]


def test_a_translated_stream(connection: http.client.HTTPConnection) -> None:
    """Each event is translated on its way, the end too, and the connection serves the next request."""
    for _ in range(2):
        *lines, last = chat(connection, "a,b,c")
        assert ["a", "b", "c"] == [line["message"]["content"] for line in lines]
        assert last["done"]
    assert 0 == in_flight(connection)


def test_a_translated_stream_that_breaks(connection: http.client.HTTPConnection) -> None:
    """What came before is kept, and one error in the same form ends it."""
    *lines, last = chat(connection, "a,b,!")
    assert ["a", "b"] == [line["message"]["content"] for line in lines]
    assert "model_died" == last["code"]
    assert "a" == chat(connection, "a")[0]["message"]["content"]


def test_a_failure_that_the_model_reports_ends_the_stream(connection: http.client.HTTPConnection) -> None:
    """An error among the events is the end, even if the model's connection stays open; then we close it."""
    Runner.client_left.clear()
    *lines, last = chat(connection, "a,b,fail,?")
    assert ["a", "b"] == [line["message"]["content"] for line in lines]
    assert "the engine broke" in last["error"]
    assert Runner.client_left.wait(HANG_S)
    assert 0 == in_flight(connection)


def test_an_old_client_gets_the_stream_unframed(controller: int) -> None:
    """HTTP/1.0 knows no chunks: the stream ends with its connection."""
    body = json.dumps({"model_id": MODEL, "prompt": "a,b", "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", controller), HANG_S) as old:
        old.sendall(b"POST /inference HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = b""
        while data := old.recv(65536):
            answer += data
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert ["a", "b"] == events(content)


def test_a_shutdown_cuts_with_an_error(runner_port: int) -> None:
    """A stream that outlasts the grace period ends with an error event that says why, not in silence."""
    with (
        controller_before(runner_port) as (port, pid),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)) as connection,
    ):
        response = ask(connection, "a,b,?")
        assert ["a", "b"] == events(response.read1(9) + response.read1(9))
        os.kill(pid, signal.SIGTERM)
        assert "shutting_down" == json.loads(events(response.read())[-1])["error"]["code"]
