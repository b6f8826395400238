"""What never happens: each promise in words, and the files that hold its tests."""

from __future__ import annotations

import re
from pathlib import Path

from controller.settings import ROOT

PROMISES = {
    "L1": (
        "200 simultaneous first requests to a stopped model cause one container start; each reply is 200, or "
        "503 with `Retry-After`"
    ),
    "L2": "no request is lost to an idle stop",
    "L3": "idle time counts from the end of the last request, and a stream longer than the idle timeout is not cut",
    "L4": (
        "a model that does not fit the memory budget evicts idle, unpinned ones, least useful first; if "
        "nothing can go, 503 names what holds the memory"
    ),
    "L5": "waiting is bounded and fair: steady traffic on one model does not starve another",
    "L6": (
        "a stop refuses new work, drains for the grace period, then ends the container and sees it gone, "
        "within the grace period and 5 s"
    ),
    "L7": (
        "a crash loop backs off, with a failure card and `retry_at`; what is no failure of the model does not count"
    ),
    "L8": "the start deadline is a stall timer: progress extends it, silence ends the start",
    "F1": (
        "a controller killed with -9 at any step: after its restart the state is right within 10 s, running "
        "models are kept and adopted, none is orphaned, none is there twice"
    ),
    "F2": (
        "Docker restarted or hung: `/health` under 500 ms and degraded, ready models serve on, only starts "
        "get 503, and all recovers by itself"
    ),
    "F3": (
        "a model that dies in a stream: an error event within 2 s and never `[DONE]`; one that dies before "
        "its first byte: started again and asked again, once"
    ),
    "F4": "out of memory is reported only on evidence, with limit and peak",
    "F5": "a hung model is unready within 15 s and its requests end; a pause by hand is respected and named",
    "F6": "`docker compose stop`, `down`, `rm` and `up` by hand are noticed within 10 s, and the next request works",
    "F7": (
        "a port that another program took: an automatic one moves on, an explicit one is an error that names "
        "it; other models are unaffected"
    ),
    "F8": "a full disk leaves no half-written file, and serving goes on",
    "F9": (
        "a broken `models.yaml` on reload keeps the old one and names the line; a good one recreates only what changed"
    ),
    "F10": "the wall clock does not matter",
    "F11": (
        "when its client leaves, the model stops working within 2 s in a stream, within 5 s before the first token"
    ),
    "F12": "slow clients cannot starve others",
    "F13": "a hostile model gets a 502, in bounded memory",
    "F14": "SIGTERM to the controller cuts no stream within the grace period; models stay up, or stop by setting",
}

TESTS = ROOT / "tests"
_PROMISE_TEST = re.compile(r"test_([lf]\d+)_")


def promise_of(name: str) -> str | None:
    """Return the promise that a test function, or its file, is named after."""
    match = _PROMISE_TEST.match(name)
    return match.group(1).upper() if match else None


def files_of(promise: str) -> list[Path]:
    """Return the files with tests of the promise, those on a real engine first."""
    name = f"test_{promise.lower()}_*.py"
    return [
        *sorted((TESTS / "docker" / "faults").glob(name)),
        *sorted((TESTS / "controller" / "supervisor").glob(name)),
    ]
