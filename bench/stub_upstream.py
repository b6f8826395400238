"""A cheap server in place of a runner: an answer costs almost nothing here.

    python -m bench.stub_upstream PORT

`GET /health` is ready at once. A POST gets a whole answer of about 230 bytes. If its body has `"stream":true`, its
prompt says `events=N interval_us=M`, and it gets that many events, each with the time at which it was sent, then
`[DONE]`. `events=0` is a stream with nothing but a comment every 2 s, until its client leaves.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

IDLE_COMMENT_S = 2.0
WHOLE = b'{"object":"chat.completion","choices":[{"index":0,"message":{"content":"%s"}}],"usage":{"total_tokens":7}}'
ANSWER = WHOLE % (b"x" * (230 - len(WHOLE) + 2))
HEALTH = b'{"status":"ok"}'
EVENT = (
    b'data: {"object":"chat.completion.chunk","sent_ns":%d,"choices":[{"index":0,"delta":{"content":" a"}}],"pad":"%s"}'
)
PAD = b"x" * 110
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_ORDER = re.compile(rb"events=(\d+) interval_us=(\d+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def whole(body: bytes) -> bytes:
    """Return an answer with its head."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def chunk(body: bytes) -> bytes:
    """Return a piece of a stream as an HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(body), body)


class Stub(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._data = b""
        self._left = 0
        self._interval_s = 0.0
        self._next: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._data, 0, end)
        if len(self._data) < end + 4 + (int(length[1]) if length else 0):
            return
        request, self._data = self._data, b""
        if request.startswith(b"GET"):
            self._transport.write(whole(HEALTH))
        elif b'"stream":true' in request and (order := _ORDER.search(request)):
            self._begin(int(order[1]), int(order[2]) / 1_000_000)
        else:
            self._transport.write(whole(ANSWER))

    def _begin(self, events: int, interval_s: float) -> None:
        self._left, self._interval_s = events, interval_s
        self._transport.write(STREAM_HEAD)
        self._comment() if events == 0 else self._event()

    def _comment(self) -> None:
        self._transport.write(chunk(b":\n\n"))
        self._next = asyncio.get_running_loop().call_later(IDLE_COMMENT_S, self._comment)

    def _event(self) -> None:
        if self._left == 0:
            self._transport.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return
        self._left -= 1
        self._transport.write(chunk(EVENT % (time.perf_counter_ns(), PAD) + b"\n\n"))
        self._next = asyncio.get_running_loop().call_later(self._interval_s, self._event)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
