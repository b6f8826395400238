"""The stepping loop behind a pipeline that makes scripted tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runner.engine import EncodedRequest, EngineError, Piece, Sampling
from runner.engines.detokenizer import ByteDetokenizer
from runner.engines.step_loop import RequestFailed, StepLoop, Tokens
from runner.engines.token_text import TokenText

# Token n is the letter that stands n-th.
LETTERS = [bytes([ord("a") + token]) for token in range(26)]
WAIT_S = 20


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


class FakeReceiver:
    """Remembers what it was given, and can be told to leave or to break."""

    def __init__(self) -> None:
        self.text = ""
        self.pieces: list[Piece] = []
        self.error: EngineError | None = None
        self.threads: set[str] = set()
        self.came = threading.Semaphore(0)
        self.over = threading.Event()
        self.begun = threading.Event()
        self.gone = threading.Event()
        self.breaks_at: str | None = None

    def begin(self) -> None:
        self.begun.set()

    def put(self, piece: Piece) -> None:
        assert not self.over.is_set(), "nothing comes after the end"
        if self.breaks_at is not None and self.breaks_at in piece.text:
            raise ValueError("a broken reader")
        self.threads.add(threading.current_thread().name)
        self.pieces.append(piece)
        self.text += piece.text
        self.came.release()
        if piece.finish_reason is not None:
            self.over.set()

    def fail(self, error: EngineError) -> None:
        assert not self.over.is_set(), "nothing comes after the end"
        self.error = error
        self.over.set()

    def is_cancelled(self) -> bool:
        return self.gone.is_set()

    def end(self) -> tuple[str, str | None]:
        """All the text, and how it ended; raises what it was failed with."""
        assert self.over.wait(WAIT_S)
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
    """All of them join before one step."""
    with loop._condition:
        return [submit(loop, *tokens) for tokens in requests]


def test_requests_join_while_others_run(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request that comes while another generates is in the very next step, and each gets its own text."""
    first = submit(loop, 1, 2, 3)
    pipeline.permits.release()
    assert first.came.acquire(timeout=WAIT_S)
    assert "b" == first.text
    second = submit(loop, 7, 8)
    pipeline.permits.release(10)
    assert ("bcd", "stop") == first.end()
    assert ("hi", "stop") == second.end()
    assert 2 == max(pipeline.widths)
    assert first.begun.is_set()


def test_all_is_done_on_the_one_thread_that_steps(pipeline: FakePipeline, loop: StepLoop) -> None:
    """Nobody else is woken for a token: each is text in its reader's hands before the next step begins."""
    receivers = submit_together(loop, (1, 2, 3), (4, 5, 6))
    pipeline.permits.release(3)
    for receiver in receivers:
        receiver.end()
        assert {"step"} == receiver.threads
        assert [1, 2, 3] == [piece.completion_tokens for piece in receiver.pieces]


