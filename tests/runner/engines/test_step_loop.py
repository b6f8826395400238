"""The step loop with a pipeline that makes scripted tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runner.engine import EncodedRequest, EngineError, Piece, Sampling
from runner.engines.step_loop import RequestFailed, StepLoop, Tokens
from runner.engines.token_text import TokenText
from runner.tokenizer.detokenizer import ByteDetokenizer

# Token n is the n-th letter.
LETTERS = [bytes([ord("a") + token]) for token in range(26)]
WAIT_S = 20


class FakeSequence:
    """Repeats its prompt's tokens, one in each step."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.left = list(tokens)
        self.new_tokens: list[int] = []
        self.cancelled = False

    def take(self) -> Tokens | None:
        if self.left and self.left[0] < 0:
            raise RequestFailed("no room for this one")
        if not self.new_tokens:
            return None
        tokens, self.new_tokens = self.new_tokens, []
        return Tokens(tokens, None if self.left else "stop")

    def cancel(self) -> None:
        self.cancelled = True


class FakePipeline:
    """Makes a step for each permit, and counts the steps."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.sequences: list[FakeSequence] = []
        self.joins = threading.Semaphore(0)
        self.steps = 0
        self.fault: Exception | None = None
        self.widths: list[int] = []

    def add(self, request: EncodedRequest) -> FakeSequence:
        if 666 in request.prompt_tokens:
            raise RequestFailed("refused")
        sequence = FakeSequence(request.prompt_tokens)
        self.sequences.append(sequence)
        self.joins.release()
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
                sequence.new_tokens.append(sequence.left.pop(0))


class FakeReceiver:
    """Records its pieces; a test can make it leave or fail."""

    def __init__(self) -> None:
        self.text = ""
        self.pieces: list[Piece] = []
        self.error: EngineError | None = None
        self.threads: set[str] = set()
        self.arrivals = threading.Semaphore(0)
        self.end_seen = threading.Event()
        self.start_seen = threading.Event()
        self.leave_request = threading.Event()
        self.fails_at: str | None = None

    def begin(self) -> None:
        self.start_seen.set()

    def put(self, piece: Piece) -> None:
        assert not self.end_seen.is_set(), "nothing comes after the end"
        if self.fails_at is not None and self.fails_at in piece.text:
            raise ValueError("a reader that fails")
        self.threads.add(threading.current_thread().name)
        self.pieces.append(piece)
        self.text += piece.text
        self.arrivals.release()
        if piece.finish_reason is not None:
            self.end_seen.set()

    def fail(self, error: EngineError) -> None:
        assert not self.end_seen.is_set(), "nothing comes after the end"
        self.error = error
        self.end_seen.set()

    def is_cancelled(self) -> bool:
        return self.leave_request.is_set()

    def end(self) -> tuple[str, str | None]:
        """Return all the text and how it ended; raise the error if it failed."""
        assert self.end_seen.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return self.text, self.pieces[-1].finish_reason


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def loop(pipeline: FakePipeline) -> Iterator[StepLoop]:
    loop = StepLoop(pipeline, text_of)
    yield loop
    pipeline.permits.release(1000)
    loop.close()


def text_of(request: EncodedRequest) -> TokenText:
    return TokenText(ByteDetokenizer(LETTERS), stop=request.sampling.stop, eos=())


def submit(loop: StepLoop, *tokens: int, stop: tuple[str, ...] = ()) -> FakeReceiver:
    receiver = FakeReceiver()
    sampling = Sampling(max_tokens=9, temperature=0, top_p=1, top_k=0, stop=stop)
    loop.submit(EncodedRequest(prompt_tokens=tokens, sampling=sampling), receiver)
    return receiver


def submit_together(loop: StepLoop, *requests: tuple[int, ...]) -> list[FakeReceiver]:
    """Submit all requests so that they join before the same step."""
    with loop._condition:
        return [submit(loop, *tokens) for tokens in requests]


def test_requests_join_while_others_run(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request that comes while another generates is in the next step, and each gets its own text."""
    first = submit(loop, 1, 2, 3)
    pipeline.permits.release()
    assert first.arrivals.acquire(timeout=WAIT_S)
    assert "b" == first.text
    second = submit(loop, 7, 8)
    pipeline.permits.release(10)
    assert ("bcd", "stop") == first.end()
    assert ("hi", "stop") == second.end()
    assert 2 == max(pipeline.widths)
    assert first.start_seen.is_set()


def test_the_stepping_thread_does_everything(pipeline: FakePipeline, loop: StepLoop) -> None:
    """No other thread wakes for a token: its receiver has the text before the next step starts."""
    receivers = submit_together(loop, (1, 2, 3), (4, 5, 6))
    pipeline.permits.release(3)
    for receiver in receivers:
        receiver.end()
        assert {"step"} == receiver.threads
        assert [1, 2, 3] == [piece.completion_tokens for piece in receiver.pieces]


