"""The pump: streams between real sockets, all moved by its one thread."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from controller.errors import UpstreamTimeout
from controller.proxy.stream_pump import StreamPump
from tests.fakes import HANG_S

END = b"<end>"


class Source:
    """Passes its runner's bytes on; over at an end mark, or when the connection ends."""

    def __init__(self) -> None:
        self._near, self.runner = socket.socketpair()
        self._near.setblocking(False)
        self.runner.settimeout(HANG_S)
        self.is_over = False
        self.cause: Exception | None = None

    def fileno(self) -> int:
        return self._near.fileno()

    def feed(self, data: bytes) -> bytes:
        assert b"fault" not in data
        self.is_over = data.endswith(END) or not data
        return data

    def fail(self, cause: Exception) -> None:
        self.is_over, self.cause = True, cause

    def close(self) -> None:
        self._near.close()
        self.runner.close()


class House:
    """A pump with streams in flight."""

    def __init__(self, pool: ThreadPoolExecutor, silence_s: float = 10 * HANG_S) -> None:
        self.pump = StreamPump(silence_s=silence_s)
        self._pool = pool
        self._open_sockets: list[Source | socket.socket] = []

    def stream(
        self, stall_s: float = HANG_S, send_buffer_bytes: int = 1 << 20
    ) -> tuple[Source, socket.socket, Future[None]]:
        """Start a stream; return its source, the client's end, and the future of its run."""
        source = Source()
        ours, client = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        ours.settimeout(stall_s)
        client.settimeout(HANG_S)
        self._open_sockets += [source, ours, client]
        return source, client, self._pool.submit(self.pump.run, source, ours)

    def close(self) -> None:
        for sock in self._open_sockets:
            sock.close()


@pytest.fixture
def build() -> Iterator[Callable[..., House]]:
    houses: list[House] = []
    with ThreadPoolExecutor(40) as pool:

        def build_house(**kwargs: float) -> House:
            houses.append(House(pool, **kwargs))
            return houses[-1]

        yield build_house
        for house in houses:
            house.close()


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        assert piece, "the client's connection ended"
        data += piece
    return data


def fill(runner: socket.socket) -> int:
    """Send until no more is taken; return the number of bytes."""
    runner.settimeout(0.2)
    size = 0
    try:
        while True:
            size += runner.send(b"x" * 65536)
    except TimeoutError:
        runner.settimeout(HANG_S)
        return size


def test_each_piece_passes_at_once(house: House) -> None:
    """A piece reaches the client as a chunk before the next one exists; the stream's end ends the run."""
    source, client, run = house.stream()
    for piece in (b"one", b"twenty-one bytes long" + END):
        source.runner.sendall(piece)
        chunk = b"%X\r\n%b\r\n" % (len(piece), piece)
        assert chunk == receive(client, len(chunk))
    assert run.result(HANG_S) is None


def test_streams_do_not_mix(house: House) -> None:
    """Many streams at once: each client gets its own bytes, all of them, in order."""
    streams = [house.stream() for _ in range(32)]
    for turn in range(20):
        for number, (source, _, _) in enumerate(streams):
            source.runner.sendall(b"%03d.%03d;" % (number, turn) + (END if turn == 19 else b""))
    for number, (_, client, run) in enumerate(streams):
        assert run.result(HANG_S) is None
        client.shutdown(socket.SHUT_WR)
        expected = b"".join(b"%03d.%03d;" % (number, turn) for turn in range(20)) + END
        assert expected == read_chunks(client, len(expected))


def read_chunks(client: socket.socket, size: int) -> bytes:
    """Read chunks until their content has this size; return it."""
    content = b""
    with client.makefile("rb") as reader:
        while len(content) < size:
            content += reader.read(int(reader.readline(), 16))
            assert b"\r\n" == reader.readline()
    return content