def test_a_leaver_is_dropped_before_the_next_step(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A cancelled request takes part in no further step; the others go on."""
    leaver, stayer = submit(loop, 1, 2, 3, 4), submit(loop, 5, 6)
    pipeline.permits.release()
    assert leaver.came.acquire(timeout=WAIT_S)
    leaver.gone.set()
    pipeline.permits.release(10)
    assert "cancelled" == leaver.end()[1]
    assert ("fg", "stop") == stayer.end()
    assert pipeline.sequences[0].cancelled
    assert len(pipeline.sequences[0].left) >= 2


def test_who_left_before_joining_never_joins(pipeline: FakePipeline, loop: StepLoop) -> None:
    """The pipeline computes no prompt for a client that is gone."""
    running = submit(loop, 1, 2)
    assert pipeline.joined.acquire(timeout=WAIT_S)
    early = submit(loop, 3)
    early.gone.set()
    pipeline.permits.release(10)
    assert ("", "cancelled") == early.end()
    assert ("bc", "stop") == running.end()
    assert 1 == len(pipeline.sequences)


def test_a_stop_string_ends_the_work(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request whose text is whole is out of the batch before the next step, with nothing of the stop string."""
    stopped, neighbour = submit(loop, 1, 2, 3, 4, 5, stop=("cd",)), submit(loop, 1, 2, 3, 4, 5)
    pipeline.permits.release(10)
    assert ("b", "stop") == stopped.end()
    assert ("bcdef", "stop") == neighbour.end()
    assert pipeline.sequences[0].cancelled
    assert [4, 5] == pipeline.sequences[0].left


def test_one_bad_request_leaves_the_batch_alone(pipeline: FakePipeline, loop: StepLoop) -> None:
    """A request that is refused, or finds no room later, fails with its reason; its neighbour does not notice."""
    neighbour = submit(loop, 1, 2)
    refused, homeless = submit(loop, 666), submit(loop, 5, -1)
    pipeline.permits.release(10)
    with pytest.raises(RequestFailed, match="refused"):
        refused.end()
    with pytest.raises(RequestFailed, match="no room"):
        homeless.end()
    assert ("bc", "stop") == neighbour.end()
    assert loop.failure is None


@pytest.mark.parametrize("broken_tokens", [(1, 2, 3), (1, 99, 3)])
def test_one_bad_reader_leaves_the_batch_alone(
    pipeline: FakePipeline, loop: StepLoop, broken_tokens: tuple[int, ...]
) -> None:
    """Whatever is thrown while one request's tokens become its answer ends that request, and its work, alone."""
    receiver, neighbour = FakeReceiver(), submit(loop, 4, 5, 6)
    receiver.breaks_at = "c"
    sampling = Sampling(max_tokens=9, temperature=0, top_p=1, top_k=0)
    loop.submit(EncodedRequest(prompt_tokens=broken_tokens, sampling=sampling), receiver)
    pipeline.permits.release(10)
    with pytest.raises(EngineError, match=r"the answer could not be written: (ValueError|IndexError)"):
        receiver.end()
    assert ("efg", "stop") == neighbour.end()
    assert "b" == receiver.text
    assert any(sequence.cancelled for sequence in pipeline.sequences)
    assert loop.failure is None


def test_a_failing_step_fails_everyone_with_the_reason(pipeline: FakePipeline, loop: StepLoop) -> None:
    """Nobody waits for ever: those in the batch and those who come later get the reason, and the loop tells it."""
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
    """With nothing to do no step is made, and the loop wakes for the next request."""
    pipeline.permits.release(100)
    assert ("bc", "stop") == submit(loop, 1, 2).end()
    assert 2 == pipeline.steps
    assert ("d", "stop") == submit(loop, 3).end()
    assert 3 == pipeline.steps


def test_idle_time_counts_from_the_last_end(pipeline: FakePipeline) -> None:
    """Nobody is idle who has a request in the batch, however slow; afterwards the clock runs."""
    now_s = 100.0
    loop = StepLoop(pipeline, text_of, clock=lambda: now_s)
    now_s = 103.0
    assert 3.0 == loop.idle_s()
    receiver = submit(loop, 1, 2)
    assert loop.idle_s() is None
    assert pipeline.joined.acquire(timeout=WAIT_S)
    now_s = 200.0
    assert loop.idle_s() is None
    pipeline.permits.release(10)
    assert ("bc", "stop") == receiver.end()
    loop.drain()
    now_s = 207.0
    assert 7.0 == loop.idle_s()
    loop.close()


def test_closing_ends_what_runs(pipeline: FakePipeline) -> None:
    """Requests in the batch end as cancelled, and the thread is gone."""
    loop = StepLoop(pipeline, text_of)
    receiver = submit(loop, 1, 2, 3)
    assert pipeline.joined.acquire(timeout=WAIT_S)
    closing = threading.Thread(target=loop.close)
    closing.start()
    pipeline.permits.release(10)
    closing.join(WAIT_S)
    assert receiver.end()[1] in ("cancelled", "stop")
    with pytest.raises(EngineError, match="closed"):
        submit(loop, 1)


def test_draining_waits_for_everyone(pipeline: FakePipeline, loop: StepLoop) -> None:
    """It returns once the batch is empty, at once where it is, and also when a step has failed everyone."""
    loop.drain()
    receivers = submit_together(loop, (1, 2), (3,))
    drained = threading.Event()

    def drain() -> None:
        loop.drain()
        drained.set()

    threading.Thread(target=drain, daemon=True).start()
    pipeline.permits.release()
    assert ("d", "stop") == receivers[1].end()
    assert not drained.wait(0.05)
    pipeline.permits.release()
    assert ("bc", "stop") == receivers[0].end()
    assert drained.wait(WAIT_S)
    pipeline.fault = RuntimeError("out of pages")
    broken = submit(loop, 1, 2)
    pipeline.permits.release()
    assert broken.over.wait(WAIT_S)
    loop.drain()
