"""A load that costs little itself: one thread, ready-made request bytes, kept connections, no HTTP library."""

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
_SENT = re.compile(rb'"sent_ns":(\d+),')


def request_bytes(port: int, model: str, *, events: int | None = None, interval_us: int = 0) -> bytes:
    """A chat request; with `events`, for a stream of that many."""
    prompt = "hello" if events is None else f"events={events} interval_us={interval_us}"
    asked = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": events is not None}
    body = json.dumps(asked, separators=(",", ":")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(port: int) -> socket.socket:
    """A connection that sends at once and hangs nobody."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def is_whole(answer: bytes) -> bool:
    """Whether an answer with a length has arrived; SystemExit for any but a 200."""
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
    """One whole answer; seconds."""
    begun = time.perf_counter()
    connection.sendall(request)
    answer = b""
    while not is_whole(answer):
        answer += _receive(connection)
    return time.perf_counter() - begun


def first_event(connection: socket.socket, request: bytes) -> float:
    """One stream, read to its end; seconds until its first event."""
    begun = time.perf_counter()
    connection.sendall(request)
    answer, ttft_s = b"", 0.0
    while not answer.endswith(STREAM_END):
        answer += _receive(connection)
        if not ttft_s and b"data: " in answer:
            ttft_s = time.perf_counter() - begun
    _check_stream(answer)
    return ttft_s


def requests_per_s(port: int, request: bytes, *, connections: int, seconds: float) -> float:
    """Whole answers per second, each connection asking anew as soon as it has its answer."""
    done = 0
    with selectors.DefaultSelector() as selector:
        opened = [connect(port) for _ in range(connections)]
        partial = dict.fromkeys(opened, b"")
        for connection in opened:
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.sendall(request)
        begun = time.perf_counter()
        while (now := time.perf_counter()) < begun + seconds:
            for key, _ in selector.select(TIMEOUT_S):
                connection = key.data
                partial[connection] += _receive(connection)
                if is_whole(partial[connection]):
                    partial[connection] = b""
                    done += 1
                    connection.sendall(request)
        for connection in opened:
            connection.close()
    return done / (now - begun)


@dataclass
class Streams:
    """What several streams at once took: `delays_s` from an event's sending to its arrival."""

    wall_s: float
    delays_s: list[float] = field(default_factory=list)


def streams(port: int, request: bytes, *, count: int) -> Streams:
    """Run `count` streams together to their ends."""
    with selectors.DefaultSelector() as selector:
        opened = [connect(port) for _ in range(count)]
        begun = time.perf_counter()
        result = Streams(0)
        tails = dict.fromkeys(opened, b"")
        for connection in opened:
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.sendall(request)
        while tails:
            for key, _ in selector.select(TIMEOUT_S):
                connection = key.data
                received = _receive(connection)
                now_ns = time.perf_counter_ns()
                seen = tails[connection] + received
                sent = list(_SENT.finditer(seen))
                result.delays_s.extend((now_ns - int(found[1])) / 1e9 for found in sent)
                tails[connection] = seen[sent[-1].end() :] if sent else seen
                if seen.endswith(STREAM_END):
                    _check_stream(seen)
                    selector.unregister(connection)
                    connection.close()
                    del tails[connection]
        result.wall_s = time.perf_counter() - begun
    return result


def idle_streams(port: int, request: bytes, *, count: int) -> list[socket.socket]:
    """Streams that have begun; the caller closes them."""
    opened = [connect(port) for _ in range(count)]
    for connection in opened:
        connection.sendall(request)
    for connection in opened:
        answer = b""
        while b":\n\n" not in answer:
            answer += _receive(connection)
    return opened


def times(port: int, request: bytes, *, count: int) -> list[float]:
    """Seconds of `count` requests one after the other."""
    with closing(connect(port)) as connection:
        return [ask(connection, request) for _ in range(count)]


def _receive(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 18)
    if not received:
        raise SystemExit("the server closed a connection in the middle of its answer")
    return received


def _check_stream(answer: bytes) -> None:
    if b"data: [DONE]" not in answer:
        raise SystemExit(f"a stream failed: {answer[-500:]!r}")
