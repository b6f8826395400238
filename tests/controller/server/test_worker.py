"""What the worker does on signals, and to refused requests, without gunicorn's master."""

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
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Process ids and the signals that were sent to them."""
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    return signals


@pytest.fixture
def calls() -> list[str]:
    """Return the calls of the controller's methods."""
    return []


@pytest.fixture
def worker(calls: list[str], signals: list[tuple[int, int]]) -> Iterator[ControllerWorker]:
    """Give a worker that has booted and whose loop does not run."""
    controller = SimpleNamespace(
        abort_requests=lambda: calls.append("abort requests"),
        supervisor=SimpleNamespace(end_preparations=lambda: calls.append("begin to end")),
        reloader=SimpleNamespace(follow=lambda *, cures_drift: calls.append("reload")),
    )
    handlers = {number: signal.getsignal(number) for number in (*ControllerWorker.SIGNALS, signal.SIGHUP)}
    worker = ControllerWorker(0, os.getppid(), [], None, 30, Config(), None)
    worker.wsgi = SimpleNamespace(extensions={"controller": controller})
    worker.booted = True
    worker.tpool = worker.get_thread_pool()
    worker.method_queue.init()
    worker.PIPE = os.pipe()
    os.set_blocking(worker.PIPE[1], False)
    worker.init_signals()
    yield worker
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for descriptor in worker.PIPE:
        os.close(descriptor)
    worker.method_queue.close()
    worker.tmp.close()


def turn(worker: ControllerWorker) -> None:
    """Do what the main loop does when it wakes up."""
    worker.method_queue.run_callbacks(None)


def returns(call: Callable[[], Any], lock: Any) -> bool:
    """Return whether a call ends while another thread, like the code that a signal interrupts, holds a lock."""
    has_returned = threading.Event()

    def run() -> None:
        call()
        has_returned.set()

    with lock:
        threading.Thread(target=run, daemon=True).start()
        return has_returned.wait(HANG_S / 10)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_waits_for_no_lock(worker: ControllerWorker, number: int) -> None:
    """A signal's handler returns even if it interrupted the main loop while that gave the pool a task."""
    handler: Any = signal.getsignal(number)
    assert returns(lambda: handler(number, None), worker.tpool._shutdown_lock)


def test_sighup_before_the_app_is_not_lost(worker: ControllerWorker, calls: list[str]) -> None:
    """models.yaml may have changed after the app had read it: the loop's first round reads it again."""
    wsgi, worker.wsgi = worker.wsgi, None
    signal.raise_signal(signal.SIGHUP)
    worker.wsgi = wsgi
    turn(worker)
    for thread in threading.enumerate():
        if thread.name == "reload":
            thread.join(HANG_S)
    assert ["reload"] == calls


def test_sigterm_gives_grace(worker: ControllerWorker, calls: list[str]) -> None:
    """Preparations end now, the rest after the grace period; a second signal changes nothing."""
    worker.grace_s = 60
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    turn(worker)
    assert ["begin to end"] == calls
    assert not worker.alive


def test_sigint_ends_at_once(worker: ControllerWorker, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests in flight are aborted, and their clients get an error before the loop ends."""
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(worker, "_later", lambda wait_s, call: later.append(call))
    signal.raise_signal(signal.SIGINT)
    turn(worker)
    assert ["abort requests"] == calls
    later.pop()()
    with pytest.raises(SystemExit) as exit_info:
        turn(worker)
    assert 0 == exit_info.value.code


@pytest.mark.parametrize(
    ("number", "passed_on"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGQUIT"), ("SIGQUIT", "SIGQUIT")]
)
def test_the_end_of_the_worker_ends_the_controller(
    worker: ControllerWorker, signals: list[tuple[int, int]], number: str, passed_on: str
) -> None:
    """A worker that another process than its master ends passes the signal on to the master."""
    signal.raise_signal(signal.Signals[number])
    assert [(os.getppid(), signal.Signals[passed_on])] == signals
    assert worker.must_end


def test_a_refusal_is_a_whole_answer() -> None:
    """A refused request gets the API's error body, framed by its length, and the news that the connection closes."""
    head, _, body = _refusal(RequestTimeout("too slow"), "408 Request Timeout").partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert "HTTP/1.1 408 Request Timeout" == first
    assert ["Connection: close", "Content-Type: application/json", f"Content-Length: {len(body)}"] == fields
    check_error(408, json.loads(body), 408, "request_timeout")
