"""A request on its way to a model, as whoever may have to break it off sees it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

from controller.errors import UpstreamError


class InFlightRequest:
    """A request at a model: where, and why it was broken off, if it was. `on_cancel` is its client's way to do so."""

    def __init__(self, container_id: str, on_cancel: Callable[[Callable[[], None]], None]) -> None:
        self.container_id = container_id
        self._on_cancel = on_cancel
        self._lock = threading.Lock()
        self._abort: Callable[[], None] | None = None
        self._cause: UpstreamError | None = None

    def on_abort(self, abort: Callable[[], None]) -> None:
        """From now on this is what breaks it off; called again when it is sent on another connection."""
        self._on_cancel(abort)
        with self._lock:
            self._abort = abort
            is_cut = self._cause is not None
        if is_cut:
            abort()

    def cut(self, cause: UpstreamError) -> None:
        """Break it off, from any thread; whoever waits for the answer meets ModelDied, and asks for the cause."""
        with self._lock:
            # Each raises its own: one exception raised by many would hold all their frames.
            self._cause = self._cause or copy.copy(cause)
            abort = self._abort
        if abort is not None:
            abort()

    def raise_if_cut(self, met: Exception) -> None:
        """Raise the cause, if it was cut."""
        if self._cause is not None:
            raise self._cause from met
