"""Notices clients that leave while they wait, so that no model computes an answer that nothing will read."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class ClientWatcher:
    """One thread that waits for the far end of any watched socket to close. Thread-safe."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        threading.Thread(target=self._loop, name="client-watcher", daemon=True).start()

    def watch(self, client: socket.socket, on_leave: Callable[[], None]) -> Callable[[], None]:
        """Call `on_leave` once, in the watcher's thread, when the client closes; return what ends the watch."""
        number = client.fileno()
        with self._lock:
            self._callbacks[number] = on_leave
        self._epoll.register(number, select.EPOLLRDHUP | select.EPOLLONESHOT)

        def unwatch() -> None:
            with self._lock:
                # The system may have given the descriptor's number to the next client already.
                if self._callbacks.get(number) is not on_leave:
                    return
                del self._callbacks[number]
            try:
                self._epoll.unregister(number)
            except OSError:
                log.debug("descriptor %d was closed before its watch ended", number)

        return unwatch

    def _loop(self) -> None:
        while True:
            for number, _ in self._epoll.poll():
                with self._lock:
                    # While an earlier event of this batch was handled, another client may have got this number.
                    on_leave = self._callbacks.pop(number, None) if _has_left(number) else None
                if on_leave is not None:
                    try:
                        on_leave()
                    except Exception:  # the thread's outermost loop: other clients depend on it
                        log.exception("the leaving of a client could not be handled")


def _has_left(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLRDHUP)
    return bool(poll.poll(0))
