"""A generation between the thread that makes it and the thread that sends the answer."""

from __future__ import annotations

import threading

import pytest

from runner.engine import EngineError, FinishReason, Piece
from runner.engines.job import GenerationFailed
from tests.runner.engines.watched_job import WatchedJob


def piece(text: str, count: int, reason: FinishReason | None = None) -> Piece:
    return Piece(text=text, completion_tokens=count, finish_reason=reason)


class TextCallback:
    """Records texts, and returns whether they were sent."""

    def __init__(self, *answers: bool) -> None:
        self.texts: list[str] = []
        self._answers = list(answers)

    def __call__(self, text: str) -> bool:
        self.texts.append(text)
        return self._answers.pop(0)


def put_once_asleep(job: WatchedJob, *pieces: Piece) -> threading.Thread:
    """Put the pieces from another thread, the first of them once a consumer waits for it."""

    def run() -> None:
        assert job.asleep.acquire(timeout=20)
        for one in pieces:
            job.put(one)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_waiting_texts_come_as_one_piece() -> None:
    """A slow reader gets fewer, longer pieces, with the last one's count and reason."""
    job = WatchedJob()
    for one in (piece("one ", 1), piece("two ", 2), piece("three", 3, "stop")):
        job.put(one)
    assert piece("one two three", 3, "stop") == job.next_piece(0)


def test_a_timeout_returns_none() -> None:
    """The waiting thread returns in time to show that the connection is alive."""
    assert WatchedJob().next_piece(0) is None


def test_the_callback_gets_each_text_and_the_waiting_thread_only_the_end() -> None:
    """No thread wakes between two tokens; the last piece goes to the waiting thread."""
    job, on_text = WatchedJob(), TextCallback(True, True)
    thread = put_once_asleep(job, piece("one ", 1), piece("two ", 2), piece("three", 3, "stop"))
    assert piece("three", 3, "stop") == job.next_piece(20, on_text)
    thread.join()
    assert ["one ", "two "] == on_text.texts


def test_a_callback_that_returns_false_wakes_the_waiting_thread_and_gets_no_more() -> None:
    """Later texts are kept, in order, until a thread waits again."""
    job, on_text = WatchedJob(), TextCallback(False)
    thread = put_once_asleep(job, piece("one ", 1))
    assert piece("", 1) == job.next_piece(20, on_text)
    thread.join()
    job.put(piece("two ", 2))
    job.put(piece("three ", 3))
    assert ["one "] == on_text.texts
    assert piece("two three ", 3) == job.next_piece(20, on_text)


def test_texts_are_kept_while_the_waiting_thread_wakes() -> None:
    """The engine may be quicker than the woken thread, which still has the rest of a text to send."""
    job, on_text = WatchedJob(), TextCallback(False)

    def put_all() -> None:
        assert job.asleep.acquire(timeout=20)
        with job.holding():
            for count, text in enumerate(("one ", "two ", "three "), start=1):
                job.put(piece(text, count))

    thread = threading.Thread(target=put_all)
    thread.start()
    assert piece("two three ", 3) == job.next_piece(20, on_text)
    thread.join()
    assert ["one "] == on_text.texts


def test_a_failure_comes_after_the_text_before_it() -> None:
    """Earlier text is not lost, and the reason follows."""
    job = WatchedJob()
    job.put(piece("one ", 1))
    job.fail(EngineError("out of pages"))
    assert piece("one ", 1) == job.next_piece(0)
    with pytest.raises(GenerationFailed, match="out of pages"):
        job.next_piece(0)
    assert "failed" == job.outcome()


def test_there_is_only_one_end() -> None:
    """A piece, a failure or a cancellation after the end changes nothing."""
    job = WatchedJob()
    job.put(piece("one", 1, "length"))
    job.cancel()
    job.put(piece("two", 2, "stop"))
    job.fail(EngineError("late"))
    assert ("one", "length", 1) == (job.whole_text(), job.outcome(), job.completion_tokens)
    assert not job.is_cancelled()


def test_a_cancelled_job_wakes_the_waiting_thread() -> None:
    """The wait ends when the client leaves, whatever the engine does meanwhile."""
    job = WatchedJob()

    def cancel() -> None:
        assert job.asleep.acquire(timeout=20)
        job.cancel()

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    assert piece("", 0, "cancelled") == job.next_piece(20)
    cancelling.join()
    assert job.is_cancelled()
