"""Clients that are slow, leave early or do not speak HTTP, against the real gunicorn."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.docker.conftest import Build
from tests.docker.house import House
from tests.errorshape import check_error


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house({"echo": {}, "slow": {"env": {"FAKE_START_S": "4"}}}, ORCHESTRAR_MAX_IN_FLIGHT="4")


def raw(house: House, *parts: bytes) -> tuple[int, object]:
    """Send bytes unchanged, and return status and body of the answer."""
    with socket.create_connection(("127.0.0.1", house.port), 10) as connection:
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


HEAD = b"POST /inference HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (HEAD + b"Content-Length: nine\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX", 400),
        (HEAD + b"Content-Length: 500\r\n\r\n{}", 400),
    ],
    ids=["no http", "long line", "long header", "length", "chunk size", "chunk end", "short body"],
)
def test_broken_requests_get_our_error_format(house: House, request_bytes: bytes, status: int) -> None:
    """What gunicorn itself refuses, and broken bodies, are answered in our error format: never HTML, never a 500."""
    check_error(*raw(house, request_bytes), status, "invalid_body")


def test_a_chunked_body_is_bounded(house: House) -> None:
    """A body without a length that is too large gets a 413, and is not cut to what fits."""
    pieces = [b'{"model_id": "echo", "prompt": "hello"}', *[b" " * (1 << 20)] * 10]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    answer = raw(house, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", body, b"0\r\n\r\n")
    check_error(*answer, 413, "body_too_large")


def test_slow_closers_delay_no_other_client(house: House) -> None:
    """Clients that ask for a close and then keep their side open do not delay other requests."""
    connections = [socket.create_connection(("127.0.0.1", house.port), 10) for _ in range(10)]
    for connection in connections:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for connection in connections:
        assert connection.recv(12) == b"HTTP/1.1 200"
    started_at = time.monotonic()
    assert house.get("/health").ok
    assert time.monotonic() - started_at < 1
    for connection in connections:
        connection.close()


def test_waiting_requests_leave_health_a_thread(house: House) -> None:
    """While requests that wait for a start take all places, more are refused at once, and /health answers."""
    with ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(house.post, "/run", {"model_id": "slow"}) for _ in range(40)]
        refusals = [answer for answer in answers if answer.result().status_code == 503]
        assert requests.get(house.url + "/health", timeout=5).ok
        assert len(refusals) >= 30
    for answer in refusals:
        response = answer.result()
        check_error(response.status_code, response.json(), 503, "overloaded")
        assert response.headers["Retry-After"] == "1"
