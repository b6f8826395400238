"""The stepping loop behind a pipeline that makes scripted tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runner.engine import EncodedRequest, EngineError, Sampling
from runner.engines.stepping import RequestFailed, StepLoop, Tokens, Turn

SAMPLING = Sampling(max_tokens=9, temperature=0, top_p=1, top_k=0)


class FakeSequence:
    """Makes its prompt's tokens again, one for each step."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.left = list(tokens)
        self.made: list[int] = []
        self.cancelled = False

    def take(self) -> Tokens | None:
        if self.left and self.left[0] < 0:
            raise RequestFailed("no room for this one")
        if not self.made:
            return None
        made, self.made = self.made, []
        return Tokens(made, None if self.left else "stop")

    def cancel(self) -> None:
        self.cancelled = True


class FakePipeline:
    """Steps only when it is let, and counts."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.sequences: list[FakeSequence] = []
        self.joined = threading.Semaphore(0)
        self.steps = 0
        self.fault: Exception | None = None
        self.widths: list[int] = []

    def add(self, request: EncodedRequest) -> FakeSequence:
        if 666 in request.prompt_tokens:
            raise RequestFailed("refused")
        sequence = FakeSequence(request.prompt_tokens)
        self.sequences.append(sequence)
        self.joined.release()
        return sequence

    def step(self) -> None:
        assert self.permits.acquire(timeout=10)
        self.steps += 1
        if self.fault is not None:
            raise self.fault
        running = [s for s in self.sequences if s.left and not s.cancelled]
        self.widths.append(len(running))
        for sequence in running:
            if sequence.left[0] >= 0:
                sequence.made.append(sequence.left.pop(0))


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def loop(pipeline: FakePipeline) -> Iterator[StepLoop]:
    loop = StepLoop(pipeline)
    yield loop
    pipeline.permits.release(1000)
    loop.close()


def request(*tokens: int) -> EncodedRequest:
    return EncodedRequest(prompt_tokens=tokens, sampling=SAMPLING)


def never() -> bool:
    return False


def rest(turn: Turn) -> tuple[list[int], str | None]:
    """All tokens until the end, and how it ended."""
    tokens: list[int] = []
    while True:
        for made in turn.next():
            tokens += made.tokens
            if made.reason is not None:
                return tokens, made.reason


def test_requests_join_while_others_run(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request that comes while another generates is in the very next step, and each gets its own tokens."""
    first = loop.submit(request(1, 2, 3), never)
    pipeline.permits.release()
    assert first.next() == [Tokens([1])]
    second = loop.submit(request(7, 8), never)
    pipeline.permits.release(10)
    assert rest(first) == ([2, 3], "stop")
    assert rest(second) == ([7, 8], "stop")
    assert max(pipeline.widths) == 2


def test_what_piled_up_comes_together(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A slow consumer finds all tokens at once, a quick one finds each as it is made."""
    slow, marker = loop.submit(request(1, 2, 3), never), loop.submit(request(1, 2, 3, 4), never)
    pipeline.permits.release(10)
    assert rest(marker) == ([1, 2, 3, 4], "stop")
    assert slow.next() == [Tokens([1]), Tokens([2]), Tokens([3], "stop")]


def test_a_leaver_is_dropped_before_the_next_step(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A cancelled request takes part in no further step; the others go on."""
    gone = threading.Event()
    leaver, stayer = loop.submit(request(1, 2, 3, 4), gone.is_set), loop.submit(request(5, 6), never)
    pipeline.permits.release()
    leaver.next()
    gone.set()
    pipeline.permits.release(10)
    assert rest(leaver)[1] == "cancelled"
    assert rest(stayer) == ([5, 6], "stop")
    assert pipeline.sequences[0].cancelled
    assert len(pipeline.sequences[0].left) >= 2


def test_a_consumer_that_goes_away_is_a_leaver(pipeline: FakePipeline, loop: StepLoop) -> None:
    """`leave` (a stop string was met) ends the work for it."""
    turn = loop.submit(request(1, 2, 3, 4), never)
    pipeline.permits.release()
    turn.next()
    turn.leave()
    pipeline.permits.release()
    assert rest(turn)[1] == "cancelled"


def test_one_bad_request_leaves_the_batch_alone(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request that is refused, or finds no room later, fails with its reason; its neighbour does not notice."""
    neighbour = loop.submit(request(1, 2), never)
    refused, homeless = loop.submit(request(666), never), loop.submit(request(5, -1), never)
    pipeline.permits.release(10)
    with pytest.raises(RequestFailed, match="refused"):
        rest(refused)
    with pytest.raises(RequestFailed, match="no room"):
        rest(homeless)
    assert rest(neighbour) == ([1, 2], "stop")
    assert loop.failure is None


def test_a_failing_step_fails_everyone_with_the_reason(pipeline: FakePipeline, loop: StepLoop) -> None:
    """Nobody waits for ever: those in the batch and those who come later get the reason, and the loop tells it."""
    inside = [loop.submit(request(1, 2), never) for _ in range(2)]
    pipeline.fault = RuntimeError("out of pages")
    pipeline.permits.release()
    for turn in inside:
        with pytest.raises(EngineError, match="RuntimeError: out of pages"):
            rest(turn)
    assert loop.failure is not None
    with pytest.raises(EngineError, match="out of pages"):
        loop.submit(request(1), never)


def test_an_empty_batch_sleeps(pipeline: FakePipeline, loop: StepLoop) -> None:
    """With nothing to do no step is made, and the loop wakes for the next request."""
    pipeline.permits.release(100)
    assert rest(loop.submit(request(1, 2), never)) == ([1, 2], "stop")
    assert pipeline.steps == 2
    assert rest(loop.submit(request(3), never)) == ([3], "stop")
    assert pipeline.steps == 3


def test_closing_ends_what_runs(pipeline: FakePipeline) -> None:
    """Requests in the batch end as cancelled, and the thread is gone."""
    loop = StepLoop(pipeline)
    turn = loop.submit(request(1, 2, 3), never)
    assert pipeline.joined.acquire(timeout=10)
    closing = threading.Thread(target=loop.close)
    closing.start()
    pipeline.permits.release(10)
    closing.join(10)
    assert rest(turn)[1] in ("cancelled", "stop")
    with pytest.raises(EngineError, match="closed"):
        loop.submit(request(1), never)
