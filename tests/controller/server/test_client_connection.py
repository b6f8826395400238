"""A client's connection: waits for slow clients are bounded, and so is the number of threads that wait."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from controller.server import client_connection
from controller.server.client_connection import ClientSocket, NoReaderLeft, Unreader
from controller.server.slow_clients import MOST_READERS
from tests.fakes import HANG_S

STALL_S = 0.3
DATA = bytes(range(256)) * 8192


@pytest.fixture
def pair() -> Iterator[tuple[ClientSocket, socket.socket]]:
    """Our end, which gives up soon, and the client's."""
    server_end, client = socket.socketpair()
    ours = ClientSocket(server_end)
    ours.settimeout(STALL_S)
    client.settimeout(HANG_S)
    with ours, client:
        yield ours, client


def test_a_stalled_reader_is_dropped(pair: tuple[ClientSocket, socket.socket]) -> None:
    """A client that takes nothing is dropped."""
    with pytest.raises(BrokenPipeError, match="took nothing"):
        pair[0].sendall(DATA)


def test_a_slow_reader_gets_all(pair: tuple[ClientSocket, socket.socket]) -> None:
    """A client that takes something now and then gets all of it, although that takes several times as long."""
    content = bytearray()

    def read() -> None:
        while len(content) < len(DATA):
            time.sleep(STALL_S / 10)
            content.extend(pair[1].recv(len(DATA) // 30))

    reader = threading.Thread(target=read)
    reader.start()
    began_at = time.monotonic()
    pair[0].sendall(DATA)
    reader.join(HANG_S)
    assert content == DATA
    assert time.monotonic() - began_at > 2 * STALL_S


def test_progress_of_a_slow_reader_is_seen() -> None:
    """Over the network, the kernel reports room only after much was read: 300 kB have to be enough."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        ClientSocket(server.accept()[0]) as ours,
    ):
        ours.settimeout(STALL_S)
        with pytest.raises(BrokenPipeError):
            ours.sendall(DATA * 4)
        client.recv(300_000, socket.MSG_WAITALL)
        assert client_connection._happens(ours, select.POLLOUT, HANG_S)


def test_readers_beyond_the_bound_are_dropped_at_once(
    pair: tuple[ClientSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While as many threads wait for readers as may, another stalled reader gets only a moment."""
    monkeypatch.setattr(client_connection, "_writers", threading.BoundedSemaphore(1))
    assert client_connection._writers.acquire(blocking=False)
    pair[0].settimeout(HANG_S * 2)
    with pytest.raises(BrokenPipeError, match=r"0\.05 s"):
        pair[0].sendall(DATA)


def test_gunicorn_cannot_make_it_block(pair: tuple[ClientSocket, socket.socket]) -> None:
    """What gunicorn's threads do to their sockets does not make reads wait."""
    pair[0].setblocking(True)
    pair[0].settimeout(HANG_S)
    with pytest.raises(BlockingIOError):
        pair[0].recv(1)


def test_a_body_is_awaited_until_silence(pair: tuple[ClientSocket, socket.socket]) -> None:
    """First comes what has arrived, then what still arrives; silence ends the wait."""
    unreader = Unreader(pair[0])
    unreader.begin(b"first ", time.monotonic())
    pair[1].sendall(b"second")
    assert (unreader.read(6), unreader.read(6)) == (b"first ", b"second")
    with pytest.raises(TimeoutError):
        unreader.read(1)
    pair[1].close()
    assert unreader.read(1) == b""


def test_only_so_many_threads_wait_for_bodies(pair: tuple[ClientSocket, socket.socket]) -> None:
    """One more slow body is refused at once; one that has arrived needs no wait."""
    unreader = Unreader(pair[0])
    unreader.begin(b"", time.monotonic())
    with ExitStack() as places:
        for _ in range(MOST_READERS):
            places.enter_context(client_connection._readers)
        with pytest.raises(NoReaderLeft):
            unreader.read(1)
        pair[1].sendall(b"x")
        assert unreader.read(1) == b"x"
