"""Moves the bytes of all streams in flight in one thread: a thread for each would be woken for every token."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import time
from typing import Protocol

from controller.errors import UpstreamTimeout
from controller.system.turnstile import TURNSTILE

log = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
_LEFT = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Source(Protocol):
    """A body that comes over a non-blocking connection, in the form in which its client gets it."""

    @property
    def is_over(self) -> bool:
        """Whether no more will come, be that the proper end or not."""

    def fileno(self) -> int: ...

    def feed(self, data: bytes) -> bytes:
        """Return what the client gets for the data that came; b"" is the connection's end. Never raises."""

    def fail(self, cause: Exception) -> None:
        """Note that the connection failed; the source is over then."""


class StreamPump:
    """One thread that waits for a source that has more, or a client that takes more, of any stream. Thread-safe."""

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        threading.Thread(target=self._loop, name="pump", daemon=True).start()

    def run(self, source: Source, client: socket.socket) -> None:
        """Send the client what comes, as chunks of HTTP, until the source is over and all is sent; block until then.

        A client that takes nothing pauses its source, so that no more is buffered than came at once. Raises
        BrokenPipeError if the client has left, or has taken nothing for the time-out of its socket; UpstreamTimeout
        if the source sent nothing for `silence_s`.
        """
        if source.is_over:
            return
        stall_s = client.gettimeout()
        assert stall_s, "a socket that blocks would hold up all streams"
        TURNSTILE.leave()
        stream = _Stream(source, client, stall_s, self._silence_s)
        with self._lock:
            self._wait_for(stream, stream.source_fd, select.EPOLLIN)
        while not stream.over.wait(min(stream.deadline() - time.monotonic(), stall_s)):
            with self._lock:
                if stream.deadline() <= time.monotonic():
                    self._end(stream, stream.too_late())
        if stream.error is not None:
            raise stream.error

    def _loop(self) -> None:
        while True:
            for descriptor, events in self._epoll.poll():
                with self._lock:
                    # Its stream may have ended meanwhile, or another may have its number: that does no harm here.
                    stream = self._streams.get(descriptor)
                    if stream is not None:
                        self._move(stream, events)

    def _move(self, stream: _Stream, events: int) -> None:
        descriptor = stream.waits_for
        try:
            stream.move(events)
        except OSError as exc:
            self._end(stream, BrokenPipeError(errno.EPIPE, f"the client has left: {exc}"))
            return
        except Exception as exc:  # the thread's outermost code: the other streams depend on it
            log.exception("a stream met a fault of the controller")
            self._end(stream, exc)
            return
        if stream.is_done:
            self._end(stream, None)
        elif (stream.client_fd if stream.pending else stream.source_fd) != descriptor:
            self._switch_side(stream)

    def _switch_side(self, stream: _Stream) -> None:
        """Wait for the client instead of the source, or the other way round."""
        self._forget(stream)
        if stream.pending:
            self._wait_for(stream, stream.client_fd, select.EPOLLOUT | select.EPOLLRDHUP)
        else:
            self._wait_for(stream, stream.source_fd, select.EPOLLIN)

    def _wait_for(self, stream: _Stream, descriptor: int, events: int) -> None:
        self._epoll.register(descriptor, events)
        stream.waits_for = descriptor
        self._streams[descriptor] = stream

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.waits_for]
        self._epoll.unregister(stream.waits_for)

    def _end(self, stream: _Stream, error: Exception | None) -> None:
        if not stream.over.is_set():
            self._forget(stream)
            stream.error = error
            stream.over.set()


class _Stream:
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
        """Return when it is given up (monotonic) unless something moves."""
        return self._moved_at + (self._stall_s if self.pending else self._silence_s)

    def too_late(self) -> Exception:
        """Return why it is given up."""
        if self.pending:
            return BrokenPipeError(errno.EPIPE, f"the client took nothing for {self._stall_s:g} s")
        return UpstreamTimeout(f"the model sent nothing for {self._silence_s:g} s")

    def move(self, events: int) -> None:
        """Send what is pending, or else receive some and send that. Raises OSError if the client has left."""
        if self.pending:
            if events & _LEFT:
                raise ConnectionResetError("it closed its end")
            self._send(self.pending)
            return
        try:
            data = os.read(self.source_fd, RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._source.fail(exc)
            return
        self._moved_at = time.monotonic()
        if piece := self._source.feed(data):
            self._send(b"%X\r\n%b\r\n" % (len(piece), piece))

    def _send(self, data: bytes) -> None:
        try:
            count = os.write(self.client_fd, data)
        except BlockingIOError:
            count = 0
        if count:
            self._moved_at = time.monotonic()
        self.pending = data[count:]
