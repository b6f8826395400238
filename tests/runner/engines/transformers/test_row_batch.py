"""The batch over rows, with a model whose next token depends on all tokens in its row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from runner.engine import EncodedRequest, Sampling
from runner.engines.step_loop import RequestFailed
from runner.engines.transformers.row_batch import RowBatch, RowSequence

EOS = 3
PLENTY = 10_000


def next_token(content: Sequence[int]) -> int:
    """Return the fake model's token after these tokens; never EOS by chance."""
    return 10 + (sum(place * token for place, token in enumerate(content, 1)) + 7 * len(content)) % 1000


class Logits(list[int]):
    """The likeliest token of each line."""

    def argmax(self, dim: int) -> Logits:
        assert dim == -1
        return self

    def tolist(self) -> list[int]:
        return list(self)


class FakeForward:
    """Keeps the tokens of each row, and checks that its caller keeps to the contract."""

    def __init__(self, rows: int = 4, part_tokens: int = 8) -> None:
        self.rows = rows
        self.part_tokens = part_tokens
        self.content: list[list[int]] = [[] for _ in range(rows)]
        self.passes: list[tuple[str, int]] = []
        self.most_tokens = 0

    def extend(self, row: int, parts: Sequence[Sequence[int]], start: int) -> Logits:
        assert len(parts) == 1 or start == 0
        assert max(map(len, parts)) * len(parts) <= self.part_tokens
        self.passes.append(("extend", len(parts)))
        for place, part in enumerate(parts, row):
            assert len(self.content[place]) == start
            self.content[place] += part
        return self._logits(range(row, row + len(parts)))

    def append(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits:
        self.passes.append(("append", len(tokens)))
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            assert len(self.content[row]) == length
            self.content[row].append(token)
        return self._logits(range(len(tokens)))

    def move(self, source: int, target: int, length: int) -> None:
        assert len(self.content[source]) == length
        self.content[target], self.content[source] = self.content[source], []

    def release(self, row: int) -> None:
        self.content[row] = []

    def _logits(self, rows: range) -> Logits:
        self.most_tokens = max(self.most_tokens, sum(map(len, self.content)))
        return Logits(next_token(self.content[row]) for row in rows)


class FakeSampler:
    """Takes the likeliest token; fails at a temperature of 2, and ends the text at 1."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self.is_greedy = sampling.temperature == 0

    def choose(self, logits: Any) -> int:
        if self._temperature == 2:
            raise RuntimeError("probability tensor contains nan")
        return EOS


@pytest.fixture
def forward() -> FakeForward:
    return FakeForward()


@pytest.fixture
def batch(forward: FakeForward) -> RowBatch:
    return RowBatch(forward, FakeSampler, eos={EOS}, room_tokens=PLENTY)


def request(length: int, *, first: int = 5, new: int = 4, temperature: float = 0) -> EncodedRequest:
    sampling = Sampling(max_tokens=new, temperature=temperature, top_p=1, top_k=0)
    return EncodedRequest(prompt_tokens=tuple(range(first, first + length)), sampling=sampling)


def answer_to(request_: EncodedRequest) -> list[int]:
    """Return the answer that follows from the prompt alone."""
    content = list(request_.prompt_tokens)
    for _ in range(request_.sampling.max_tokens):
        content.append(next_token(content))
    return content[len(request_.prompt_tokens) :]


class Reader:
    """Takes a sequence's tokens as the step loop does."""

    def __init__(self, sequence: RowSequence) -> None:
        self.sequence = sequence
        self.tokens: list[int] = []
        self.reason: str | None = None

    def take(self) -> None:
        if self.reason is None and (new := self.sequence.take()) is not None:
            self.tokens += new.tokens
            self.reason = new.reason


def finish(batch: RowBatch, *readers: Reader) -> None:
    for _ in range(20000):
        if all(reader.reason for reader in readers):
            return
        batch.step()
        for reader in readers:
            reader.take()
    raise AssertionError("not finished within 20000 steps")


def test_a_request_gets_its_tokens(batch: RowBatch, forward: FakeForward) -> None:
    """The prompt's pass gives the first token, one pass each the others; then the row is empty."""
    single = request(3)
    reader = Reader(batch.add(single))
    finish(batch, reader)
    assert (answer_to(single), "length") == (reader.tokens, reader.reason)
    assert [("extend", 1), *[("append", 1)] * 3] == forward.passes
    assert [] == [row for row in forward.content if row]


def test_the_batch_reports_its_use_of_the_room(forward: FakeForward) -> None:
    """Tokens in rows count, those of waiting requests do not; when all have left, nothing is in use."""
    batch = RowBatch(forward, FakeSampler, eos={EOS}, room_tokens=200)
    readers = [Reader(batch.add(request(8, first=first, new=3))) for first in (5, 50)]
    assert batch.cache_use() == 0
    batch.step()
    assert batch.cache_use() == 9 / 200
    finish(batch, *readers)
    assert batch.cache_use() == 0


def test_an_end_of_text_token_ends_a_request(batch: RowBatch) -> None:
    """The token is passed on and ends the request with `stop`."""
    reader = Reader(batch.add(request(3, temperature=1)))
    finish(batch, reader)
    assert ([EOS], "stop") == (reader.tokens, reader.reason)


def test_short_prompts_share_a_pass(batch: RowBatch, forward: FakeForward) -> None:
    """Prompts that fit into one part are computed in one pass, and so is each of their next tokens."""
    requests = [request(length, first=9 * length) for length in (2, 1, 2, 2)]
    readers = [Reader(batch.add(one)) for one in requests]
    finish(batch, *readers)
    assert [("extend", 4), *[("append", 4)] * 3] == forward.passes
    assert [answer_to(one) for one in requests] == [reader.tokens for reader in readers]


def test_no_more_requests_than_rows_run_at_once(batch: RowBatch, forward: FakeForward) -> None:
    """Further requests wait, and take the place of the first that ends."""
    readers = [Reader(batch.add(request(2, first=first))) for first in range(5, 11)]
    finish(batch, *readers)
    assert 4 == max(count for _, count in forward.passes)
    assert [answer_to(request(2, first=first)) for first in range(5, 11)] == [reader.tokens for reader in readers]


def test_a_long_prompt_does_not_block_others(batch: RowBatch, forward: FakeForward) -> None:
    """While a long prompt is computed in parts, other requests get a token after each part."""
    writer = Reader(batch.add(request(2, new=9)))
    batch.step()
    long = Reader(batch.add(request(30, first=40)))
    finish(batch, writer, long)
    assert [("append", 1), ("extend", 1)] * 4 == forward.passes[1:9]
    assert answer_to(request(2, new=9)) == writer.tokens
    assert answer_to(request(30, first=40)) == long.tokens


def test_a_request_that_leaves_leaves_no_gap(batch: RowBatch, forward: FakeForward) -> None:
    """The rows stay in order if a request leaves while it waits, in the middle of its prompt, or later."""
    requests = [request(2, first=first, new=20) for first in (5, 50, 500)]
    readers = [Reader(batch.add(one)) for one in requests]
    batch.step()
    long, late = batch.add(request(30)), batch.add(request(2))
    batch.step()
    batch.step()
    readers.pop(0).sequence.cancel()
    late.cancel()
    batch.step()
    long.cancel()
    finish(batch, *readers)
    assert [answer_to(one) for one in requests[1:]] == [reader.tokens for reader in readers]
    assert [] == [row for row in forward.content if row]


def test_a_request_without_probabilities_fails_alone(batch: RowBatch) -> None:
    """A request whose logits are not numbers fails with that reason; others continue."""
    failing, neighbour = batch.add(request(2, temperature=2)), Reader(batch.add(request(3)))
    finish(batch, neighbour)
    with pytest.raises(RequestFailed, match="nan"):
        failing.take()
    assert answer_to(request(3)) == neighbour.tokens


def test_too_little_room_puts_the_latest_request_back() -> None:
    """The tokens in all rows never exceed the room; a request that was put back continues where it was."""
    forward = FakeForward(rows=4, part_tokens=64)
    batch = RowBatch(forward, FakeSampler, eos={EOS}, room_tokens=300)
    requests = [request(2, first=first, new=200) for first in (5, 50, 500)]
    readers = [Reader(batch.add(one)) for one in requests]
    finish(batch, *readers)
    assert [answer_to(one) for one in requests] == [reader.tokens for reader in readers]
    assert 200 < forward.most_tokens <= 300
    assert len([kind for kind, _ in forward.passes if kind == "extend"]) > 1


@pytest.mark.parametrize("seed", range(20))
def test_other_requests_do_not_change_an_answer(seed: int) -> None:
    """Whichever requests join and leave at any time, with much room or little, each gets the same answer as alone."""
    dice = random.Random(seed)
    forward = FakeForward(rows=dice.randint(1, 5), part_tokens=dice.choice([1, 4, 16]))
    room = dice.choice([120, 200, PLENTY])
    batch = RowBatch(forward, FakeSampler, eos={EOS}, room_tokens=room)
    staying: list[tuple[EncodedRequest, Reader]] = []
    passing: list[RowSequence] = []
    for _ in range(60):
        new = request(dice.randint(1, 40), first=dice.randint(5, 500), new=dice.randint(1, 60))
        if dice.random() < 0.3:
            passing.append(batch.add(new))
        elif dice.random() < 0.5:
            staying.append((new, Reader(batch.add(new))))
        if passing and dice.random() < 0.2:
            passing.pop(dice.randrange(len(passing))).cancel()
        batch.step()
        for _, reader in staying:
            reader.take()
    for sequence in passing:
        sequence.cancel()
    finish(batch, *(reader for _, reader in staying))
    assert [answer_to(one) for one, _ in staying] == [reader.tokens for _, reader in staying]
    assert forward.most_tokens <= room
    assert [] == [row for row in forward.content if row]
