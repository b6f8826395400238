"""Continuous batching over rows of a cache: which requests compute what in the next step, and who has room."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from runner.engine import EncodedRequest, FinishReason, Sampling
from runner.engines.step_loop import RequestFailed, Tokens

# A request joins only where everybody has room for so many more tokens, so that nobody is put back right away.
HEADROOM_TOKENS = 64


class Forward(Protocol):
    """A model with room for the tokens of `rows` requests. Logits come as one line for each request."""

    rows: int
    part_tokens: int
    """Prompts are computed in parts of this many tokens: others wait for their next token no longer than for one part,
    a leaving client is noticed between two, and a part of this length still keeps the cores busy."""

    def extend(self, row: int, parts: Sequence[Sequence[int]], start: int) -> Any:
        """The logits after parts of prompts, appended to the rows from `row` on, which hold `start` tokens.

        More than one part only where rows are empty.
        """

    def append(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        """The logits after one more token in each of the first rows, which hold `lengths` tokens."""

    def move(self, source: int, target: int, length: int) -> None:
        """The target row becomes the source's `length` tokens; the source is empty then."""

    def release(self, row: int) -> None:
        """The row is empty."""


class Sampler(Protocol):
    """Chooses the tokens of one request."""

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always the choice."""

    def choose(self, logits: Any) -> int:
        """A token, given its logits. Raises RuntimeError where they make no probabilities."""


class RowBatch:
    """See `runner.engines.stepping.BatchPipeline`. Requests in order of arrival, as many as have room."""

    def __init__(
        self, forward: Forward, make_sampler: Callable[[Sampling], Sampler], *, eos: Collection[int], room_tokens: int
    ) -> None:
        self._forward = forward
        self._make_sampler = make_sampler
        self._eos = eos
        self._room_tokens = room_tokens
        self._waiting: deque[RowSequence] = deque()
        self._reading: RowSequence | None = None
        """The one whose prompt is computed in several parts, in the row after those of `_writing`."""
        self._writing: list[RowSequence] = []
        """Those that get a token with each step; their place in the list is their row."""
        self._has_read = False
        self._arrivals = itertools.count()

    def add(self, request: EncodedRequest) -> RowSequence:
        sequence = RowSequence(self, request, self._make_sampler(request.sampling), next(self._arrivals))
        self._waiting.append(sequence)
        return sequence

    def step(self) -> None:
        """Either a part of a prompt or a token for everybody, in turns where there is both to do."""
        self._keep_within_room()
        if (self._reading or self._may_join()) and not (self._has_read and self._writing):
            self._has_read = True
            self._read()
        else:
            self._has_read = False
            self._write()

    def drop(self, sequence: RowSequence) -> None:
        """The sequence leaves, wherever it is."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        elif sequence is self._reading:
            self._reading = None
            self._forward.release(len(self._writing))
        elif sequence in self._writing:
            self._empty_row(self._writing.index(sequence))

    def cache_use(self) -> float:
        """The share of the room that requests hold, from 0 to 1; any thread may ask."""
        return min(self._used_tokens() / self._room_tokens, 1.0)

    def _empty_row(self, row: int) -> None:
        """The last one's row moves into the gap, so that rows stay without gaps; then that of the one who reads."""
        last = self._writing.pop()
        end = len(self._writing)
        if row < end:
            self._forward.move(end, row, last.computed)
            self._writing[row] = last
        else:
            self._forward.release(row)
        if self._reading is not None:
            self._forward.move(end + 1, end, self._reading.computed)

    def _in_rows(self) -> list[RowSequence]:
        reading = self._reading
        return [*self._writing] if reading is None else [*self._writing, reading]

    def _used_tokens(self) -> int:
        return sum(len(sequence.tokens) for sequence in self._in_rows())

    def _may_join(self, group: int = 0, group_tokens: int = 0) -> bool:
        """Whether the first who waits has room beside those in rows and a group that joins with it."""
        rows = len(self._writing) + group
        if not self._waiting or rows >= self._forward.rows:
            return False
        tokens = self._used_tokens() + group_tokens + len(self._waiting[0].tokens) + HEADROOM_TOKENS * (rows + 1)
        return rows == 0 or tokens <= self._room_tokens

    def _keep_within_room(self) -> None:
        """Puts back who came last, to be computed anew later, while there is too little room for the next tokens."""
        while len(self._in_rows()) > 1 and self._used_tokens() > self._room_tokens:
            last = max(self._in_rows(), key=lambda sequence: sequence.arrival)
            self.drop(last)
            last.computed = 0
            self._waiting.appendleft(last)

    def _read(self) -> None:
        group = self._next_group() if self._reading is None else [self._reading]
        start = group[0].computed
        parts = [sequence.tokens[start : start + self._forward.part_tokens] for sequence in group]
        logits = self._forward.extend(len(self._writing), parts, start)
        for sequence, part in zip(group, parts, strict=True):
            sequence.computed += len(part)
        if group[0].computed < len(group[0].tokens):
            (self._reading,) = group
            return
        self._reading = None
        self._writing += group
        self._choose(group, logits)

    def _next_group(self) -> list[RowSequence]:
        """Who joins now: one, or several whose prompts fill one part together."""
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
        logits = self._forward.append([one.tokens[-1] for one in group], [one.computed for one in group])
        for sequence in group:
            sequence.computed += 1
        self._choose(group, logits)

    def _choose(self, group: list[RowSequence], logits: Any) -> None:
        likeliest = logits.argmax(dim=-1).tolist()
        for row, sequence in enumerate(group):
            sequence.choose(logits[row], likeliest[row], self._eos)
            if sequence.is_over:
                self.drop(sequence)


class RowSequence:
    """See `runner.engines.stepping.BatchSequence`."""

    def __init__(self, batch: RowBatch, request: EncodedRequest, sampler: Sampler, arrival: int) -> None:
        self.arrival = arrival
        self.tokens = list(request.prompt_tokens)
        self.computed = 0
        """How many of the tokens lie in the cache."""
        self.is_over = False
        self._batch = batch
        self._end = len(self.tokens) + request.sampling.max_tokens
        self._sampler = sampler
        self._made: list[int] = []
        self._reason: FinishReason | None = None
        self._failure: str | None = None

    def take(self) -> Tokens | None:
        if self._failure is not None:
            raise RequestFailed(self._failure)
        if not self._made:
            return None
        made, self._made = self._made, []
        return Tokens(made, self._reason)

    def cancel(self) -> None:
        self._batch.drop(self)

    def choose(self, logits: Any, likeliest: int, eos: Collection[int]) -> None:
        """One more token, given its logits and the likeliest one."""
        try:
            token = likeliest if self._sampler.is_greedy else self._sampler.choose(logits)
        except RuntimeError as error:
            # Probabilities that are none, of a model that overflows in its dtype.
            self._failure = f"no token can be chosen: {error}"
            self.is_over = True
            return
        self.tokens.append(token)
        self._made.append(token)
        if token in eos:
            self._reason = "stop"
        elif len(self.tokens) >= self._end:
            self._reason = "length"
        self.is_over = self._reason is not None
