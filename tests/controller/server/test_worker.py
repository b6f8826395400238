"""What the worker does on signals, without gunicorn's master around it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from controller.errors import RequestTimeout
from controller.server.worker import ControllerWorker, _refusal
from tests.errorshape import check_error
from tests.fakes import HANG_S


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was sent to which process."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


@pytest.fixture
def done() -> list[str]:
    """What was asked of the composed parts."""
    return []


@pytest.fixture
def worker(done: list[str], told: list[tuple[int, int]]) -> Iterator[ControllerWorker]:
    """One that has booted, whose loop does not run."""
    controller = SimpleNamespace(
        cut=lambda: done.append("cut"),
        supervisor=SimpleNamespace(end_preparations=lambda: done.append("begin to end")),
        reloader=SimpleNamespace(follow=lambda *, cures_drift: done.append("reload")),
    )
    kept = {number: signal.getsignal(number) for number in (*ControllerWorker.SIGNALS, signal.SIGHUP)}
    made = ControllerWorker(0, os.getppid(), [], None, 30, Config(), None)
    made.wsgi = SimpleNamespace(extensions={"controller": controller})
    made.booted = True
    made.tpool = made.get_thread_pool()
    made.method_queue.init()
    made.PIPE = os.pipe()
    os.set_blocking(made.PIPE[1], False)
    made.init_signals()
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in kept.items():
        signal.signal(number, handler)
    for descriptor in made.PIPE:
        os.close(descriptor)
    made.method_queue.close()
    made.tmp.close()


def turn(worker: ControllerWorker) -> None:
    """What the main loop does when it is woken."""
    worker.method_queue.run_callbacks(None)


def returns(call: Callable[[], Any], held: Any) -> bool:
    """Whether a call returns while somebody else, as the code that a signal interrupts, holds a lock."""
    has_returned = threading.Event()

    def run() -> None:
        call()
        has_returned.set()

    with held:
        threading.Thread(target=run, daemon=True).start()
        return has_returned.wait(HANG_S / 10)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_waits_for_no_lock(worker: ControllerWorker, number: int) -> None:
    """A signal's handler returns even when the main loop was in the middle of giving the pool a task."""
    handler: Any = signal.getsignal(number)
    assert returns(lambda: handler(number, None), worker.tpool._shutdown_lock)


def test_sighup_before_the_app_is_not_lost(worker: ControllerWorker, done: list[str]) -> None:
    """models.yaml may have changed after the app had read it: it is read anew at the loop's first turn."""
    wsgi, worker.wsgi = worker.wsgi, None
    signal.raise_signal(signal.SIGHUP)
    worker.wsgi = wsgi
    turn(worker)
    for thread in threading.enumerate():
        if thread.name == "reload":
            thread.join(HANG_S)
    assert ["reload"] == done


def test_sigterm_gives_grace(worker: ControllerWorker, done: list[str]) -> None:
    """Preparations end now, the rest when the grace is over; a second signal changes nothing."""
    worker.grace_s = 60
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    turn(worker)
    assert ["begin to end"] == done
    assert not worker.alive


def test_sigint_ends_at_once(worker: ControllerWorker, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way is cut, and its clients hear of it before the loop ends."""
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(worker, "_later", lambda wait_s, call: later.append(call))
    signal.raise_signal(signal.SIGINT)
    turn(worker)
    assert ["cut"] == done
    later.pop()()
    with pytest.raises(SystemExit) as raised:
        turn(worker)
    assert 0 == raised.value.code


@pytest.mark.parametrize(
    ("number", "passed_on"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGQUIT"), ("SIGQUIT", "SIGQUIT")]
)
def test_the_end_of_the_worker_is_the_controllers(
    worker: ControllerWorker, told: list[tuple[int, int]], number: str, passed_on: str
) -> None:
    """Told to end by somebody else than its master, it tells the master."""
    signal.raise_signal(signal.Signals[number])
    assert [(os.getppid(), signal.Signals[passed_on])] == told
    assert worker.is_told_to_end


def test_a_refusal_is_a_whole_answer() -> None:
    """A refused request gets the API's error body, framed by its length, and the news that the connection closes."""
    head, _, body = _refusal(RequestTimeout("too slow"), "408 Request Timeout").partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert "HTTP/1.1 408 Request Timeout" == first
    assert ["Connection: close", "Content-Type: application/json", f"Content-Length: {len(body)}"] == fields
    check_error(408, json.loads(body), 408, "request_timeout")
