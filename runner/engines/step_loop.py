"""One thread steps a batch: requests join and leave between steps, and the thread sleeps when there are none."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runner.engine import EncodedRequest, EngineError, FinishReason, PieceReceiver
from runner.engines.token_text import TokenText

log = logging.getLogger("runner")


class RequestFailed(EngineError):
    """This request cannot continue; the others of its batch can."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that a step made for one request; the last ones come with the `reason`."""

    tokens: Sequence[int]
    reason: FinishReason | None = None


class BatchSequence(Protocol):
    """One request in the batch."""

    def take(self) -> Tokens | None:
        """Return the tokens made since the last call; None if there are none. Raises RequestFailed."""

    def cancel(self) -> None:
        """Leave the batch before the next step."""


class BatchPipeline(Protocol):
    """Makes the tokens. Only the stepping thread calls it."""

    def add(self, request: EncodedRequest) -> BatchSequence:
        """Add a request to the next step. Raises RequestFailed."""

    def step(self) -> None:
        """Compute once for all requests; blocks for milliseconds."""


class _Member:
    """One request that is in the batch or about to join it."""

    def __init__(self, request: EncodedRequest, receiver: PieceReceiver, text: TokenText) -> None:
        self.request = request
        self.sequence: BatchSequence | None = None
        self.is_over = False
        self._receiver = receiver
        self._text = text

    def is_leaving(self) -> bool:
        return self._receiver.is_cancelled()

    def join(self, pipeline: BatchPipeline) -> None:
        try:
            self.sequence = pipeline.add(self.request)
        except RequestFailed as error:
            self.fail(error)
        else:
            self._receiver.begin()

    def pass_on_tokens(self) -> None:
        """Give the receiver the text of what the last step made."""
        assert self.sequence is not None
        try:
            tokens = self.sequence.take()
        except RequestFailed as error:
            self.fail(error)
            return
        if tokens is None:
            return
        self._put(tokens)
        if self.is_over and tokens.reason is None:
            self.sequence.cancel()

    def drop(self) -> None:
        """Leave the batch before the next step, and report `cancelled`."""
        if self.sequence is not None:
            self.sequence.cancel()
        self._put(Tokens((), "cancelled"))

    def fail(self, error: EngineError) -> None:
        if not self.is_over:
            self.is_over = True
            self._receiver.fail(error)

    def _put(self, tokens: Tokens) -> None:
        try:
            piece = self._text.feed(tokens.tokens, tokens.reason)
            if piece is not None:
                self._receiver.put(piece)
                self.is_over = piece.finish_reason is not None
        except Exception as error:  # A fault in this request's text or receiver must not end the others.
            log.exception("could not pass on a piece of an answer")
            self.fail(EngineError(f"the answer could not be written: {type(error).__name__}: {error}"))


class StepLoop:
    """Steps a pipeline while there is work, and turns each request's tokens into pieces.

    One thread does all of it: waking another for each token would take a core from the next step. If a step raises,
    all requests fail with its reason, and so does every later one: the state of the pipeline is then unknown.
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
        self._condition = threading.Condition()
        self._joining: deque[_Member] = deque()
        self._closed = False
        self._active: list[_Member] = []
        self._thread = threading.Thread(target=self._run, name="step", daemon=True)
        self._thread.start()

    def submit(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        """Let a request join before the next step. See `runner.engine.Engine`; raises EngineError after a failure."""
        member = _Member(request, receiver, self._text_of(request))
        with self._condition:
            if self.failure is not None or self._closed:
                raise EngineError(self.failure or "the engine is closed")
            self._joining.append(member)
            self._condition.notify_all()

    def drain(self) -> None:
        """Wait until the batch is empty: as long as the longest generation takes, and those that join meanwhile."""
        with self._condition:
            self._condition.wait_for(lambda: not self._joining and not self._active)

    def idle_s(self) -> float | None:
        """Return for how long the batch has been empty; None if it has requests, or some are about to join."""
        with self._condition:
            since_s = None if self._joining else self._idle_since_s
        return None if since_s is None else self._clock() - since_s

    def close(self) -> None:
        """End after the current step; requests that are still in the batch end as cancelled."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._join():
                if self._active:
                    self._pipeline.step()
                    for member in self._active:
                        member.pass_on_tokens()
        except Exception as error:  # The thread's outermost loop: if a step raises, no request may wait forever.
            log.exception("a step failed")
            self._fail_all(f"the engine failed while generating: {type(error).__name__}: {error}")
        else:
            for member in self._active:
                member.drop()

    def _join(self) -> bool:
        """Remove finished members, add new ones, sleep while there are none. Returns False once the loop must end."""
        with self._condition:
            self._active = [member for member in self._active if not member.is_over]
            if not self._active:
                if self._idle_since_s is None:
                    self._idle_since_s = self._clock()
                self._condition.notify_all()
            while not (self._joining or self._active or self._closed):
                self._condition.wait()
            self._idle_since_s = None
            joining = list(self._joining)
            self._joining.clear()
            # Before they join, so that a later exception reaches them, too.
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
        with self._condition:
            self.failure = reason
            waiting = [*self._active, *self._joining]
            self._active = []
            self._joining.clear()
            self._condition.notify_all()
        for member in waiting:
            member.fail(EngineError(reason))
