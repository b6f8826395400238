"""One thread that steps a batch: requests join and leave between any two steps, and it sleeps when there are none."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runner.engine import EncodedRequest, EngineError, FinishReason, Sink
from runner.engines.token_text import TokenText

log = logging.getLogger("runner")


class RequestFailed(EngineError):
    """This one request cannot go on; the others of its batch can."""


@dataclass(frozen=True)
class Tokens:
    """What a step made for one request; `reason` is given once, with the last ones."""

    tokens: Sequence[int]
    reason: FinishReason | None = None


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


class _Member:
    """One request in the batch, or on its way there."""

    def __init__(self, request: EncodedRequest, sink: Sink, text: TokenText) -> None:
        self.request = request
        self.sequence: BatchSequence | None = None
        self.is_over = False
        self._sink = sink
        self._text = text

    def is_leaving(self) -> bool:
        return self._sink.is_cancelled()

    def join(self, pipeline: BatchPipeline) -> None:
        try:
            self.sequence = pipeline.add(self.request)
        except RequestFailed as error:
            self.fail(error)
        else:
            self._sink.begin()

    def hand_out(self) -> None:
        """Passes on what the last step made."""
        assert self.sequence is not None
        try:
            made = self.sequence.take()
        except RequestFailed as error:
            self.fail(error)
            return
        if made is None:
            return
        self._put(made)
        if self.is_over and made.reason is None:
            self.sequence.cancel()

    def drop(self) -> None:
        """Takes no part in the next step, and says so."""
        if self.sequence is not None:
            self.sequence.cancel()
        self._put(Tokens((), "cancelled"))

    def fail(self, error: EngineError) -> None:
        if not self.is_over:
            self.is_over = True
            self._sink.fail(error)

    def _put(self, made: Tokens) -> None:
        try:
            piece = self._text.feed(made.tokens, made.reason)
            if piece is not None:
                self._sink.put(piece)
                self.is_over = piece.finish_reason is not None
        except Exception as error:  # Whatever is wrong with this one's text or its reader, the others go on.
            log.exception("a piece could not be handed out")
            self.fail(EngineError(f"the answer could not be written: {type(error).__name__}: {error}"))


class StepLoop:
    """Steps a pipeline as long as there is something to do, and turns each request's tokens into its pieces.

    All of that on one thread: any other that were woken for a token would take a core from the step that follows.
    A step that raises fails all requests with its reason, and every later one: the pipeline's state is unknown then.
    """

    def __init__(
        self,
        pipeline: BatchPipeline,
        text_of: Callable[[EncodedRequest], TokenText],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: str | None = None
        self._pipeline = pipeline
        self._text_of = text_of
        self._clock = clock
        self._idle_since_s: float | None = clock()
        self._changed = threading.Condition()
        self._joining: deque[_Member] = deque()
        self._closed = False
        self._active: list[_Member] = []
        self._thread = threading.Thread(target=self._run, name="step", daemon=True)
        self._thread.start()

    def submit(self, request: EncodedRequest, sink: Sink) -> None:
        """Lets a request join before the next step. See `runner.engine.Engine`; raises EngineError after a failure."""
        member = _Member(request, sink, self._text_of(request))
        with self._changed:
            if self.failure is not None or self._closed:
                raise EngineError(self.failure or "the engine is closed")
            self._joining.append(member)
            self._changed.notify_all()

    def drain(self) -> None:
        """Returns when nobody is in the batch. Blocks as long as the longest generation takes, and those that join."""
        with self._changed:
            self._changed.wait_for(lambda: not self._joining and not self._active)

    def idle_s(self) -> float | None:
        """For how long nobody has been in the batch; None while somebody is, or is on the way there."""
        with self._changed:
            since_s = None if self._joining else self._idle_since_s
        return None if since_s is None else self._clock() - since_s

    def close(self) -> None:
        """Ends after the step that runs; requests still in the batch end as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._join():
                if self._active:
                    self._pipeline.step()
                    for member in self._active:
                        member.hand_out()
        except Exception as error:  # The thread's outermost loop: whatever a step throws, nobody may wait for ever.
            log.exception("a step failed")
            self._fail_all(f"the engine failed while generating: {type(error).__name__}: {error}")
        else:
            for member in self._active:
                member.drop()

    def _join(self) -> bool:
        """Lets go who is done and takes in who came; sleeps while there is nobody. False when the loop is to end."""
        with self._changed:
            self._active = [member for member in self._active if not member.is_over]
            if not self._active:
                if self._idle_since_s is None:
                    self._idle_since_s = self._clock()
                self._changed.notify_all()
            while not (self._joining or self._active or self._closed):
                self._changed.wait()
            self._idle_since_s = None
            joining = list(self._joining)
            self._joining.clear()
            # Before they join: whatever is thrown from here on is told to them, too.
            self._active += joining
            if self._closed:
                return False
        for member in self._active:
            if member.is_leaving():
                member.drop()
        for member in joining:
            if not member.is_over:
                member.join(self._pipeline)
        self._active = [member for member in self._active if not member.is_over]
        return True

    def _fail_all(self, reason: str) -> None:
        with self._changed:
            self.failure = reason
            waiting = [*self._active, *self._joining]
            self._active = []
            self._joining.clear()
            self._changed.notify_all()
        for member in waiting:
            member.fail(EngineError(reason))