def test_a_cancelled_request_leaves_before_the_next_step(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A cancelled request is in no further step; the others continue."""
    leaver, stayer = submit(loop, 1, 2, 3, 4), submit(loop, 5, 6)
    pipeline.permits.release()
    assert leaver.arrivals.acquire(timeout=WAIT_S)
    leaver.leave_request.set()
    pipeline.permits.release(10)
    assert "cancelled" == leaver.end()[1]
    assert ("fg", "stop") == stayer.end()
    assert pipeline.sequences[0].cancelled
    assert len(pipeline.sequences[0].left) >= 2


def test_a_request_cancelled_before_joining_never_joins(pipeline: FakePipeline, loop: StepLoop) -> None:
    """The pipeline computes no prompt for a client that has left."""
    running = submit(loop, 1, 2)
    assert pipeline.joins.acquire(timeout=WAIT_S)
    early = submit(loop, 3)
    early.leave_request.set()
    pipeline.permits.release(10)
    assert ("", "cancelled") == early.end()
    assert ("bc", "stop") == running.end()
    assert 1 == len(pipeline.sequences)


def test_a_stop_string_ends_the_work(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request whose text is complete leaves the batch before the next step, without any part of the stop string."""
    short, neighbour = submit(loop, 1, 2, 3, 4, 5, stop=("cd",)), submit(loop, 1, 2, 3, 4, 5)
    pipeline.permits.release(10)
    assert ("b", "stop") == short.end()
    assert ("bcdef", "stop") == neighbour.end()
    assert pipeline.sequences[0].cancelled
    assert [4, 5] == pipeline.sequences[0].left


def test_a_bad_request_does_not_affect_the_batch(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request that is refused, or has no room later, fails with its reason; others are not affected."""
    neighbour = submit(loop, 1, 2)
    bad, homeless = submit(loop, 666), submit(loop, 5, -1)
    pipeline.permits.release(10)
    with pytest.raises(RequestFailed, match="refused"):
        bad.end()
    with pytest.raises(RequestFailed, match="no room"):
        homeless.end()
    assert ("bc", "stop") == neighbour.end()
    assert loop.failure is None


@pytest.mark.parametrize("bad_tokens", [(1, 2, 3), (1, 99, 3)])
def test_a_bad_receiver_does_not_affect_the_batch(
    pipeline: FakePipeline, loop: StepLoop, bad_tokens: tuple[int, ...]
) -> None:
    """An exception while one request's tokens become its answer ends only that request and its work."""
    receiver, neighbour = FakeReceiver(), submit(loop, 4, 5, 6)
    receiver.fails_at = "c"
    sampling = Sampling(max_tokens=9, temperature=0, top_p=1, top_k=0)
    loop.submit(EncodedRequest(prompt_tokens=bad_tokens, sampling=sampling), receiver)
    pipeline.permits.release(10)
    with pytest.raises(EngineError, match=r"the answer could not be written: (ValueError|IndexError)"):
        receiver.end()
    assert ("efg", "stop") == neighbour.end()
    assert "b" == receiver.text
    assert any(sequence.cancelled for sequence in pipeline.sequences)
    assert loop.failure is None


def test_a_failing_step_fails_all_requests_with_the_reason(pipeline: FakePipeline, loop: StepLoop) -> None:
    """No request waits forever: those in the batch and later ones get the reason, and the loop reports it."""
    inside = [submit(loop, 1, 2) for _ in range(2)]
    pipeline.fault = RuntimeError("out of pages")
    pipeline.permits.release()
    for receiver in inside:
        with pytest.raises(EngineError, match="RuntimeError: out of pages"):
            receiver.end()
    assert loop.failure is not None
    with pytest.raises(EngineError, match="out of pages"):
        submit(loop, 1)


def test_an_empty_batch_sleeps(pipeline: FakePipeline, loop: StepLoop) -> None:
    """Without work there is no step, and the loop wakes for the next request."""
    pipeline.permits.release(100)
    assert ("bc", "stop") == submit(loop, 1, 2).end()
    assert 2 == pipeline.steps
    assert ("d", "stop") == submit(loop, 3).end()
    assert 3 == pipeline.steps


def test_idle_time_counts_from_the_last_end(pipeline: FakePipeline) -> None:
    """With a request in the batch, however slow, the loop is not idle; afterwards the clock runs."""
    now_s = 100.0
    loop = StepLoop(pipeline, text_of, clock=lambda: now_s)
    now_s = 103.0
    assert 3.0 == loop.idle_s()
    receiver = submit(loop, 1, 2)
    assert loop.idle_s() is None
    assert pipeline.joins.acquire(timeout=WAIT_S)
    now_s = 200.0
    assert loop.idle_s() is None
    pipeline.permits.release(10)
    assert ("bc", "stop") == receiver.end()
    loop.drain()
    now_s = 207.0
    assert 7.0 == loop.idle_s()
    loop.close()


def test_closing_ends_running_requests(pipeline: FakePipeline) -> None:
    """Requests in the batch end as cancelled, and the thread ends."""
    loop = StepLoop(pipeline, text_of)
    receiver = submit(loop, 1, 2, 3)
    assert pipeline.joins.acquire(timeout=WAIT_S)
    closing = threading.Thread(target=loop.close)
    closing.start()
    pipeline.permits.release(10)
    closing.join(WAIT_S)
    assert receiver.end()[1] in ("cancelled", "stop")
    with pytest.raises(EngineError, match="closed"):
        submit(loop, 1)


def test_drain_waits_for_all_requests(pipeline: FakePipeline, loop: StepLoop) -> None:
    """It returns once the batch is empty, at once if it already is, and also if a step has failed all requests."""
    loop.drain()
    receivers = submit_together(loop, (1, 2), (3,))
    drain_end = threading.Event()

    def drain() -> None:
        loop.drain()
        drain_end.set()

    threading.Thread(target=drain, daemon=True).start()
    pipeline.permits.release()
    assert ("d", "stop") == receivers[1].end()
    assert not drain_end.wait(0.05)
    pipeline.permits.release()
    assert ("bc", "stop") == receivers[0].end()
    assert drain_end.wait(WAIT_S)
    pipeline.fault = RuntimeError("out of pages")
    last = submit(loop, 1, 2)
    pipeline.permits.release()
    assert last.end_seen.wait(WAIT_S)
    loop.drain()
