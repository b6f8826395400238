"""A stream of events between an engine that pushes and a server that asks for items."""

from __future__ import annotations

import json
import socket
import threading

from hypothesis import given
from hypothesis import strategies as st

from runner.api.client_socket import ClientSocketWriter
from runner.api.event_stream import KEEP_ALIVE, EventStream, NativeFormat, TextEvent, sse_event
from runner.engine import EngineError, FinishReason, Piece
from tests.runner.engines.watched_job import WatchedJob

TIMEOUT_S = 20.0


class Server:
    """Writes a stream's items to a client on a thread of its own, as a server does; `serve` ends with the stream."""

    def __init__(self, *, silence_s: float = TIMEOUT_S) -> None:
        self.socket, self.client = socket.socketpair()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.socket.settimeout(TIMEOUT_S)
        self.client.settimeout(TIMEOUT_S)
        self.job = WatchedJob()
        self.items: list[bytes] = []
        self.close_count = 0
        self.error: OSError | None = None
        self.stream = EventStream(
            self.job, NativeFormat(), request_id="r", on_close=self._close, silence_s=silence_s,
            socket_writer=ClientSocketWriter(self.socket, is_chunked=False),
        )  # fmt: skip
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.job.cancel()
        self.thread.join(TIMEOUT_S)
        self.client.close()

    def serve(self) -> None:
        with self.socket:
            try:
                for item in self.stream:
                    self.items.append(item)
                    self.socket.sendall(item)
            except OSError as error:
                self.error = error
            finally:
                self.stream.close()

    def put(self, text: str, count: int, reason: FinishReason | None = None) -> None:
        self.job.put(Piece(text=text, completion_tokens=count, finish_reason=reason))

    def _close(self) -> None:
        self.close_count += 1


def events(data: bytes) -> list[dict[str, object]]:
    return [json.loads(block[6:]) for block in data.decode().split("\n\n") if block.startswith("data: ")]


def read_to_end(client: socket.socket) -> bytes:
    content = b""
    while data := client.recv(65536):
        content += data
    return content


def text_of(stream: list[dict[str, object]]) -> str:
    return "".join(str(event["text"]) for event in stream if "text" in event)


def test_the_server_writes_only_the_first_and_the_last_piece() -> None:
    """The server writes its head before the first, and learns of the end; nothing wakes it in between."""
    with Server() as server:
        assert server.job.asleep.acquire(timeout=TIMEOUT_S)
        server.put("one ", 1)
        assert {"text": "one "} == json.loads(server.client.recv(1000)[6:])
        assert server.job.asleep.acquire(timeout=TIMEOUT_S)
        for count in range(2, 30):
            server.put(f"{count} ", count)
            assert f"{count} " == text_of(events(server.client.recv(1000)))
        server.put("last", 30, "stop")
        stream = events(read_to_end(server.client))
    assert ("last", True) == (text_of(stream), stream[-1]["done"])
    assert 2 == len(server.items)
    assert 1 == server.close_count


def test_a_slow_reader_does_not_delay_the_engine_and_gets_all_text() -> None:
    """`put` never waits; text for which the socket has no room comes in order, in fewer and longer pieces."""
    with Server() as server:
        for count in range(1, 2000):
            server.put(f"{count} ", count)
        server.put("end", 2000, "length")
        assert 2000 == server.job.completion_tokens
        stream = events(read_to_end(server.client))
    assert "".join(f"{count} " for count in range(1, 2000)) + "end" == text_of(stream)
    assert "length" == stream[-1]["finish_reason"]
    assert len(stream) < 1000


def test_only_a_silent_stream_gets_comments() -> None:
    """A comment is sent only if nothing else was."""
    with Server(silence_s=0.05) as server:
        server.put("one ", 1)
        data = b""
        while KEEP_ALIVE not in data:
            data += server.client.recv(1000)
        server.put("two", 2, "stop")
        data += read_to_end(server.client)
    assert "one two" == text_of(events(data))


def test_a_client_that_leaves_ends_the_stream_and_cancels_the_job() -> None:
    """The engine's thread sees no error; the server's does, and closes the stream."""
    with Server() as server:
        server.put("one ", 1)
        server.client.recv(1000)
        server.client.close()
        count = 1
        while server.thread.is_alive():
            count += 1
            server.put("more ", count)
    assert isinstance(server.error, BrokenPipeError)
    assert 1 == server.close_count


def test_a_failure_in_the_middle_is_the_last_event() -> None:
    """Earlier text arrives, then the reason, and no end that looks complete."""
    with Server() as server:
        server.put("one ", 1)
        server.client.recv(1000)
        server.job.fail(EngineError("out of pages"))
        stream = events(read_to_end(server.client))
    assert 1 == len(stream)
    assert "out of pages" in str(stream[0]["error"])


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30), st.integers(1, 64))
def test_any_text_arrives_whole(pieces: list[str], read_bytes: int) -> None:
    """Whatever the pieces are and however little the client reads at a time, it gets their text."""
    pieces = [piece.encode("utf-8", "ignore").decode() or "x" for piece in pieces]
    with Server() as server:
        reading: list[bytes] = []

        def read() -> None:
            while data := server.client.recv(read_bytes):
                reading.append(data)

        reader = threading.Thread(target=read)
        reader.start()
        for count, piece in enumerate(pieces, start=1):
            server.put(piece, count, "stop" if count == len(pieces) else None)
        reader.join(TIMEOUT_S)
    stream = events(b"".join(reading))
    assert "".join(pieces) == text_of(stream)
    assert len(pieces) == stream[-1]["usage"]["completion_tokens"]  # type: ignore[index]


@given(st.text(), st.text())
def test_a_text_event_is_the_event_with_that_text(name: str, text: str) -> None:
    """Built once, it equals a newly built event, even if a name before the text holds the mark."""
    name, text = (one.encode("utf-8", "ignore").decode() for one in (name, text))

    def value_of(text: str) -> dict[str, object]:
        return {"model": name + "\0", "choices": [{"text": text}], "usage": None}

    assert sse_event(value_of(text)) == TextEvent(value_of).of(text)
