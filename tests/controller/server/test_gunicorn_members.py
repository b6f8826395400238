"""Every undocumented member of gunicorn that controller/server overrides or uses, by its name.

An upgrade that changes one fails here, in a line that names it. Read then what gunicorn does now, and what
controller/server does with it, before the pin in requirements.in moves.
"""

from __future__ import annotations

import inspect
import io
import os
import pkgutil
import socket
import time
from collections import deque
from collections.abc import Iterator
from types import CodeType, SimpleNamespace
from typing import Any

import pytest
from gunicorn import __version__, arbiter
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import default_environ
from gunicorn.workers.gthread import PollableMethodQueue, TConn, ThreadWorker

from controller.server import gunicorn_conf
from controller.server.client_connection import client_socket
from controller.settings import ROOT

WORKER = "workers.gthread:ThreadWorker"


def member(name: str) -> Any:
    return pkgutil.resolve_name(f"gunicorn.{name}")


def names_used_by(code: CodeType) -> set[str]:
    """Return the attributes that a function uses, with those of the functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(names_used_by, inner))


@pytest.fixture(scope="module")
def worker() -> Iterator[ThreadWorker]:
    worker = ThreadWorker(0, os.getppid(), [], None, 30, Config(), None)
    yield worker
    worker.tmp.close()


def test_the_version_is_pinned() -> None:
    """The installed version is the one that requirements.in names exactly, with the reason."""
    assert f"\ngunicorn=={__version__}\n" in (ROOT / "requirements.in").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Overridden.
        (f"{WORKER}.accept", "(self, listener)"),
        (f"{WORKER}.on_client_socket_readable", "(self, conn, client)"),
        (f"{WORKER}.handle", "(self, conn)"),
        (f"{WORKER}.finish_request", "(self, conn, fs)"),
        (f"{WORKER}.murder_pending", "(self)"),
        (f"{WORKER}.set_accept_enabled", "(self, enabled)"),
        (f"{WORKER}._cap_keepalive", "(self, deadline)"),
        (f"{WORKER}.init_signals", "(self)"),
        (f"{WORKER}.handle_exit", "(self, sig, frame)"),
        (f"{WORKER}.handle_quit", "(self, sig, frame)"),
        (f"{WORKER}.handle_error", "(self, req, client, addr, exc)"),
        ("glogging:Logger.access", "(self, resp, req, environ, request_time)"),
        ("workers.gthread:TConn.__init__", "(self, cfg, sock, client, server)"),
        ("workers.gthread:TConn.init", "(self)"),
        ("http.unreader:SocketUnreader.chunk", "(self, size_hint=None)"),
        # Called.
        (f"{WORKER}.enqueue_req", "(self, conn)"),
        (f"{WORKER}.get_thread_pool", "(self)"),
        ("workers.gthread:TConn.close", "(self, graceful=False)"),
        ("workers.gthread:PollableMethodQueue.defer", "(self, callback, *args)"),
        ("http.parser:RequestParser.__init__", "(self, cfg, source, source_addr)"),
        ("http.unreader:SocketUnreader.__init__", "(self, sock, max_chunk=8192)"),
        ("config:Config.set", "(self, name, value)"),
    ],
)
def test_methods_keep_their_parameters(name: str, parameters: str) -> None:
    assert parameters == str(inspect.signature(member(name)))


@pytest.mark.parametrize(
    ("caller", "name"),
    [
        (f"{WORKER}.set_accept_enabled", "accept"),
        (f"{WORKER}.enqueue_req", "tpool"),
        (f"{WORKER}.enqueue_req", "handle"),
        (f"{WORKER}.enqueue_req", "finish_request"),
        (f"{WORKER}.handle", "handle_error"),
        (f"{WORKER}.handle", "init"),
        (f"{WORKER}.run", "murder_pending"),
        (f"{WORKER}.run", "murder_keepalived"),
        (f"{WORKER}.run", "_cap_keepalive"),
        (f"{WORKER}.run", "set_accept_enabled"),
        (f"{WORKER}.run", "nr_conns"),
        (f"{WORKER}.init_process", "poller"),
        (f"{WORKER}.init_process", "get_thread_pool"),
        (f"{WORKER}.handle_request", "access"),
        (f"{WORKER}.load_wsgi", "wsgi"),
        ("workers.base:Worker.init_process", "init_signals"),
        ("workers.base:Worker.init_process", "booted"),
        ("http.unreader:Unreader.read", "chunk"),
        ("arbiter:Arbiter.stop", "time"),
        ("arbiter:Arbiter.manage_workers", "WORKERS"),
    ],
)
def test_gunicorn_still_uses_what_we_replace(caller: str, name: str) -> None:
    """gunicorn's own code uses the member, so that ours takes effect."""
    assert name in names_used_by(member(caller).__code__)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("alive", bool),
        ("booted", bool),
        ("cfg", Config),
        ("keepalived_conns", deque),
        ("log", object),
        ("method_queue", PollableMethodQueue),
        ("nr_conns", int),
        ("poller", object),
        ("ppid", int),
        ("sockets", list),
        ("tpool", object),
        ("worker_connections", int),
    ],
)
def test_a_worker_has_its_attributes(worker: ThreadWorker, name: str, kind: type) -> None:
    assert isinstance(vars(worker)[name], kind)


@pytest.mark.parametrize("name", ["initialized", "parser", "timeout", "sock", "client"])
def test_a_connection_has_its_attributes(name: str) -> None:
    with socket.socket() as sock:
        assert name in vars(TConn(Config(), sock, None, None))


@pytest.mark.parametrize(("name", "kind"), [("buf", io.BytesIO), ("mxchunk", int), ("max_body_chunk", int)])
def test_an_unreader_has_its_attributes(name: str, kind: type) -> None:
    assert isinstance(getattr(SocketUnreader(None), name), kind)


def test_a_parser_reads_by_its_unreader() -> None:
    """A parser's `unreader` can be replaced before the first request."""
    with socket.socket() as sock:
        assert isinstance(RequestParser(Config(), sock, None).unreader, SocketUnreader)


@pytest.mark.parametrize("name", ["LimitRequestLine", "LimitRequestHeaders", "InvalidChunkSize"])
def test_errors_of_parsing_have_one_base(name: str) -> None:
    assert issubclass(member(f"http.errors:{name}"), member("http.errors:ParseException"))


def test_the_master_measures_by_a_clock_of_its_module() -> None:
    """`gunicorn.arbiter.time` is the module that `when_ready` replaces with a monotonic clock."""
    assert arbiter.time is time


def test_the_environment_holds_the_clients_socket() -> None:
    request = SimpleNamespace(
        body=None, method="GET", query="", uri="/", version=(1, 1), headers=[], trailers=[], scheme="http"
    )
    client = object()
    assert client is client_socket(default_environ(request, client, Config()))


def test_every_setting_has_a_name_that_gunicorn_knows() -> None:
    """gunicorn ignores unknown names in its configuration file, so a renamed setting would go unnoticed."""
    ours = {name for name, value in vars(gunicorn_conf).items() if name in OUR_SETTINGS}
    assert set(OUR_SETTINGS) == ours
    assert ours <= set(Config().settings)


OUR_SETTINGS = (
    "bind", "workers", "worker_class", "logger_class", "threads", "worker_connections", "timeout", "graceful_timeout",
    "keepalive", "worker_tmp_dir", "control_socket_disable", "proc_name", "loglevel", "logconfig_dict", "on_starting",
    "when_ready", "post_fork", "on_exit", "worker_exit",
)  # fmt: skip
