"""F12: slow clients cannot starve others."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House, until
from tests.promises.mutation import Mutation

SENDERS, STALLED = 500, 50
HEALTH_P99_S = 0.5
# 30 s for a body, or for a reader without progress, and something for a busy machine.
GONE_WITHIN_S = 60.0
# After the senders are gone; and at the peak, with all answers of stalled readers held.
GROWTH_MB, PEAK_GROWTH_MB = 64, 96
# A stream and a whole answer of this many KB: more than the kernel buffers for a client that reads nothing.
STREAM_KB, WHOLE_KB = 4000, 500
# Fast enough to count as progress, and too slow for a megabyte in 30 s.
STEADY_BYTES_PER_S = 16 * 1024
MUTATION = Mutation(
    "controller/server/request_gathering.py",
    "return Stage.TOO_LONG if len(self.data) > MAX_HEAD_BYTES else Stage.MORE",
    "return Stage.READY",
    "test_f12_slow_senders_and_stalled_readers",
)


@dataclass
class Slow:
    """Clients that send a byte now and then until they are dropped; `statuses` has the answers that they got."""

    house: House
    open: dict[int, socket.socket] = field(default_factory=dict)
    statuses: list[str] = field(default_factory=list)

    def begin(self, head: bytes) -> None:
        client = socket.create_connection(("127.0.0.1", self.house.port), 10)
        client.setblocking(False)
        self.open[client.fileno()] = client
        client.send(head)

    def drip(self) -> None:
        """Send a byte from each, and note which of them were answered or dropped."""
        poll = select.poll()
        for number in self.open:
            poll.register(number, select.POLLIN)
        for number, _ in poll.poll(0):
            answer = b""
            with suppress(OSError):
                answer = self.open[number].recv(4096)
            self.statuses.append(answer[9:12].decode() if answer else "closed")
            self.open.pop(number).close()
        for client in self.open.values():
            with suppress(OSError):
                client.send(b"x")


def stalled_reader(house: House, *, stream: bool = True) -> socket.socket:
    """Return a client that has asked for a stream, or a whole answer, and reads nothing of it."""
    script = json.dumps({"tokens": STREAM_KB if stream else WHOLE_KB, "echo": "x" * 1000})
    body = json.dumps({"model_id": "talk", "prompt": script, "stream": stream}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", house.port))
    head = b"POST /inference HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    client.sendall(head + body)
    return client


def read_steadily(client: socket.socket, is_over: threading.Event) -> bytes:
    """Read slowly without a pause, and the rest quickly once it is over; return all of it."""
    data = b""
    client.settimeout(10)
    while piece := client.recv(65536 if is_over.is_set() else STEADY_BYTES_PER_S // 10):
        data += piece
        if data.endswith(b"0\r\n\r\n"):
            break
        is_over.wait(0.1)
    return data


def is_cut_short(client: socket.socket) -> bool:
    """Tell whether a whole answer was cut off."""
    total_bytes = 0
    client.settimeout(10)
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            total_bytes += len(piece)
    return total_bytes < WHOLE_KB * 1000


def health_times(house: House, until_true: Callable[[], bool]) -> list[float]:
    """Return how long GET /health took, each time over a new connection, until the condition is true."""
    times = []
    while not until_true():
        started_at = time.monotonic()
        assert requests.get(house.url + "/health", timeout=10).ok
        times.append(time.monotonic() - started_at)
        time.sleep(0.02)
    return times


def test_f12_slow_senders_and_stalled_readers(build_house: Build, figure: Figure) -> None:
    """While 500 clients send their heads or bodies byte by byte and 50 each read nothing of long streams and of whole
    answers, /health answers 99 of 100 requests within 500 ms and memory hardly grows. All of them are refused or
    dropped in time, a client that reads slowly without a pause gets its whole stream, and then a request is served
    as usual."""
    house = build_house({"talk": {"max_concurrency": STALLED + 1}}, ORCHESTRAR_MAX_IN_FLIGHT="128")
    assert "hello" == house.ask("talk", "hello").json()["text"]
    before_mb = house.memory_mb()
    wholes = [stalled_reader(house, stream=False) for _ in range(STALLED)]
    until("the whole answers are there", lambda: house.status("talk")["in_flight"] == 0)
    readers = [stalled_reader(house) for _ in range(STALLED)]
    steady, is_over = stalled_reader(house), threading.Event()
    pool = ThreadPoolExecutor(1)
    steadily = pool.submit(read_steadily, steady, is_over)
    slow = Slow(house)
    head = b"POST /inference HTTP/1.1\r\nHost: localhost\r\n"
    for number in range(SENDERS):
        kinds = (head, head, head + b"Content-Length: 1000\r\n\r\n{", head + b"Content-Length: 1000000\r\n\r\n{")
        slow.begin(kinds[number % 4])
    started_at = time.monotonic()

    def drip() -> None:
        while slow.open and time.monotonic() - started_at < GONE_WITHIN_S:
            slow.drip()
            time.sleep(0.5)
        is_over.set()

    dripping = threading.Thread(target=drip)
    dripping.start()
    times = sorted(health_times(house, is_over.is_set))
    dripping.join()
    grown_mb, peak_mb = house.memory_mb() - before_mb, house.memory_mb(peak=True) - before_mb
    p99_s = times[int(len(times) * 0.99)]
    figure("/health p99", f"{p99_s * 1000:.0f} ms of {len(times)} requests")
    figure("memory grew at most by", f"{peak_mb:.0f} MB")
    figure("all slow senders gone after", f"{time.monotonic() - started_at:.0f} s")
    assert {} == slow.open
    assert SENDERS == len(slow.statuses)
    assert {"408", "503"} == set(slow.statuses)
    assert p99_s < HEALTH_P99_S
    assert grown_mb < GROWTH_MB
    assert peak_mb < PEAK_GROWTH_MB
    assert b'"done": true' in steadily.result(GONE_WITHIN_S)[-500:]
    until("the stalled readers are dropped", lambda: house.status("talk")["in_flight"] == 0, GONE_WITHIN_S)
    assert all(map(is_cut_short, wholes))
    for client in (*readers, *wholes, steady):
        client.close()
    pool.shutdown()
    assert "again" == house.ask("talk", "again").json()["text"]


def test_f12_a_full_controller_drops_idle_connections(build_house: Build, figure: Figure) -> None:
    """With more connections than the controller holds, silent or in the middle of their heads when they are dropped,
    a new client is still served at once."""
    house = build_house({"talk": {}}, ORCHESTRAR_MAX_IN_FLIGHT="64")
    with ExitStack() as clients:
        waiting = []
        for number in range(1500):
            waiting.append(clients.enter_context(socket.create_connection(("127.0.0.1", house.port), 10)))
            for oldest in waiting[max(0, number - 1000) : max(0, number - 980)]:
                with suppress(OSError):
                    oldest.send(b"G")
        started_at = time.monotonic()
        assert house.get("/health").ok
        took_s = time.monotonic() - started_at
    figure("served beside 1500 connections without a request after", f"{took_s * 1000:.0f} ms")
    assert took_s < HEALTH_P99_S
