"""How many of the controller's files a request passes: those with a function that runs for one warm `POST /inference`.

    .venv/bin/python -m bench.files_on_the_way

The controller is the real one under gunicorn, before `bench.stub_upstream`, whose model is ready. Calls are recorded in
the threads that the request passes, the main loop's and its own, from its connection to its end; a file counts if one
of its functions is called. The body is short and the answer whole. Needs no Docker.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask

from bench import load, stubbed_controller
from controller.settings import ROOT

FOLDER = f"{ROOT / 'controller'}/"
# Not routes: the application of this file answers them before Flask sees them.
BEGIN, END = "/count/begin", "/count/end"
WARM_UP_REQUESTS = 3

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def main() -> None:
    """Print the files, and their number."""
    files = files_passed()
    print(*files, f"{len(files)} files", sep="\n")


def files_passed() -> list[str]:
    """Return the controller's files that one warm `POST /inference` passes, sorted."""
    with stubbed_controller.running("bench.files_on_the_way:create()") as pair:
        request = _request("POST", "/inference", {"model_id": stubbed_controller.MODEL, "prompt": "hello"})
        for _ in range(WARM_UP_REQUESTS):
            _answer(pair.controller_port, request)
        _answer(pair.controller_port, _request("GET", BEGIN))
        _answer(pair.controller_port, request)
        files: list[str] = json.loads(_answer(pair.controller_port, _request("GET", END)))
    return files


def create() -> Flask:
    """Return the application that gunicorn serves; it records what the threads of its requests call."""
    app = stubbed_controller.create()
    recorder = Recorder(app.wsgi_app)
    app.wsgi_app = recorder  # type: ignore[method-assign]
    # Only now: the controller's own threads have started, and are not recorded.
    sys.setprofile(recorder.profile)
    threading.setprofile(recorder.profile)
    return app


class Recorder:
    """Records the files of the functions that are called between `BEGIN` and `END`."""

    def __init__(self, wsgi: Wsgi) -> None:
        self._wsgi = wsgi
        self._files: set[str] = set()

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Record a call's file; a module's own code is not a call."""
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(FOLDER) and code.co_name != "<module>":
            self._files.add(code.co_filename)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in (BEGIN, END):
            return self._wsgi(environ, start_response)
        body = json.dumps(sorted(str(Path(file).relative_to(ROOT)) for file in self._files)).encode()
        self._files.clear()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def _request(method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    content = json.dumps(body).encode() if body else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _answer(port: int, request: bytes) -> bytes:
    """Return the body of the answer to a request on its own connection."""
    with closing(load.connect(port)) as connection:
        connection.sendall(request)
        answer = b""
        while not load.is_whole(answer):
            answer += connection.recv(65536)
    return answer.partition(b"\r\n\r\n")[2]


if __name__ == "__main__":
    main()
