"""Continuous batching over rows of a cache: what the next step computes for which requests, and which have room."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from runner.engine import EncodedRequest, FinishReason, Sampling
from runner.engines.step_loop import RequestFailed, Tokens

# A request joins only if each request has room for so many more tokens, so that none must go back at once.
HEADROOM_TOKENS = 64


class Forward(Protocol):
    """A model with room for the tokens of `rows` requests. Logits have one line for each request."""

    rows: int
    part_tokens: int
    """Prompts are computed in parts of this many tokens: other requests wait for at most one part, a client that leaves
    is noticed between two parts, and a part of this length still keeps the cores busy."""

    def extend(self, row: int, parts: Sequence[Sequence[int]], start: int) -> Any:
        """Append parts of prompts to the rows from `row` on, which hold `start` tokens; return the logits after them.

        Only empty rows may get more than one part together.
        """

    def append(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        """Append one token to each of the first rows, which hold `lengths` tokens; return the logits after it."""

    def move(self, source: int, target: int, length: int) -> None:
        """Move the `length` tokens of the source row to the target row, and empty the source."""

    def release(self, row: int) -> None:
        """Empty the row."""


class Sampler(Protocol):
    """Chooses the tokens of one request."""

    @property
    def is_greedy(self) -> bool:
        """Whether the choice is always the likeliest token."""

    def choose(self, logits: Any) -> int:
        """Choose a token by its logits. Raises RuntimeError if they give no probabilities."""


class RowBatch:
    """See `runner.engines.step_loop.BatchPipeline`. Runs requests in order of arrival, as many as have room."""

    def __init__(
        self, forward: Forward, make_sampler: Callable[[Sampling], Sampler], *, eos: Collection[int], room_tokens: int
    ) -> None:
        self._forward = forward
        self._make_sampler = make_sampler
        self._eos = eos
        self._room_tokens = room_tokens
        self._waiting: deque[RowSequence] = deque()
        self._reading: RowSequence | None = None
        """The request whose prompt is computed in several parts, in the row after those of `_writing`."""
        self._writing: list[RowSequence] = []
        """Requests that get a token with each step; their index in the list is their row."""
        self._has_read = False
        self._arrivals = itertools.count()

    def add(self, request: EncodedRequest) -> RowSequence:
        sequence = RowSequence(self, request, self._make_sampler(request.sampling), next(self._arrivals))
        self._waiting.append(sequence)
        return sequence

    def step(self) -> None:
        """Compute either a part of a prompt or a token for each request, alternately if there is both to do."""
        self._keep_within_room()
        if (self._reading or self._may_join()) and not (self._has_read and self._writing):
            self._has_read = True
            self._read()
        else:
            self._has_read = False
            self._write()

    def drop(self, sequence: RowSequence) -> None:
        """Remove a sequence, wherever it is."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        elif sequence is self._reading:
            self._reading = None
            self._forward.release(len(self._writing))
        elif sequence in self._writing:
            self._empty_row(self._writing.index(sequence))

    def cache_use(self) -> float:
        """Return the share of the room in use, from 0 to 1; any thread may call it."""
        return min(self._used_tokens() / self._room_tokens, 1.0)

    def _empty_row(self, row: int) -> None:
        """Move the last row into the gap, so that rows stay without gaps, and then the row of `_reading`."""
        last = self._writing.pop()
        end = len(self._writing)
        if row < end:
            self._forward.move(end, row, last.computed_count)
            self._writing[row] = last
        else:
            self._forward.release(row)
        if self._reading is not None:
            self._forward.move(end + 1, end, self._reading.computed_count)

    def _in_rows(self) -> list[RowSequence]:
        reading = self._reading
        return [*self._writing] if reading is None else [*self._writing, reading]

    def _used_tokens(self) -> int:
        return sum(len(sequence.tokens) for sequence in self._in_rows())

    def _may_join(self, group: int = 0, group_tokens: int = 0) -> bool:
        """Tell whether the first waiting request has room beside those in rows and the group that joins with it."""
        rows = len(self._writing) + group
        if not self._waiting or rows >= self._forward.rows:
            return False
        tokens = self._used_tokens() + group_tokens + len(self._waiting[0].tokens) + HEADROOM_TOKENS * (rows + 1)
        return rows == 0 or tokens <= self._room_tokens

    def _keep_within_room(self) -> None:
        """Put the latest requests back, to compute them again later, until there is room for the next tokens."""
        while len(self._in_rows()) > 1 and self._used_tokens() > self._room_tokens:
            last = max(self._in_rows(), key=lambda sequence: sequence.arrival)
            self.drop(last)
            last.computed_count = 0
            self._waiting.appendleft(last)

    def _read(self) -> None:
        group = self._next_group() if self._reading is None else [self._reading]
        start = group[0].computed_count
        parts = [sequence.tokens[start : start + self._forward.part_tokens] for sequence in group]
        logits = self._forward.extend(len(self._writing), parts, start)
        for sequence, part in zip(group, parts, strict=True):
            sequence.computed_count += len(part)
        if group[0].computed_count < len(group[0].tokens):
            (self._reading,) = group
            return
        self._reading = None
        self._writing += group
        self._choose(group, logits)

    def _next_group(self) -> list[RowSequence]:
        """Return the requests that join now: one, or several whose prompts together fit into one part."""
        group = [self._waiting.popleft()]
        longest = total = len(group[0].tokens)
        while self._may_join(len(group), total):
            longest = max(longest, len(self._waiting[0].tokens))
            if longest * (len(group) + 1) > self._forward.part_tokens:
                break
            total += len(self._waiting[0].tokens)
            group.append(self._waiting.popleft())
        return group

    def _write(self) -> None:
        if not self._writing:
            return
        group = list(self._writing)
        logits = self._forward.append([one.tokens[-1] for one in group], [one.computed_count for one in group])
        for sequence in group:
            sequence.computed_count += 1
        self._choose(group, logits)

    def _choose(self, group: list[RowSequence], logits: Any) -> None:
        likeliest = logits.argmax(dim=-1).tolist()
        for row, sequence in enumerate(group):
            sequence.choose(logits[row], likeliest[row], self._eos)
            if sequence.is_over:
                self.drop(sequence)


