"""The runner as a real process under gunicorn."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.settings import ROOT
from runner.healthcheck import is_healthy

TIMEOUT_S = 60


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "ORCHESTRAR_MODEL_ID": "m",
        "ORCHESTRAR_MODEL_PATH": str(tmp_path),
        "ORCHESTRAR_BIND": "127.0.0.1:0",
        **more,
    }


def run_runner(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_an_unprepared_model_ends_with_one_sentence(tmp_path: Path) -> None:
    """It has exit code 78 and says what to do, before anything is loaded."""
    result = run_runner(tmp_path)
    assert 78 == result.returncode
    assert "m is not prepared" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failed_load_ends_the_process_with_code_1(tmp_path: Path) -> None:
    """The container exits instead of retrying forever, and its log has one clear line."""
    if importlib.util.find_spec("torch") is not None:
        (tmp_path / "config.json").write_text("no JSON")
    else:
        (tmp_path / "config.json").write_text("{}")
    result = run_runner(tmp_path)
    assert 1 == result.returncode
    assert "cannot serve: " in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@contextmanager
def served_fake(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """Start the process and let it warm up; yield it, its port and the descriptor that lets words through."""
    (tmp_path / "config.json").write_text("{}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read_fd, write_fd = os.pipe()
    command = [sys.executable, "-m", "gunicorn", "-c", "runner/gunicorn_conf.py"]
    process = subprocess.Popen(
        [*command, "tests.runner.served_fake:application()"],
        cwd=ROOT,
        env=environment(tmp_path, ORCHESTRAR_BIND=f"127.0.0.1:{port}", FAKE_GATE_FD=str(read_fd)),
        pass_fds=[read_fd],
    )
    try:
        os.write(write_fd, b"w")
        deadline = time.monotonic() + TIMEOUT_S
        while not is_healthy(port=port):
            assert time.monotonic() < deadline
            assert process.poll() is None
        yield process, port, write_fd
    finally:
        process.kill()
        process.wait()
        os.close(read_fd)
        os.close(write_fd)


def test_sigterm_lets_a_stream_finish(tmp_path: Path) -> None:
    """A model that is stopped finishes its requests, then exits with code 0."""
    with served_fake(tmp_path) as (process, port, gate):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        connection.request("POST", "/inference", json.dumps({"prompt": "one two", "stream": True}))
        os.write(gate, b"w")
        response = connection.getresponse()
        assert b'data: {"text":"one "}\n' == response.readline()
        process.send_signal(signal.SIGTERM)
        os.write(gate, b"w")
        rest = response.read()
        connection.close()
        assert b'data: {"text":"two "}' in rest
        assert b'"done":true' in rest
        assert 0 == process.wait(TIMEOUT_S)


@pytest.mark.parametrize("stream", [True, False])
def test_gunicorn_exposes_the_socket_that_shows_a_client_leaving(tmp_path: Path, stream: bool) -> None:
    """The place of a client that left is free at once: the next one is served without a word for the first."""
    with served_fake(tmp_path) as (_process, port, gate):
        left = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        left.request("POST", "/inference", json.dumps({"prompt": "left", "stream": stream}))
        last = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        last.request("POST", "/inference", json.dumps({"prompt": "last", "stream": True}))
        response = last.getresponse()
        assert b":\n" == response.readline()
        left.close()
        # A word let through too early would go to the client that left; two comments are time enough to notice that.
        assert b"\n" == response.readline()
        assert b":\n" == response.readline()
        os.write(gate, b"w")
        assert b'{"text":"last "}' in response.read()
        last.close()


def test_a_connection_serves_another_request_after_a_stream(tmp_path: Path) -> None:
    """Data written past gunicorn forms whole chunks, and gunicorn's last chunk ends them."""
    with served_fake(tmp_path) as (_process, port, gate):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        connection.connect()
        client = connection.sock
        for words in (["one", "two", "three", "four"], ["five", "six"]):
            connection.request("POST", "/inference", json.dumps({"prompt": " ".join(words), "stream": True}))
            os.write(gate, b"w")
            response = connection.getresponse()
            assert "chunked" == response.headers["Transfer-Encoding"]
            content = b""
            for word in words:
                while b'"%b "' % word.encode() not in content:
                    content += response.readline()
                if word != words[-1]:
                    os.write(gate, b"w")
            assert b'"done":true' in response.read()
            assert client is connection.sock
        connection.close()


def test_a_client_of_http_1_0_gets_no_chunks(tmp_path: Path) -> None:
    """Its body has only the events, up to the end of the connection."""
    with served_fake(tmp_path) as (_process, port, gate):
        body = json.dumps({"prompt": "one two three", "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as client:
            client.sendall(b"POST /inference HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            answer = b""
            for word in (b"one ", b"two ", b"three "):
                os.write(gate, b"w")
                while b'data: {"text":"%b"}\n\n' % word not in answer:
                    answer += client.recv(65536)
            while data := client.recv(65536):
                answer += data
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert all(block.startswith(b"data: {") for block in rest.split(b"\n\n") if block not in (b"", b":"))
        assert b'"done":true' in rest


def test_a_worker_that_dies_ends_the_process(tmp_path: Path) -> None:
    """gunicorn does not load the model a second time without the controller's knowledge."""
    with served_fake(tmp_path) as (process, _port, _gate):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert 1 == process.wait(TIMEOUT_S)


def test_an_engine_that_fails_ends_the_process(tmp_path: Path) -> None:
    """The affected request gets the reason, the next ones a 503, and the container exits with 1."""
    with served_fake(tmp_path) as (process, port, _gate):
        answers = []
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            connection.request("POST", "/inference", json.dumps({"prompt": "break"}))
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read())["error"]["code"]))
            connection.close()
        assert [(500, "generation_failed"), (503, "engine_failed")] == answers
        assert not is_healthy(port=port)
        assert 1 == process.wait(TIMEOUT_S)


def test_the_health_check_fails_if_nothing_listens() -> None:
    """A closed port is not healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not is_healthy(port=free.getsockname()[1])
