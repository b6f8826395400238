"""Writing to a client's socket past the server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.api.client_socket import ClientSocketWriter, writer_of

TIMEOUT_S = 20.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a server's socket with a time-out and a small buffer, and its client's socket."""
    server, client = socket.socketpair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server.settimeout(TIMEOUT_S)
    client.settimeout(TIMEOUT_S)
    with server, client:
        yield server, client


def read_to_end(client: socket.socket) -> bytes:
    content = b""
    while data := client.recv(65536):
        content += data
    return content


def test_data_is_framed_as_the_server_would_frame_it(pair: tuple[socket.socket, socket.socket]) -> None:
    """HTTP/1.1 gets chunks, HTTP/1.0 the plain data."""
    server, client = pair
    assert ClientSocketWriter(server, is_chunked=True).send(b"x" * 26)
    assert b"1A\r\n" + b"x" * 26 + b"\r\n" == client.recv(100)
    assert ClientSocketWriter(server, is_chunked=False).send(b"data")
    assert b"data" == client.recv(100)


def test_a_full_buffer_does_not_block_and_nothing_is_lost(pair: tuple[socket.socket, socket.socket]) -> None:
    """`send` returns at once; `flush` waits for the reader and sends the rest in order."""
    server, client = pair
    writer, whole = ClientSocketWriter(server, is_chunked=False), b""
    while writer.send(part := b"%d," % len(whole) * 100):
        whole += part
    whole += part
    contents: list[bytes] = []
    reader = threading.Thread(target=lambda: contents.append(read_to_end(client)))
    reader.start()
    writer.flush()
    assert writer.send(b"end")
    server.shutdown(socket.SHUT_WR)
    reader.join(TIMEOUT_S)
    assert [whole + b"end"] == contents


def test_only_flush_reports_a_client_that_left(pair: tuple[socket.socket, socket.socket]) -> None:
    """A socket's error never reaches the engine's thread, but it does reach the waiting one."""
    server, client = pair
    client.close()
    writer = ClientSocketWriter(server, is_chunked=True)
    assert not writer.send(b"x")
    with pytest.raises(BrokenPipeError):
        writer.flush()


def test_a_client_that_never_reads_ends_in_a_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    """The socket's time-out bounds the wait."""
    server, _client = pair
    writer = ClientSocketWriter(server, is_chunked=False)
    while writer.send(b"x" * 4096):
        pass
    server.settimeout(0.01)
    with pytest.raises(TimeoutError):
        writer.flush()


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=3000), st.booleans()), max_size=40))
def test_any_reader_gets_every_byte_in_order(parts: list[tuple[bytes, bool]]) -> None:
    """However little the client reads between two sends, it gets the chunks in order."""
    server, client = socket.socketpair()
    with server, client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        server.settimeout(TIMEOUT_S)
        client.setblocking(False)
        writer, content, expected = ClientSocketWriter(server, is_chunked=True), b"", b""
        for data, is_reading in parts:
            expected += b"%X\r\n%b\r\n" % (len(data), data)
            is_sent = writer.send(data)
            if is_reading or not is_sent:
                content += read_available(client)
            writer.flush()
        content += read_available(client)
        assert expected == content


def read_available(client: socket.socket) -> bytes:
    content = b""
    try:
        while data := client.recv(65536):
            content += data
    except BlockingIOError:
        pass
    return content


def environ(client: object, protocol: str = "HTTP/1.1") -> dict[str, Any]:
    return {"gunicorn.socket": client, "SERVER_PROTOCOL": protocol}


def test_only_a_socket_with_known_framing_gets_a_writer(pair: tuple[socket.socket, socket.socket]) -> None:
    """The server itself must write to anything else."""
    server, _client = pair
    assert writer_of(environ(server)) is not None
    assert writer_of(environ(server, "HTTP/1.0")) is not None
    assert writer_of(environ(server, "HTTP/2.0")) is None
    assert writer_of({"SERVER_PROTOCOL": "HTTP/1.1"}) is None
    assert writer_of(environ(object())) is None
    server.settimeout(None)
    assert writer_of(environ(server)) is None
