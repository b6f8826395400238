"""What passes between the thread that makes a generation and the one that answers with it."""

from __future__ import annotations

import threading

import pytest

from runner.engine import EngineError, FinishReason, Piece
from runner.engines.job import GenerationFailed
from tests.runner.engines.watched_job import WatchedJob


def piece(text: str, count: int, reason: FinishReason | None = None) -> Piece:
    return Piece(text=text, completion_tokens=count, finish_reason=reason)


class Outlet:
    """Takes texts, and says whether they went out."""

    def __init__(self, *answers: bool) -> None:
        self.texts: list[str] = []
        self._answers = list(answers)

    def __call__(self, text: str) -> bool:
        self.texts.append(text)
        return self._answers.pop(0)


def put_once_asleep(job: WatchedJob, *pieces: Piece) -> threading.Thread:
    """Puts the pieces from another thread, the first of them when somebody waits for it."""

    def run() -> None:
        assert job.asleep.acquire(timeout=20)
        for one in pieces:
            job.put(one)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_what_piled_up_comes_as_one_piece() -> None:
    """A slow reader gets fewer, longer pieces, with the last one's count and reason."""
    job = WatchedJob()
    for one in (piece("one ", 1), piece("two ", 2), piece("three", 3, "stop")):
        job.put(one)
    assert piece("one two three", 3, "stop") == job.next_piece(0)


def test_nothing_in_time_is_none() -> None:
    """Who waits is back in time to show that the connection lives."""
    assert WatchedJob().next_piece(0) is None


def test_an_outlet_gets_each_text_and_the_sleeper_only_the_end() -> None:
    """Between two tokens nobody is woken; the last piece is for the one that waited."""
    job, outlet = WatchedJob(), Outlet(True, True)
    thread = put_once_asleep(job, piece("one ", 1), piece("two ", 2), piece("three", 3, "stop"))
    assert piece("three", 3, "stop") == job.next_piece(20, outlet)
    thread.join()
    assert ["one ", "two "] == outlet.texts


def test_an_outlet_that_needs_help_wakes_the_sleeper_and_gets_no_more() -> None:
    """What comes after a refusal is kept, in order, until somebody waits again."""
    job, outlet = WatchedJob(), Outlet(False)
    thread = put_once_asleep(job, piece("one ", 1))
    assert piece("", 1) == job.next_piece(20, outlet)
    thread.join()
    job.put(piece("two ", 2))
    job.put(piece("three ", 3))
    assert ["one "] == outlet.texts
    assert piece("two three ", 3) == job.next_piece(20, outlet)


def test_what_comes_while_the_sleeper_wakes_is_kept() -> None:
    """Between the refusal and the sleeper's turn the engine may be quicker: the outlet still has a rest to send."""
    job, outlet = WatchedJob(), Outlet(False)

    def put_all() -> None:
        assert job.asleep.acquire(timeout=20)
        with job.holding():
            for count, text in enumerate(("one ", "two ", "three "), start=1):
                job.put(piece(text, count))

    thread = threading.Thread(target=put_all)
    thread.start()
    assert piece("two three ", 3) == job.next_piece(20, outlet)
    thread.join()
    assert ["one "] == outlet.texts


def test_a_failure_comes_after_the_text_before_it() -> None:
    """What was made is not lost, and the reason follows."""
    job = WatchedJob()
    job.put(piece("one ", 1))
    job.fail(EngineError("out of pages"))
    assert piece("one ", 1) == job.next_piece(0)
    with pytest.raises(GenerationFailed, match="out of pages"):
        job.next_piece(0)
    assert "failed" == job.outcome()


def test_there_is_one_end() -> None:
    """A piece, a failure or a cancellation after the end changes nothing."""
    job = WatchedJob()
    job.put(piece("one", 1, "length"))
    job.cancel()
    job.put(piece("two", 2, "stop"))
    job.fail(EngineError("late"))
    assert ("one", "length", 1) == (job.whole_text(), job.outcome(), job.completion_tokens)
    assert not job.is_cancelled()


def test_a_cancelled_job_wakes_whoever_waits() -> None:
    """The end of a client's stay is the end of the wait, whatever the engine does meanwhile."""
    job = WatchedJob()

    def cancel() -> None:
        assert job.asleep.acquire(timeout=20)
        job.cancel()

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    assert piece("", 0, "cancelled") == job.next_piece(20)
    cancelling.join()
    assert job.is_cancelled()
