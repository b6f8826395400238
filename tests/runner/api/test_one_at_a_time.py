"""Generations of an engine that iterates, on the one thread that runs them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runner.engine import EncodedRequest, EngineError, Sampling
from runner.engines.job import GenerationFailed, Job
from tests.runner.fake_engine import FakeEngine


def submitted(engine: FakeEngine, text: str) -> Job:
    sampling = Sampling(max_tokens=100, temperature=0, top_p=1, top_k=0)
    job = Job(EncodedRequest(prompt_tokens=tuple(text.encode()), sampling=sampling))
    engine.submit(job.request, job)
    return job


@pytest.fixture
def gate() -> threading.Semaphore:
    return threading.Semaphore(0)


@pytest.fixture
def engine(gate: threading.Semaphore) -> Iterator[FakeEngine]:
    engine = FakeEngine(gate=gate)
    yield engine
    gate.release(1000)
    engine.queue.close()


def test_requests_run_one_at_a_time_in_the_order_they_came(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """First come, first served; one begins when the one before it has ended."""
    jobs = [submitted(engine, name) for name in ("a", "b", "c")]
    engine.begun.acquire(timeout=20)
    assert ["a"] == engine.started
    assert jobs[1].queue_s is None
    gate.release(3)
    assert ["a ", "b ", "c "] == [job.whole_text() for job in jobs]
    assert ["a", "b", "c"] == engine.started
    assert all(job.queue_s is not None for job in jobs)


def test_one_cancelled_while_waiting_ends_at_once_and_never_runs(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """Leaving the queue needs no turn of one's own, and the next in line takes it."""
    first, left, last = (submitted(engine, name) for name in ("first", "left", "last"))
    left.cancel()
    assert ("", "cancelled") == (left.whole_text(), left.finish_reason)
    gate.release(2)
    assert "last " == last.whole_text()
    assert "first " == first.whole_text()
    assert ["first", "last"] == engine.started


def test_a_running_one_that_is_cancelled_stops_generating(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """The engine is told before its next token, and its consumer need not wait for that."""
    job = submitted(engine, "one two three")
    gate.release()
    piece = job.next_piece(20)
    assert piece is not None
    assert "one " == piece.text
    job.cancel()
    assert engine.ended.acquire(timeout=20)
    assert "" == job.whole_text()
    assert 1 == job.completion_tokens


@pytest.mark.filterwarnings("ignore")
def test_a_broken_generation_is_told_and_does_not_end_the_queue(engine: FakeEngine) -> None:
    """One engine failure costs one request."""
    engine.gate = None
    engine.break_after = 1
    broken = submitted(engine, "one two")
    with pytest.raises(GenerationFailed, match="the fake broke"):
        broken.whole_text()
    assert "failed" == broken.outcome()
    engine.break_after = None
    assert "three four " == submitted(engine, "three four").whole_text()


def test_closing_cancels_what_waits(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """What runs comes to its end, what waits is told, and nothing new is taken."""
    running, waiting = submitted(engine, "one"), submitted(engine, "two")
    assert engine.begun.acquire(timeout=20)
    closing = threading.Thread(target=engine.queue.close)
    closing.start()
    assert ("", "cancelled") == (waiting.whole_text(), waiting.finish_reason)
    gate.release()
    assert ("one ", "stop") == (running.whole_text(), running.finish_reason)
    closing.join(20)
    with pytest.raises(EngineError, match="closed"):
        submitted(engine, "three")
