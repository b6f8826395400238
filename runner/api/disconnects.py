"""Detects clients that leave by watching their sockets, so that it works even while nothing is written to them."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable


class Watch:
    """The watch on one client. Call `end` before the socket gets another use; `end` is idempotent."""

    def __init__(self, watcher: DisconnectWatcher, fd: int, on_leave: Callable[[], None]) -> None:
        self.fd = fd
        self.on_leave = on_leave
        self._watcher = watcher

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def end(self) -> None:
        """End the watch: no call of `on_leave` starts after this."""
        self._watcher.remove(self)


class DisconnectWatcher:
    """One thread that polls the sockets of the requests in flight. Thread-safe."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watches: dict[int, Watch] = {}
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        self._poll.register(self._wake_read, select.POLLIN)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="disconnects", daemon=True)
        self._thread.start()

    def watch(self, sock: socket.socket | None, on_leave: Callable[[], None]) -> Watch:
        """Let the watcher's thread call `on_leave` once when the client closes. Without a socket, it never does."""
        watch = Watch(self, -1 if sock is None else sock.fileno(), on_leave)
        if watch.fd >= 0:
            with self._lock:
                self._watches[watch.fd] = watch
                self._poll.register(watch.fd, select.POLLRDHUP)
            self._wake()
        return watch

    def remove(self, watch: Watch) -> bool:
        """Remove a watch; tell whether it was still there."""
        with self._lock:
            if self._watches.get(watch.fd) is not watch:
                return False
            del self._watches[watch.fd]
            self._poll.unregister(watch.fd)
            return True

    def close(self) -> None:
        """End the thread and all watches."""
        self._closed = True
        self._wake()
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        os.write(self._wake_write, b"w")

    def _run(self) -> None:
        while not self._closed:
            for fd, _event in self._poll.poll():
                if fd == self._wake_read:
                    os.read(fd, 1024)
                else:
                    self._end_if_left(fd)

    def _end_if_left(self, fd: int) -> None:
        with self._lock:
            watch = self._watches.get(fd)
        # Checked again: during the long poll, the number may have passed from a closed connection to a new one.
        if watch is not None and _is_hung_up(fd) and self.remove(watch):
            watch.on_leave()


def _is_hung_up(fd: int) -> bool:
    probe = select.poll()
    probe.register(fd, select.POLLRDHUP)
    return bool(probe.poll(0))