class RowSequence:
    """See `runner.engines.step_loop.BatchSequence`."""

    def __init__(self, batch: RowBatch, request: EncodedRequest, sampler: Sampler, arrival: int) -> None:
        self.arrival = arrival
        self.tokens = list(request.prompt_tokens)
        self.computed_count = 0
        """How many of the tokens are in the cache."""
        self.is_over = False
        self._batch = batch
        self._end = len(self.tokens) + request.sampling.max_tokens
        self._sampler = sampler
        self._new_tokens: list[int] = []
        self._reason: FinishReason | None = None
        self._failure: str | None = None

    def take(self) -> Tokens | None:
        if self._failure is not None:
            raise RequestFailed(self._failure)
        if not self._new_tokens:
            return None
        tokens, self._new_tokens = self._new_tokens, []
        return Tokens(tokens, self._reason)

    def cancel(self) -> None:
        self._batch.drop(self)

    def choose(self, logits: Any, likeliest: int, eos: Collection[int]) -> None:
        """Choose one more token by its logits, given the likeliest one."""
        try:
            token = likeliest if self._sampler.is_greedy else self._sampler.choose(logits)
        except RuntimeError as error:
            # Invalid probabilities, of a model that overflows in its dtype.
            self._failure = f"the engine cannot choose a token: {error}"
            self.is_over = True
            return
        self.tokens.append(token)
        self._new_tokens.append(token)
        if token in eos:
            self._reason = "stop"
        elif len(self.tokens) >= self._end:
            self._reason = "length"
        self.is_over = self._reason is not None
