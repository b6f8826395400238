"""When a request has arrived, and when the wait for it ends."""

from __future__ import annotations

import pytest

from controller.server.request_gathering import (
    GATHERED_BODY_BYTES,
    MAX_HEAD_BYTES,
    RequestGatherer,
    Stage,
    body_deadline,
)
from controller.server.slow_clients import BODY_S, HEAD_S, SILENCE_S, SLOWEST_BYTES_PER_S

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "stage"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", Stage.READY),
        (HEAD, Stage.MORE),
        (HEAD + b"Content-Length: 5\r\n\r\n1234", Stage.MORE),
        (HEAD + b"Content-Length: 5\r\n\r\n12345", Stage.READY),
        (HEAD + b"content-length:5 \r\nX: y\r\n\r\n12345GET", Stage.READY),
        (HEAD + b"Content-Length: 0\r\n\r\n", Stage.READY),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", Stage.MORE),
        (b"nonsense\r\n\r\n", Stage.READY),
    ],
)
def test_a_request_is_ready(request_bytes: bytes, stage: Stage) -> None:
    """A request is ready with its head and its short body, in whatever pieces they arrive."""
    assert RequestGatherer(0).add(request_bytes, 0) is stage
    by_bytes = RequestGatherer(0)
    stages = [by_bytes.add(bytes([byte]), 0) for byte in request_bytes]
    assert stage in stages
    assert stages[-1] is stage


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue\r\nContent-Length: 5",
        b"Content-Length: %d" % (GATHERED_BODY_BYTES + 1),
        b"Content-Length: nine",
        b"Content-Length: " + b"9" * 100,
    ],
)
def test_a_thread_waits_for_other_bodies(field: bytes) -> None:
    """The head is enough if the body is long, of unknown length, or only sent when the server asks for it."""
    assert RequestGatherer(0).add(HEAD + field + b"\r\n\r\n", 0) is Stage.READY


def test_a_head_has_an_end() -> None:
    """A head without an end is refused at its bound, in whatever pieces it arrives."""
    request = RequestGatherer(0)
    stages = [request.add(b"x" * 1024, 0) for _ in range(MAX_HEAD_BYTES // 1024 + 1)]
    assert set(stages[:-1]) == {Stage.MORE}
    assert stages[-1] is Stage.TOO_LONG


def test_dripping_gains_no_time_for_the_head() -> None:
    """The head's deadline counts from the beginning, and no byte moves it."""
    request = RequestGatherer(100)
    request.add(b"GET", 109)
    assert request.deadline == 100 + HEAD_S


def test_a_body_has_time_for_its_size() -> None:
    """Silence ends the wait soon, dripping later, and bytes at the slowest accepted rate never."""
    request = RequestGatherer(100)
    request.add(HEAD + b"Content-Length: 50000\r\n\r\n", 108)
    assert request.deadline == 108 + SILENCE_S
    request.add(b"x", 117)
    assert request.deadline == 117 + SILENCE_S
    request.add(b"x", 137)
    assert request.deadline == pytest.approx(108 + BODY_S, abs=0.01)
    for seconds in range(1000):
        assert body_deadline(0, seconds, seconds * SLOWEST_BYTES_PER_S) > seconds
