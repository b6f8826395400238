from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runner.engine import EncodedRequest, Sampling
from runner.jobs import GenerationFailed, Job, JobQueue
from tests.runner.fake_engine import FakeEngine


def job_for(text: str) -> Job:
    sampling = Sampling(max_tokens=100, temperature=0, top_p=1, top_k=0)
    return Job(EncodedRequest(prompt_tokens=tuple(text.encode()), sampling=sampling))


def text_of(job: Job) -> str:
    texts = []
    while job.finish_reason is None:
        piece = job.next_piece(20)
        assert piece is not None, "no piece came in time"
        texts.append(piece.text)
    return "".join(texts)


@pytest.fixture
def gate() -> threading.Semaphore:
    return threading.Semaphore(0)


@pytest.fixture
def engine(gate: threading.Semaphore) -> FakeEngine:
    return FakeEngine(gate=gate)


@pytest.fixture
def jobs(engine: FakeEngine, gate: threading.Semaphore) -> Iterator[JobQueue]:
    jobs = JobQueue(engine)
    yield jobs
    gate.release(1000)
    jobs.close()


def test_jobs_run_one_at_a_time_in_the_order_they_came(
    jobs: JobQueue, engine: FakeEngine, gate: threading.Semaphore
) -> None:
    """First come, first served; a job begins when the one before it has ended."""
    made = [job_for(name) for name in ("a", "b", "c")]
    for job in made:
        jobs.submit(job)
    engine.begun.acquire(timeout=20)
    assert ["a"] == engine.started
    gate.release(3)
    assert ["a ", "b ", "c "] == [text_of(job) for job in made]
    assert ["a", "b", "c"] == engine.started


def test_a_job_cancelled_while_waiting_ends_at_once_and_never_runs(
    jobs: JobQueue, engine: FakeEngine, gate: threading.Semaphore
) -> None:
    """Leaving the queue needs no turn of one's own, and the next in line takes it."""
    first, left, last = job_for("first"), job_for("left"), job_for("last")
    for job in (first, left, last):
        jobs.submit(job)
    left.cancel()
    assert "" == text_of(left)
    assert "cancelled" == left.finish_reason
    gate.release(2)
    assert "last " == text_of(last)
    assert ["first", "last"] == engine.started


def test_a_running_job_that_is_cancelled_stops_generating(
    jobs: JobQueue, engine: FakeEngine, gate: threading.Semaphore
) -> None:
    """The engine is told before its next token, and its consumer need not wait for that."""
    job = job_for("one two three")
    jobs.submit(job)
    gate.release()
    piece = job.next_piece(20)
    assert piece is not None
    assert "one " == piece.text
    job.cancel()
    assert engine.ended.acquire(timeout=20)
    assert "" == text_of(job)
    assert 1 == job.completion_tokens


def test_what_piled_up_comes_as_one_piece(engine: FakeEngine) -> None:
    """A slow reader gets fewer, longer pieces, with the last one's count and reason."""
    engine.gate = None
    job = job_for("one two three")
    job.run(engine)
    piece = job.next_piece(0)
    assert piece is not None
    assert ("one two three ", 3, "stop") == (piece.text, piece.completion_tokens, piece.finish_reason)


@pytest.mark.filterwarnings("ignore")
def test_a_broken_generation_is_told_and_does_not_end_the_queue(engine: FakeEngine) -> None:
    """One engine failure costs one job."""
    engine.gate = None
    engine.break_after = 1
    jobs = JobQueue(engine)
    broken = job_for("one two")
    jobs.submit(broken)
    with pytest.raises(GenerationFailed, match="the fake broke"):
        text_of(broken)
    engine.break_after = None
    whole = job_for("three four")
    jobs.submit(whole)
    assert "three four " == text_of(whole)
    jobs.close()
