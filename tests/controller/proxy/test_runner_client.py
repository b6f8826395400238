"""The HTTP client with runners that misbehave, over real sockets."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from controller.errors import ModelDied, Overloaded, UpstreamInvalid, UpstreamTimeout
from controller.proxy import runner_client as client_module
from controller.proxy import runner_response as response_module
from controller.proxy.runner_client import RunnerClient, RunnerResponse
from controller.proxy.runner_response import BufferBudget, InFlightRequest
from controller.server.disconnects import ClientWatcher
from tests.fakes import HANG_S

Script = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Start servers that play one script per connection, in order; return their port."""
    servers: list[tuple[socket.socket, threading.Thread]] = []

    def start(*scripts: Script) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(HANG_S)

        def run() -> None:
            for script in scripts:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(HANG_S)
                    script(connection)

        thread = threading.Thread(target=run)
        thread.start()
        servers.append((server, thread))
        return int(server.getsockname()[1])

    yield start
    for server, thread in servers:
        thread.join(HANG_S)
        server.close()


@pytest.fixture
def runner_client() -> Iterator[RunnerClient]:
    client = RunnerClient()
    yield client
    client.close()


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, "the request was aborted"
        data += piece
    return data


def answers(*parts: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return script


def post(runner_client: RunnerClient, port: int, in_flight: InFlightRequest | None = None) -> RunnerResponse:
    return runner_client.post(port, "/inference", b"{}", {}, in_flight or InFlightRequest("c"))


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_connection_is_kept(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """Two requests in a row use one connection."""

    def twice(connection: socket.socket) -> None:
        for _ in range(2):
            read_request(connection)
            connection.sendall(WHOLE)

    port = serve(twice)
    for _ in range(2):
        response = post(runner_client, port)
        assert response.read_all() == b"{}"
        response.close()


def test_a_streamed_connection_is_kept(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """A chunked stream read to its end leaves the connection usable."""

    def stream_then_whole(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(CHUNKED + b"1\r\na\r\n0\r\n\r\n")
        read_request(connection)
        connection.sendall(WHOLE)

    port = serve(stream_then_whole)
    response = post(runner_client, port)
    assert [response.read_piece(), response.read_piece()] == [b"a", b""]
    response.close()
    response = post(runner_client, port)
    assert response.read_all() == b"{}"
    response.close()


def test_a_kept_connection_that_was_closed_is_replaced(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """A runner that closed an idle connection does not cost a request."""
    port = serve(answers(WHOLE), answers(WHOLE))
    for _ in range(2):
        response = post(runner_client, port)
        assert response.read_all() == b"{}"
        response.close()


def test_a_kept_connection_whose_model_has_gone_is_closed(
    runner_client: RunnerClient, serve: Callable[..., int]
) -> None:
    """It does not stay half closed until the next request at its port; a connection whose model is there is kept."""
    may_end = threading.Event()

    def stays(connection: socket.socket) -> None:
        answers(WHOLE)(connection)
        assert may_end.wait(HANG_S)

    ports = [serve(answers(WHOLE)), serve(stays)]
    for port in ports:
        with closing(post(runner_client, port)) as response:
            response.read_all()
    socks = [runner_client._idle[port][0][1].sock for port in ports]
    poll = select.poll()
    poll.register(socks[0], select.POLLIN)
    assert poll.poll(HANG_S * 1000)
    runner_client.tidy()
    assert [True, False] == [sock.fileno() < 0 for sock in socks]
    may_end.set()


def test_pieces_come_as_they_are_sent(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """A chunk is readable before the next one exists."""
    got_first = threading.Event()

    def slowly(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(CHUNKED + b"5\r\nfirst\r\n")
        assert got_first.wait(HANG_S)
        connection.sendall(b"6\r\nsecond\r\n0\r\n\r\n")

    response = post(runner_client, serve(slowly))
    assert response.read_piece() == b"first"
    got_first.set()
    assert response.read_piece() == b"second"
    assert response.read_piece() == b""
    response.close()


@pytest.mark.parametrize(
    "end",
    [CHUNKED + b"5\r\nfirst\r\n", CHUNKED + b"5\r\nfirst\r\n9\r\nhalf", WHOLE[:-1]],
    ids=["chunk", "half", "length"],
)
def test_a_broken_body_is_no_end(runner_client: RunnerClient, serve: Callable[..., int], end: bytes) -> None:
    """A body that stops before its proper end is the model's death, never a short answer."""
    response = post(runner_client, serve(answers(end)))
    with pytest.raises(ModelDied):
        response.read_all()
    response.close()


def test_death_before_the_answer(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """A connection that is closed or refused before any answer means that another try is safe."""
    with pytest.raises(ModelDied):
        post(runner_client, serve(answers()))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ModelDied):
        post(runner_client, port)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
    ids=["redirect", "gzip", "many headers", "endless header", "no http"],
)
def test_hostile_heads(runner_client: RunnerClient, serve: Callable[..., int], head: bytes) -> None:
    """Redirects, encodings and endless or broken heads are refused; none is followed or kept in memory."""
    with pytest.raises(UpstreamInvalid):
        post(runner_client, serve(answers(head)))


def test_a_huge_body_is_bounded(
    runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole answer beyond the bound is refused."""
    monkeypatch.setattr(response_module, "MAX_BODY_BYTES", 10)
    response = post(runner_client, serve(answers(CHUNKED + b"b\r\nhello world\r\n0\r\n\r\n")))
    with pytest.raises(UpstreamInvalid):
        response.read_all()
    response.close()


def test_large_answers_share_their_memory(
    runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer beyond what each may have is refused if others take all the shared memory, and read if they do not;
    a small one is always read."""
    monkeypatch.setattr(response_module, "OWN_BYTES", 10)
    monkeypatch.setattr(response_module, "_buffers", BufferBudget(25))
    large = CHUNKED + b"1e\r\n" + b"x" * 30 + b"\r\n0\r\n\r\n"
    with response_module._buffers.share() as grow:
        grow(11)
        with pytest.raises(Overloaded), closing(post(runner_client, serve(answers(large)))) as response:
            response.read_all()
        with closing(post(runner_client, serve(answers(WHOLE)))) as response:
            assert b"{}" == response.read_all()
    with closing(post(runner_client, serve(answers(large)))) as response:
        assert 30 == len(response.read_all())


def test_silence_ends(runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent runner is given up after the read time-out."""
    monkeypatch.setattr(client_module, "READ_TIMEOUT_S", 0.1)
    over = threading.Event()

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        over.wait(HANG_S)

    port = serve(silent)
    with pytest.raises(UpstreamTimeout):
        post(runner_client, port)
    over.set()


def test_an_abort_ends_the_wait(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """An abort from another thread ends the wait for the answer, and the runner sees it."""
    in_flight = InFlightRequest("c")
    has_request, has_end = threading.Event(), threading.Event()

    def hang(connection: socket.socket) -> None:
        read_request(connection)
        has_request.set()
        while connection.recv(1024):
            pass
        has_end.set()

    port = serve(hang)

    def abort_soon() -> None:
        assert has_request.wait(HANG_S)
        in_flight.abort()

    thread = threading.Thread(target=abort_soon)
    thread.start()
    with pytest.raises((ModelDied, UpstreamInvalid)):
        post(runner_client, port, in_flight)
    thread.join(HANG_S)
    assert has_end.wait(HANG_S)


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\n\r\nhalf", CHUNKED + b"4\r\nhalf\r\n"], ids=["to the end", "chunks"]
)
def test_an_aborted_body_is_no_end(runner_client: RunnerClient, serve: Callable[..., int], start: bytes) -> None:
    """An abort never makes an answer whole, not even one that ends with its connection."""

    def hang(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(start)
        while connection.recv(1024):
            pass

    in_flight = InFlightRequest("c")
    response = post(runner_client, serve(hang), in_flight)
    assert b"half" == response.read_piece()
    in_flight.abort()
    with pytest.raises(ModelDied):
        response.read_piece()
    response.close()


def test_bytes_after_an_answer_end_the_connection(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """The connection of a runner that sends more than its answer is not used again."""
    port = serve(answers(WHOLE + WHOLE), answers(WHOLE))
    for _ in range(2):
        response = post(runner_client, port)
        assert response.read_all() == b"{}"
        response.close()


def test_the_probe_reads_health(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """200 is ready with its phases, 503 is loading with its phase, no listener is `refused`."""
    body = b'{"phases": {"load_s": 1.5}}'
    ready = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    loading = b'HTTP/1.1 503 X\r\nContent-Length: 20\r\n\r\n{"phase": "loading"}'
    port = serve(answers(ready), answers(loading), answers(b"nonsense\r\n\r\n"))
    first, second, third = (runner_client.probe(port, "/health") for _ in range(3))
    assert (first.ready, first.phases) == (True, {"load_s": 1.5})
    assert (second.ready, second.phase, second.is_refused) == (False, "loading", False)
    assert (third.ready, third.is_refused) == (False, False)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert runner_client.probe(port, "/health").is_refused


def test_a_late_abort_does_no_harm(runner_client: RunnerClient, serve: Callable[..., int]) -> None:
    """An abort after the answer was read does not touch the connection's next request."""
    in_flight = InFlightRequest("c")

    def twice(connection: socket.socket) -> None:
        for _ in range(2):
            read_request(connection)
            connection.sendall(WHOLE)

    port = serve(twice)
    first = post(runner_client, port, in_flight)
    first.read_all()
    first.close()
    second = post(runner_client, port)
    in_flight.abort()
    assert second.read_all() == b"{}"
    second.close()


class TestClientWatcher:
    def test_a_leaving_client_is_noticed(self) -> None:
        """The far end's close calls back; its data does not."""
        ours, theirs = socket.socketpair()
        left = threading.Event()
        watcher = ClientWatcher()
        watcher.watch(ours, left.set)
        theirs.sendall(b"data is not leaving")
        assert not left.wait(0.05)
        theirs.close()
        assert left.wait(HANG_S)
        ours.close()

    def test_a_reused_descriptor_is_another_client(self) -> None:
        """A client whose descriptor belonged to one that has just left is not taken for that one."""
        watcher = ClientWatcher()
        blocked, go_on, wrong = threading.Event(), threading.Event(), threading.Event()
        first, first_far = socket.socketpair()
        second, second_far = socket.socketpair()

        def block() -> None:
            blocked.set()
            assert go_on.wait(HANG_S)

        # Both events are of one batch: the first blocks, and the other's descriptor is reused meanwhile.
        ends = [watcher.watch(near, block) for near in (first, second)]
        first_far.close()
        second_far.close()
        assert blocked.wait(HANG_S)
        for end in ends:
            end()
        numbers = (first.fileno(), second.fileno())
        first.close()
        second.close()
        pairs = [socket.socketpair() for _ in range(2)]
        for pair in pairs:
            for sock in pair:
                if sock.fileno() in numbers:
                    watcher.watch(sock, wrong.set)
        go_on.set()
        assert not wrong.wait(0.1)
        for pair in pairs:
            for sock in pair:
                sock.close()

    def test_an_ended_watch_is_silent(self) -> None:
        """After the watch has ended there is no call, whatever happens to the socket."""
        ours, theirs = socket.socketpair()
        left = threading.Event()
        unwatch = ClientWatcher().watch(ours, left.set)
        unwatch()
        unwatch()
        theirs.close()
        assert not left.wait(0.05)
        ours.close()


def test_a_head_that_drips_is_given_up(
    runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head's time counts from its first byte, and more bytes do not extend it."""
    monkeypatch.setattr(client_module, "ANSWER_HEAD_S", 0.2)
    port = serve(drips)
    with pytest.raises(UpstreamInvalid, match="no head within"):
        post(runner_client, port)


def test_a_probe_ends_whatever_comes(
    runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe's time is for all of it; a server that drips is not ready."""
    monkeypatch.setattr(client_module, "PROBE_TIMEOUT_S", 0.2)
    assert not runner_client.probe(serve(drips), "/health").ready


def test_a_whole_answer_that_drips_is_given_up(
    runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole answer's time counts from its head, even if more of it always comes."""
    monkeypatch.setattr(response_module, "WHOLE_BODY_S", 0.2)
    port = serve(dripping(CHUNKED, b"1\r\na\r\n"))
    with pytest.raises(UpstreamInvalid, match="did not come whole"), closing(post(runner_client, port)) as response:
        response.read_all()


@pytest.mark.parametrize("start", [b"1;", b"3\r\nabc\r\n1;", b"3\r\nabc\r\n0\r\nX: "], ids=["first", "next", "trailer"])
def test_a_line_between_chunks_that_drips_is_given_up(
    runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """A line of the framing has a time for all of it: its bytes are no sign of life, nor of an answer."""
    monkeypatch.setattr(response_module, "LINE_S", 0.2)
    port = serve(dripping(CHUNKED + start, b"x"))
    with pytest.raises(UpstreamInvalid, match="no end within"), closing(post(runner_client, port)) as response:
        response.read_all()


def test_framing_is_no_sign_of_life(
    runner_client: RunnerClient, serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing of the body comes for too long, that is silence, whatever comes around it."""
    monkeypatch.setattr(response_module, "READ_TIMEOUT_S", 0.2)
    port = serve(dripping(CHUNKED + b"1;", b"x"))
    with pytest.raises(UpstreamTimeout), closing(post(runner_client, port)) as response:
        response.read_piece()


def dripping(first: bytes, again: bytes) -> Script:
    """Send some bytes, and then a few again and again, until the other end closes."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        with suppress(OSError):
            connection.sendall(first)
            while True:
                connection.sendall(again)
                time.sleep(0.02)

    return script


drips = dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x")
