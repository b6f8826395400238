"""A load that costs little: one thread, request bytes made in advance, kept connections, no HTTP library."""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from contextlib import closing
from dataclasses import dataclass, field

TIMEOUT_S = 30.0
STREAM_END = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SEND_TIME = re.compile(rb'"sent_ns":(\d+),')


def request_bytes(port: int, model: str, *, events: int | None = None, interval_us: int = 0) -> bytes:
    """Return a chat request; with `events`, for a stream of that many."""
    prompt = "hello" if events is None else f"events={events} interval_us={interval_us}"
    value = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": events is not None}
    body = json.dumps(value, separators=(",", ":")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(port: int) -> socket.socket:
    """Open a connection that sends at once and has a time-out."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def is_whole(answer: bytes) -> bool:
    """Return whether an answer with a length has arrived; raise SystemExit unless it is a 200."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"the server refused: {answer[:500]!r}")
    length = _LENGTH.search(answer, 0, end)
    if length is None:
        raise SystemExit(f"an answer without a length: {answer[:500]!r}")
    return len(answer) >= end + 4 + int(length[1])


def ask(connection: socket.socket, request: bytes) -> float:
    """Request one whole answer; return the seconds it took."""
    began_at = time.perf_counter()
    connection.sendall(request)
    answer = b""
    while not is_whole(answer):
        answer += _receive(connection)
    return time.perf_counter() - began_at


def first_event(connection: socket.socket, request: bytes) -> float:
    """Read one stream to its end; return the seconds until its first event."""
    began_at = time.perf_counter()
    connection.sendall(request)
    answer, ttft_s = b"", 0.0
    while not answer.endswith(STREAM_END):
        answer += _receive(connection)
        if not ttft_s and b"data: " in answer:
            ttft_s = time.perf_counter() - began_at
    _check_stream(answer)
    return ttft_s


def requests_per_s(port: int, request: bytes, *, connections: int, seconds: float) -> float:
    """Return whole answers per second; each connection sends its next request when it has its answer."""
    count = 0
    with selectors.DefaultSelector() as selector:
        sockets = [connect(port) for _ in range(connections)]
        partial = dict.fromkeys(sockets, b"")
        for connection in sockets:
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.sendall(request)
        began_at = time.perf_counter()
        while (now := time.perf_counter()) < began_at + seconds:
            for key, _ in selector.select(TIMEOUT_S):
                connection = key.data
                partial[connection] += _receive(connection)
                if is_whole(partial[connection]):
                    partial[connection] = b""
                    count += 1
                    connection.sendall(request)
        for connection in sockets:
            connection.close()
    return count / (now - began_at)


@dataclass
class Streams:
    """The times of several streams at once; `delays_s` are from an event's sending to its arrival."""

    wall_s: float
    delays_s: list[float] = field(default_factory=list)


def streams(port: int, request: bytes, *, count: int) -> Streams:
    """Run `count` streams at once to their ends."""
    with selectors.DefaultSelector() as selector:
        sockets = [connect(port) for _ in range(count)]
        began_at = time.perf_counter()
        result = Streams(0)
        tails = dict.fromkeys(sockets, b"")
        for connection in sockets:
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.sendall(request)
        while tails:
            for key, _ in selector.select(TIMEOUT_S):
                connection = key.data
                data = _receive(connection)
                now_ns = time.perf_counter_ns()
                text = tails[connection] + data
                matches = list(_SEND_TIME.finditer(text))
                result.delays_s.extend((now_ns - int(match[1])) / 1e9 for match in matches)
                tails[connection] = text[matches[-1].end() :] if matches else text
                if text.endswith(STREAM_END):
                    _check_stream(text)
                    selector.unregister(connection)
                    connection.close()
                    del tails[connection]
        result.wall_s = time.perf_counter() - began_at
    return result


def idle_streams(port: int, request: bytes, *, count: int) -> list[socket.socket]:
    """Begin `count` streams and return their connections; the caller closes them."""
    sockets = [connect(port) for _ in range(count)]
    for connection in sockets:
        connection.sendall(request)
    for connection in sockets:
        answer = b""
        while b":\n\n" not in answer:
            answer += _receive(connection)
    return sockets


def times(port: int, request: bytes, *, count: int) -> list[float]:
    """Return the seconds that each of `count` requests took, one after the other."""
    with closing(connect(port)) as connection:
        return [ask(connection, request) for _ in range(count)]


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise SystemExit("the server closed a connection in the middle of its answer")
    return data


def _check_stream(answer: bytes) -> None:
    if b"data: [DONE]" not in answer:
        raise SystemExit(f"a stream failed: {answer[-500:]!r}")
