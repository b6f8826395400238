"""Moves the bytes of all streams in flight in one thread: a thread of each would be woken for every token."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import time
from typing import Protocol, runtime_checkable

from controller.errors import UpstreamTimeout
from controller.system.turnstile import TURNSTILE

log = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
_LEFT = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


@runtime_checkable
class Source(Protocol):
    """A body that comes over a non-blocking connection, and what a client gets of it."""

    @property
    def is_over(self) -> bool:
        """Whether there is no more to wait for, be it the proper end or not."""

    def fileno(self) -> int: ...

    def feed(self, received: bytes) -> bytes:
        """What the client gets for what was received; b"" is the connection's end. Never raises."""

    def broke(self, cause: Exception) -> None:
        """Told that the connection failed; over then."""


class StreamPump:
    """One thread that waits for whatever can go on: a source that has more, a client that takes more. Thread-safe."""

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._flows: dict[int, _Flow] = {}
        threading.Thread(target=self._loop, name="pump", daemon=True).start()

    def run(self, source: Source, client: socket.socket) -> None:
        """Send the client what comes, as chunks of HTTP, until the source is over and all is sent; blocks until then.

        A client that takes nothing pauses its source, so that no more is kept than was received at once. Raises
        BrokenPipeError when the client has left, or has taken nothing for the time-out of its socket; UpstreamTimeout
        when the source said nothing for `silence_s`.
        """
        if source.is_over:
            return
        stall_s = client.gettimeout()
        assert stall_s, "one socket that blocks would hold up all streams"
        TURNSTILE.leave()
        flow = _Flow(source, client, stall_s, self._silence_s)
        with self._lock:
            self._wait_for(flow, flow.source_fd, select.EPOLLIN)
        while not flow.over.wait(min(flow.deadline() - time.monotonic(), stall_s)):
            with self._lock:
                if flow.deadline() <= time.monotonic():
                    self._end(flow, flow.too_late())
        if flow.error is not None:
            raise flow.error

    def _loop(self) -> None:
        while True:
            for descriptor, events in self._epoll.poll():
                with self._lock:
                    # Its flow may have ended meanwhile, or the number be another's: nothing here blocks, or minds.
                    flow = self._flows.get(descriptor)
                    if flow is not None:
                        self._go_on(flow, events)

    def _go_on(self, flow: _Flow, events: int) -> None:
        was_waiting_for = flow.waits_for
        try:
            flow.move(events)
        except OSError as exc:
            self._end(flow, BrokenPipeError(errno.EPIPE, f"the client has left: {exc}"))
            return
        except Exception as exc:  # the thread's outermost code: the other streams depend on it
            log.exception("a stream met a fault of the controller")
            self._end(flow, exc)
            return
        if flow.is_done:
            self._end(flow, None)
        elif (flow.client_fd if flow.pending else flow.source_fd) != was_waiting_for:
            self._turn(flow)

    def _turn(self, flow: _Flow) -> None:
        """Wait for the client instead of the source, or the other way round."""
        self._forget(flow)
        if flow.pending:
            self._wait_for(flow, flow.client_fd, select.EPOLLOUT | select.EPOLLRDHUP)
        else:
            self._wait_for(flow, flow.source_fd, select.EPOLLIN)

    def _wait_for(self, flow: _Flow, descriptor: int, events: int) -> None:
        self._epoll.register(descriptor, events)
        flow.waits_for = descriptor
        self._flows[descriptor] = flow

    def _forget(self, flow: _Flow) -> None:
        del self._flows[flow.waits_for]
        self._epoll.unregister(flow.waits_for)

    def _end(self, flow: _Flow, error: Exception | None) -> None:
        if not flow.over.is_set():
            self._forget(flow)
            flow.error = error
            flow.over.set()


class _Flow:
    """One stream's state; the pump's lock guards it."""

    def __init__(self, source: Source, client: socket.socket, stall_s: float, silence_s: float) -> None:
        self.source_fd = source.fileno()
        self.client_fd = client.fileno()
        self.waits_for = self.source_fd
        self.pending = b""
        self.over = threading.Event()
        self.error: Exception | None = None
        self._source = source
        self._stall_s = stall_s
        self._silence_s = silence_s
        self._moved_at = time.monotonic()

    @property
    def is_done(self) -> bool:
        return self._source.is_over and not self.pending

    def deadline(self) -> float:
        """When it is given up (monotonic) unless something moves."""
        return self._moved_at + (self._stall_s if self.pending else self._silence_s)

    def too_late(self) -> Exception:
        """Why it is given up."""
        if self.pending:
            return BrokenPipeError(errno.EPIPE, f"the client took nothing for {self._stall_s:g} s")
        return UpstreamTimeout(f"the model sent nothing for {self._silence_s:g} s")

    def move(self, events: int) -> None:
        """Send what is pending, or receive some and send that. Raises OSError when the client has left."""
        if self.pending:
            if events & _LEFT:
                raise ConnectionResetError("it closed its end")
            self._send(self.pending)
            return
        try:
            received = os.read(self.source_fd, RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._source.broke(exc)
            return
        self._moved_at = time.monotonic()
        if piece := self._source.feed(received):
            self._send(b"%X\r\n%b\r\n" % (len(piece), piece))

    def _send(self, data: bytes) -> None:
        try:
            sent = os.write(self.client_fd, data)
        except BlockingIOError:
            sent = 0
        if sent:
            self._moved_at = time.monotonic()
        self.pending = data[sent:]