def test_a_slow_client_pauses_its_source_alone(house: House) -> None:
    """Bytes that a client does not take stay at its runner, not in memory; others go on; no byte is lost in the end."""
    source, client, run = house.stream()
    size = fill(source.runner)
    other, other_client, other_run = house.stream()
    other.runner.sendall(b"hi" + END)
    assert b"7\r\nhi<end>\r\n" == receive(other_client, 12)
    assert other_run.result(HANG_S) is None
    assert not run.done()
    sending = threading.Thread(target=source.runner.sendall, args=(END,))
    sending.start()
    assert b"x" * size + END == read_chunks(client, size + len(END))
    sending.join(HANG_S)
    assert run.result(HANG_S) is None


def test_a_client_that_takes_nothing_is_given_up(house: House) -> None:
    """After the time-out of its socket the stream ends as if the client had left."""
    source, _, run = house.stream(stall_s=0.5)
    fill(source.runner)
    with pytest.raises(BrokenPipeError):
        run.result(HANG_S)


def test_silence_is_no_stall(build: Callable[..., House]) -> None:
    """A source may be silent for longer than a client may stall."""
    source, client, run = build().stream(stall_s=0.05)
    with pytest.raises(TimeoutError):
        run.result(0.3)
    source.runner.sendall(END)
    assert b"5\r\n<end>\r\n" == receive(client, 10)
    assert run.result(HANG_S) is None


def test_a_silent_source_is_given_up(build: Callable[..., House]) -> None:
    """A source that is silent for too long ends in UpstreamTimeout."""
    _, _, run = build(silence_s=0.1).stream()
    with pytest.raises(UpstreamTimeout):
        run.result(HANG_S)


def test_an_end_waits_for_a_slow_client(house: House) -> None:
    """A stream is over when its client has taken the end, not when the source has sent it."""
    source, client, run = house.stream(send_buffer_bytes=4096)
    content = b"x" * 50_000 + END
    source.runner.sendall(content)
    with pytest.raises(TimeoutError):
        run.result(0.2)
    assert content == read_chunks(client, len(content))
    assert run.result(HANG_S) is None


def test_a_client_that_left_ends_its_stream(house: House) -> None:
    """The next bytes for it show that it has left."""
    source, client, run = house.stream()
    client.close()
    source.runner.sendall(b"too late")
    with pytest.raises(BrokenPipeError):
        run.result(HANG_S)


def test_a_client_that_left_with_a_full_buffer(house: House) -> None:
    """A client that closed its end while its buffer is full is not waited for."""
    source, client, run = house.stream()
    fill(source.runner)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError, match="closed its end"):
        run.result(HANG_S)


def test_a_source_that_ends_ends_the_run(house: House) -> None:
    """The source decides what the end of its connection means: the run is over."""
    source, _, run = house.stream()
    source.runner.close()
    assert run.result(HANG_S) is None
    assert (True, None) == (source.is_over, source.cause)


def test_a_source_is_notified_of_a_broken_connection(house: House) -> None:
    """A connection that fails is not its proper end."""
    source, _, run = house.stream()
    # Closing a socket with bytes that it did not read resets the connection.
    os.write(source.fileno(), b"never read")
    source.runner.close()
    assert run.result(HANG_S) is None
    assert isinstance(source.cause, ConnectionResetError)


def test_a_fault_ends_one_stream_alone(house: House) -> None:
    """A fault in one stream is raised to the thread that waits for it; the others go on."""
    source, _, run = house.stream()
    other, client, other_run = house.stream()
    source.runner.sendall(b"fault")
    with pytest.raises(AssertionError):
        run.result(HANG_S)
    other.runner.sendall(END)
    assert b"5\r\n<end>\r\n" == receive(client, 10)
    assert other_run.result(HANG_S) is None


def test_a_source_that_is_over_is_not_waited_for(house: House) -> None:
    """A stream whose end has come already returns at once."""
    source = Source()
    source.is_over = True
    ours, client = socket.socketpair()
    house.pump.run(source, ours)
    for end in (source, ours, client):
        end.close()
