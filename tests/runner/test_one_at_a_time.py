"""The queue of the fake engine, whose one thread runs all generations."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runner.engine import EncodedRequest, EngineError, Sampling
from runner.engines.job import GenerationFailed, Job
from tests.runner.fake_engine import FakeEngine


def submit(engine: FakeEngine, text: str) -> Job:
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


def test_requests_run_one_at_a_time_in_order_of_arrival(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """Each starts when the one before it has ended."""
    jobs = [submit(engine, name) for name in ("a", "b", "c")]
    engine.starts.acquire(timeout=20)
    assert ["a"] == engine.prompts
    assert jobs[1].queue_s is None
    gate.release(3)
    assert ["a ", "b ", "c "] == [job.whole_text() for job in jobs]
    assert ["a", "b", "c"] == engine.prompts
    assert all(job.queue_s is not None for job in jobs)


def test_a_waiting_request_that_is_cancelled_ends_at_once(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """It never runs, and the next one in the queue does."""
    first, left, last = (submit(engine, name) for name in ("first", "left", "last"))
    left.cancel()
    assert ("", "cancelled") == (left.whole_text(), left.finish_reason)
    gate.release(2)
    assert "last " == last.whole_text()
    assert "first " == first.whole_text()
    assert ["first", "last"] == engine.prompts


def test_a_running_request_that_is_cancelled_stops_generating(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """The engine learns of it before its next token, and the consumer does not wait for that."""
    job = submit(engine, "one two three")
    gate.release()
    piece = job.next_piece(20)
    assert piece is not None
    assert "one " == piece.text
    job.cancel()
    assert engine.ends.acquire(timeout=20)
    assert "" == job.whole_text()
    assert 1 == job.completion_tokens


@pytest.mark.filterwarnings("ignore")
def test_a_failed_generation_does_not_end_the_queue(engine: FakeEngine) -> None:
    """One failure of the engine fails only one request."""
    engine.gate = None
    engine.fail_after = 1
    job = submit(engine, "one two")
    with pytest.raises(GenerationFailed, match="the fake failed"):
        job.whole_text()
    assert "failed" == job.outcome()
    engine.fail_after = None
    assert "three four " == submit(engine, "three four").whole_text()


def test_closing_cancels_waiting_requests(engine: FakeEngine, gate: threading.Semaphore) -> None:
    """The running request finishes, waiting ones are cancelled, and new ones are refused."""
    running, waiting = submit(engine, "one"), submit(engine, "two")
    assert engine.starts.acquire(timeout=20)
    closing = threading.Thread(target=engine.queue.close)
    closing.start()
    assert ("", "cancelled") == (waiting.whole_text(), waiting.finish_reason)
    gate.release()
    assert ("one ", "stop") == (running.whole_text(), running.finish_reason)
    closing.join(20)
    with pytest.raises(EngineError, match="closed"):
        submit(engine, "three")
