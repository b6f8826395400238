"""One thread that steps a batch: requests join and leave between any two steps, and it sleeps when there are none."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Literal, Protocol

from runner.engine import EncodedRequest, EngineError

log = logging.getLogger("runner")

EndReason = Literal["stop", "length", "cancelled"]


class RequestFailed(EngineError):
    """This one request cannot go on; the others of its batch can."""


@dataclass(frozen=True)
class Tokens:
    """What a step made for one request; `reason` is given once, with the last ones."""

    tokens: Sequence[int]
    reason: EndReason | None = None


class BatchSequence(Protocol):
    """One request inside the batch."""

    def take(self) -> Tokens | None:
        """What has been made since the last time; None when nothing was. Raises RequestFailed."""

    def cancel(self) -> None:
        """Leave the batch before the next step."""


class BatchPipeline(Protocol):
    """What makes the tokens. Only the stepping thread calls it."""

    def add(self, request: EncodedRequest) -> BatchSequence:
        """Let a request join before the next step. Raises RequestFailed."""

    def step(self) -> None:
        """Compute once for all requests; blocks for milliseconds."""


class Turn:
    """One request as its consumer sees it: `next` from one thread, `leave` from any."""

    def __init__(self, request: EncodedRequest, cancelled: Callable[[], bool]) -> None:
        self.request = request
        self._cancelled = cancelled
        self._left = False
        self._results: SimpleQueue[Tokens | EngineError] = SimpleQueue()

    def next(self) -> list[Tokens]:
        """Waits for the next tokens and takes along what has piled up. Raises EngineError when the engine failed."""
        found = [self._results.get()]
        while True:
            if isinstance(found[-1], EngineError):
                raise found[-1]
            try:
                found.append(self._results.get_nowait())
            except Empty:
                return [result for result in found if isinstance(result, Tokens)]

    def leave(self) -> None:
        """The consumer wants no more; the request is dropped before the next step."""
        self._left = True

    def is_leaving(self) -> bool:
        return self._left or self._cancelled()

    def put(self, result: Tokens | EngineError) -> None:
        """For the stepping thread."""
        self._results.put(result)


class StepLoop:
    """Steps a pipeline as long as there is something to do.

    A step that raises fails all requests with its reason, and every later one: the pipeline's state is unknown then.
    """

    def __init__(self, pipeline: BatchPipeline) -> None:
        self.failure: str | None = None
        self._pipeline = pipeline
        self._changed = threading.Condition()
        self._joining: deque[Turn] = deque()
        self._closed = False
        self._active: list[tuple[Turn, BatchSequence]] = []
        self._thread = threading.Thread(target=self._run, name="step", daemon=True)
        self._thread.start()

    def submit(self, request: EncodedRequest, cancelled: Callable[[], bool]) -> Turn:
        """Lets a request join; `cancelled` is asked before each step. Raises EngineError after a failure."""
        turn = Turn(request, cancelled)
        with self._changed:
            if self.failure is not None or self._closed:
                raise EngineError(self.failure or "the engine is closed")
            self._joining.append(turn)
            self._changed.notify()
        return turn

    def close(self) -> None:
        """Ends after the step that runs; requests still in the batch end as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._join():
                self._drop_leavers()
                if self._active:
                    self._pipeline.step()
                    self._hand_out()
        except Exception as error:  # The thread's outermost loop: whatever a step throws, nobody may wait for ever.
            log.exception("a step failed")
            self._fail_all(f"the engine failed while generating: {type(error).__name__}: {error}")
        else:
            for turn, _ in self._active:
                turn.put(Tokens((), "cancelled"))

    def _join(self) -> bool:
        """Takes in who came since; sleeps while there is nobody. False when the loop is to end."""
        with self._changed:
            while not (self._joining or self._active or self._closed):
                self._changed.wait()
            if self._closed:
                self._active += [(turn, _NOTHING) for turn in self._joining]
                return False
            joining = list(self._joining)
            self._joining.clear()
        for position, turn in enumerate(joining):
            try:
                self._active.append((turn, self._pipeline.add(turn.request)))
            except RequestFailed as error:
                turn.put(error)
            except Exception:
                self._active += [(late, _NOTHING) for late in joining[position:]]
                raise
        return True

    def _drop_leavers(self) -> None:
        staying = []
        for turn, sequence in self._active:
            if turn.is_leaving():
                sequence.cancel()
                turn.put(Tokens((), "cancelled"))
            else:
                staying.append((turn, sequence))
        self._active = staying

    def _hand_out(self) -> None:
        staying = []
        for turn, sequence in self._active:
            try:
                made = sequence.take()
            except RequestFailed as error:
                turn.put(error)
                continue
            if made is not None:
                turn.put(made)
            if made is None or made.reason is None:
                staying.append((turn, sequence))
        self._active = staying

    def _fail_all(self, reason: str) -> None:
        with self._changed:
            self.failure = reason
            waiting = [*(turn for turn, _ in self._active), *self._joining]
            self._active = []
            self._joining.clear()
        for turn in waiting:
            turn.put(EngineError(reason))


class _Nothing:
    """Stands for the sequence of a request that never joined."""

    def take(self) -> Tokens | None:
        return None

    def cancel(self) -> None:
        return None


_NOTHING = _Nothing()
