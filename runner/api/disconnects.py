"""Notices clients that leave, by their sockets and not by failed writes, so that it works while nothing is written."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable


class Watch:
    """One client being watched. `end` is idempotent and must come before the socket is used for something else."""

    def __init__(self, watcher: DisconnectWatcher, fd: int, on_leave: Callable[[], None]) -> None:
        self.fd = fd
        self.on_leave = on_leave
        self._watcher = watcher

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def end(self) -> None:
        """No call of `on_leave` begins after this."""
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
        """Calls `on_leave` at most once, from the watcher's thread, when the peer closes. Without a socket, never."""
        watch = Watch(self, -1 if sock is None else sock.fileno(), on_leave)
        if watch.fd >= 0:
            with self._lock:
                self._watches[watch.fd] = watch
                self._poll.register(watch.fd, select.POLLRDHUP)
            self._wake()
        return watch

    def remove(self, watch: Watch) -> bool:
        """Whether it was still being watched."""
        with self._lock:
            if self._watches.get(watch.fd) is not watch:
                return False
            del self._watches[watch.fd]
            self._poll.unregister(watch.fd)
            return True

    def close(self) -> None:
        """Ends the thread; watched clients are forgotten."""
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
                    self._left(fd)

    def _left(self, fd: int) -> None:
        with self._lock:
            watch = self._watches.get(fd)
        # Asked again: while the long poll ran, the number may have passed from a closed connection to a new one.
        if watch is not None and _is_hung_up(fd) and self.remove(watch):
            watch.on_leave()


def _is_hung_up(fd: int) -> bool:
    probe = select.poll()
    probe.register(fd, select.POLLRDHUP)
    return bool(probe.poll(0))
