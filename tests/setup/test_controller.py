"""The set-up starts, finds and stops the controller: real processes, with a small server in place of gunicorn."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.setup import controller
from scripts.setup.console import Console
from scripts.setup.controller import ControllerStep, controller_pid, make_way, stop_controller
from scripts.setup.failure import SetupError
from scripts.setup.models import remove_models
from scripts.setup.shell import Answer, RealShell
from scripts.setup.steps import Site
from tests.setup.fakes import fails, make_site, shell_of

SERVER = """
import http.server, os, signal, sys
if os.environ.get("FAKE_EXIT"):
    print("models.yaml:3: a line that says what is wrong", flush=True)
    sys.exit(int(os.environ["FAKE_EXIT"]))
if os.environ.get("FAKE_DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["ORCHESTRAR_PORT"])), Handler)
pid_file = sys.argv[sys.argv.index("--pid") + 1]
if os.path.exists(pid_file):
    sys.exit("Already running")  # as gunicorn does while the file's pid seems alive
with open(pid_file, "w") as file:
    file.write(str(os.getpid()))
server.serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Yield a checkout whose gunicorn is SERVER, with a real shell; end every process that it started."""
    program = tmp_path / ".venv" / "bin" / "gunicorn"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\n{SERVER}")
    program.chmod(0o755)
    port = free_port()
    monkeypatch.setenv("ORCHESTRAR_PORT", str(port))
    fake = make_site(tmp_path)
    console = Console(io.StringIO())
    shell = RealShell(console, tmp_path / "step.log")
    site = replace(
        fake,
        layout=replace(fake.layout, port=port, stop_grace_s=0),
        console=console,
        shell=shell,
    )
    yield site
    for process in shell.spawned:
        process.kill()
        process.wait()


def test_up_twice_then_down_twice(site: Site) -> None:
    """The controller is started once, found the second time, stopped by SIGTERM, and then not found."""
    step = ControllerStep(site)
    assert step.already_there() is None
    step.do()
    pid = controller_pid(site.layout)
    assert pid is not None
    assert step.already_there() == f"pid {pid} answers"
    assert os.getpgid(pid) == pid
    assert stop_controller(site) is True
    assert controller_pid(site.layout) is None
    assert stop_controller(site) is False


def test_up_after_an_edit_restarts(site: Site) -> None:
    """A changed models.yaml, or another setting, is not silently ignored by a second `make up`."""
    step = ControllerStep(site)
    step.do()
    first = controller_pid(site.layout)
    models = site.layout.root / "config" / "models.yaml"
    models.parent.mkdir(exist_ok=True)
    models.write_text("models: {}")
    assert step.already_there() is None
    step.do()
    second = controller_pid(site.layout)
    assert second not in (None, first)
    assert step.already_there() == f"pid {second} answers"
    assert stop_controller(site) is True


def test_a_lost_data_folder_loses_no_controller(site: Site) -> None:
    """Without its pid file the controller is still found, and stopped, by its command line."""
    ControllerStep(site).do()
    pid = controller_pid(site.layout)
    site.layout.pid_file.unlink()
    site.layout.started_stamp.unlink()
    assert controller_pid(site.layout) == pid
    assert stop_controller(site) is True
    assert controller_pid(site.layout) is None


def test_a_controller_that_ignores_sigterm_is_killed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the grace period SIGKILL ends it."""
    monkeypatch.setattr(controller, "STOP_MARGIN_S", 0.2)
    monkeypatch.setenv("FAKE_DEAF", "1")
    ControllerStep(site).do()
    assert stop_controller(site) is True
    assert controller_pid(site.layout) is None


def test_the_reason_why_a_controller_dies_at_its_start_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user sees its last lines and gets its exit code; lines of an earlier start are not shown."""
    monkeypatch.setenv("FAKE_EXIT", "2")
    site.layout.controller_log.parent.mkdir(parents=True)
    site.layout.controller_log.write_text("line of an earlier start\n")
    with pytest.raises(SetupError, match=r"models\.yaml:3: a line that says what is wrong") as failure:
        ControllerStep(site).do()
    assert failure.value.exit_code == 2
    assert "earlier" not in failure.value.message


def test_a_port_of_another_program_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started on a port that another program uses, and the message says how to choose another port."""
    monkeypatch.setattr(controller, "FREE_PORT_S", 0.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.layout.port))
        other.listen()
        with pytest.raises(SetupError, match=rf"{site.layout.port}.*ORCHESTRAR_PORT="):
            make_way(site)


def test_a_recycled_pid_is_not_ours(site: Site) -> None:
    """A pid file that names an unrelated process counts as no controller: that is left alone, and a start works."""
    site.layout.pid_file.parent.mkdir(parents=True)
    site.layout.pid_file.write_text(str(os.getpid()))
    assert controller_pid(site.layout) is None
    assert stop_controller(site) is False
    ControllerStep(site).do()
    assert controller_pid(site.layout) not in (None, os.getpid())


@pytest.mark.parametrize("text", ["", "not a number", "-1", "999999999"])
def test_a_broken_pid_file_is_no_controller(site: Site, text: str) -> None:
    """A process that does not exist is not found, no matter what the pid file contains."""
    site.layout.pid_file.parent.mkdir(parents=True)
    site.layout.pid_file.write_text(text)
    assert controller_pid(site.layout) is None


class TestModels:
    """`make down` leaves no model of its project."""

    def test_the_generated_file_and_the_override_are_used(self, tmp_path: Path) -> None:
        """Compose gets both files, the project and both profiles."""
        site = make_site(tmp_path)
        shell_of(site).answers["docker"] = Answer(0)
        folder = site.layout.compose_dir
        folder.mkdir()
        for name in ("compose.yaml", "compose.override.yaml"):
            (folder / name).write_text("services: {}\n")
        remove_models(site)
        assert shell_of(site).ran == [
            f"docker compose --project-name orchestrar --project-directory {folder} --file {folder}/compose.yaml "
            f"--file {folder}/compose.override.yaml --profile models --profile prepare down"
        ]

    def test_models_go_without_a_usable_file(self, tmp_path: Path) -> None:
        """With a file that Compose refuses, the containers are found by their labels."""
        site = make_site(tmp_path)
        shell = shell_of(site)
        shell.answers.update({"docker": Answer(0), "docker ps": Answer(0, "abc\ndef\n")})
        shell.effects["docker compose"] = fails("broken file")
        remove_models(site)
        assert shell.ran[1:] == ["docker stop abc", "docker rm --force abc", "docker stop def", "docker rm --force def"]

    def test_without_an_engine_there_is_nothing_to_do(self, tmp_path: Path) -> None:
        """No engine means no models: no error."""
        site = make_site(tmp_path)
        remove_models(site)
        assert shell_of(site).ran == []
