"""A client's connection: waits for slow clients end, and only so many threads wait."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from controller.server import client_connection as connection
from controller.server.client_connection import MOST_READERS, ClientSocket, NoReaderLeft, Unreader
from tests.fakes import HANG_S

STALL_S = 0.3
DATA = bytes(range(256)) * 8192


@pytest.fixture
def pair() -> Iterator[tuple[ClientSocket, socket.socket]]:
    """Our end, which gives up soon, and the client's."""
    accepted, client = socket.socketpair()
    ours = ClientSocket(accepted)
    ours.settimeout(STALL_S)
    client.settimeout(HANG_S)
    with ours, client:
        yield ours, client


def test_a_stalled_reader_is_dropped(pair: tuple[ClientSocket, socket.socket]) -> None:
    """A client that takes nothing ends the wait for it."""
    with pytest.raises(BrokenPipeError, match="took nothing"):
        pair[0].sendall(DATA)


def test_a_slow_reader_gets_all(pair: tuple[ClientSocket, socket.socket]) -> None:
    """One that takes something now and then gets everything, though it takes several times as long in all."""
    received = bytearray()

    def read() -> None:
        while len(received) < len(DATA):
            time.sleep(STALL_S / 10)
            received.extend(pair[1].recv(len(DATA) // 30))

    reader = threading.Thread(target=read)
    reader.start()
    begun = time.monotonic()
    pair[0].sendall(DATA)
    reader.join(HANG_S)
    assert received == DATA
    assert time.monotonic() - begun > 2 * STALL_S


def test_what_a_slow_reader_takes_is_noticed() -> None:
    """Over the network, where the kernel keeps much before it says that there is room again: one that has taken 300 kB
    has taken something."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        ClientSocket(server.accept()[0]) as ours,
    ):
        ours.settimeout(STALL_S)
        with pytest.raises(BrokenPipeError):
            ours.sendall(DATA * 4)
        client.recv(300_000, socket.MSG_WAITALL)
        assert connection._happens(ours, select.POLLOUT, HANG_S)


def test_readers_beyond_the_bound_are_dropped_at_once(
    pair: tuple[ClientSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While as many threads wait for readers as may, another stalled one is hardly waited for."""
    monkeypatch.setattr(connection, "_writers", threading.BoundedSemaphore(1))
    assert connection._writers.acquire(blocking=False)
    pair[0].settimeout(HANG_S * 2)
    with pytest.raises(BrokenPipeError, match=r"0\.05 s"):
        pair[0].sendall(DATA)


def test_gunicorn_cannot_make_it_block(pair: tuple[ClientSocket, socket.socket]) -> None:
    """What gunicorn's threads do to their sockets leaves reads without waiting."""
    pair[0].setblocking(True)
    pair[0].settimeout(HANG_S)
    with pytest.raises(BlockingIOError):
        pair[0].recv(1)


def test_a_body_is_waited_for_and_given_up(pair: tuple[ClientSocket, socket.socket]) -> None:
    """What has arrived comes first, then what still comes; silence ends the wait."""
    unreader = Unreader(pair[0])
    unreader.begin(b"first ", time.monotonic())
    pair[1].sendall(b"second")
    assert (unreader.read(6), unreader.read(6)) == (b"first ", b"second")
    with pytest.raises(TimeoutError):
        unreader.read(1)
    pair[1].close()
    assert unreader.read(1) == b""


def test_only_so_many_threads_wait_for_bodies(pair: tuple[ClientSocket, socket.socket]) -> None:
    """One body more that takes its time is refused at once; one that is there needs no wait."""
    unreader = Unreader(pair[0])
    unreader.begin(b"", time.monotonic())
    with ExitStack() as held:
        for _ in range(MOST_READERS):
            held.enter_context(connection._readers)
        with pytest.raises(NoReaderLeft):
            unreader.read(1)
        pair[1].sendall(b"x")
        assert unreader.read(1) == b"x"
