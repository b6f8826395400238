"""Docker calls with a stand-in `docker` on the PATH: their deadlines, and errors that repeat Docker's words."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.docker import calls
from controller.docker.health import DockerHealth
from controller.docker.service import DockerService
from controller.errors import Cancelled, DockerError, DockerTimeout, DockerUnavailable
from tests.fakes import HANG_S


@pytest.fixture
def service(tmp_path: Path) -> DockerService:
    return DockerService(project="test", compose_dir=tmp_path)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script before the real docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_hung_call_is_ended_with_its_children(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A docker command that hangs, and ignores SIGTERM, is killed at its deadline together with its plugin process."""
    stand_in(tmp_path, monkeypatch, f"trap '' TERM; sh -c 'echo $$ > {tmp_path}/child; trap \"\" TERM; sleep 60'")
    monkeypatch.setattr("controller.docker.service.COMPOSE_DEADLINE_S", 0.3)
    monkeypatch.setattr(calls, "KILL_AFTER_S", 0.2)
    started_at = time.monotonic()
    with pytest.raises(DockerTimeout, match="docker compose up tiny: Docker did not finish in time"):
        service.up("tiny")
    assert time.monotonic() - started_at < HANG_S
    child = int((tmp_path / "child").read_text())
    with contextlib.suppress(FileNotFoundError):  # a process that has ended has no command line until it is collected
        assert Path(f"/proc/{child}/cmdline").read_bytes() == b""


def test_waiting_for_other_compose_commands_is_bounded(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call behind Compose commands that hang gets DockerTimeout, and later calls run when those have ended."""
    stand_in(tmp_path, monkeypatch, f"echo run >> {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
    monkeypatch.setattr("controller.docker.service.COMPOSE_LOCK_DEADLINE_S", 0.2)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.up, "first")
        while not (tmp_path / "runs").exists():
            time.sleep(0.01)
        with pytest.raises(DockerTimeout, match="other Compose commands"):
            service.up("second")
        (tmp_path / "go").touch()
        first.result(HANG_S)
    service.up("third")
    assert (tmp_path / "runs").read_text().split() == ["run", "run"]


@pytest.mark.parametrize("way", ["cancelled", "deadline"])
def test_a_pull_that_hangs_is_ended(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A pull whose docker and its child ignore SIGTERM ends with all processes, by a cancel or at its deadline."""
    (tmp_path / "child").write_text(f"trap '' TERM; echo $$ >> {tmp_path}/pids; sleep 60")
    stand_in(tmp_path, monkeypatch, f"trap '' TERM; echo $$ >> {tmp_path}/pids; sh {tmp_path}/child")
    pids = tmp_path / "pids"
    monkeypatch.setattr(calls, "KILL_AFTER_S", 0.2)
    if way == "deadline":
        monkeypatch.setattr("controller.docker.service.PULL_DEADLINE_S", 0.5)

    def cancelled() -> bool:
        return way == "cancelled" and pids.exists() and len(pids.read_text().split()) == 2

    with pytest.raises(Cancelled if way == "cancelled" else DockerTimeout):
        service.pull("image", on_layers=lambda complete, count: None, cancelled=cancelled)
    for pid in pids.read_text().split():
        with contextlib.suppress(FileNotFoundError):
            assert Path(f"/proc/{pid}/cmdline").read_bytes() == b""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", DockerUnavailable),
        ("permission denied while trying to connect to the Docker daemon socket", DockerUnavailable),
        ("Error response from daemon: something else", DockerError),
    ],
)
def test_stderr_stays_in_the_error(
    service: DockerService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    expected: type[Exception],
) -> None:
    """The error repeats what Docker wrote, and an unreachable engine is another error than a failed call."""
    stand_in(tmp_path, monkeypatch, f'echo "progress" >&2; echo "{message}" >&2; exit 1')
    with pytest.raises(expected, match=message.replace("?", r"\?")):
        service.up("tiny")


def test_a_missing_docker_command_is_reported(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a docker command the error says that, and what to do."""
    empty = tmp_path / "bin"
    empty.mkdir()
    (empty / "timeout").symlink_to("/usr/bin/timeout")
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(DockerUnavailable, match="the docker command was not found"):
        service.models()


def test_the_override_is_in_every_compose_call(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """compose.override.yaml is passed after the generated file as soon as it exists."""
    stand_in(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/calls')
    service.up("tiny")
    (tmp_path / "compose.override.yaml").write_text("{}")
    service.up("tiny")
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert "compose.override.yaml" not in first
    assert f"--file {tmp_path}/compose.yaml --file {tmp_path}/compose.override.yaml" in second
    assert second.endswith("up --detach --no-build --no-color --no-deps tiny")


def test_a_stop_passes_its_grace_period(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker gets the seconds of a stop; otherwise it would wait for the container's own period."""
    stand_in(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/calls')
    service.stop("abc", grace_s=0)
    service.stop("abc", grace_s=3)
    assert (tmp_path / "calls").read_text() == "container stop --time 0 abc\ncontainer stop --time 3 abc\n"


def test_hashes_are_computed_once_per_file(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compose computes the hashes again when the file has changed, and each time if there is an override."""
    stand_in(tmp_path, monkeypatch, f"echo call >> {tmp_path}/calls; echo tiny $(wc -l < {tmp_path}/calls)")
    for text, times in (("a", 1), ("a", 1), ("b", 2), ("a", 3)):
        (tmp_path / "compose.yaml").write_text(text)
        assert service.config_hashes() == {"tiny": str(times)}
    (tmp_path / "compose.override.yaml").write_text("{}")
    assert [service.config_hashes()["tiny"] for _ in range(2)] == ["4", "5"]
    (tmp_path / "compose.override.yaml").unlink()
    assert service.config_hashes() == {"tiny": "6"}


def test_container_and_image_are_inspected_in_one_call(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container's status and the image's id come from one docker command."""
    answer = '[{"Id": "abc", "State": {"Status": "exited"}}, {"Id": "sha256:1"}]'
    stand_in(tmp_path, monkeypatch, f"echo \"$@\" >> {tmp_path}/calls; echo '{answer}'")
    assert service.state_and_image("abc", "image:latest") == ("exited", "sha256:1")
    assert (tmp_path / "calls").read_text() == "inspect abc image:latest\n"


@pytest.mark.parametrize("answer", ["[]", "{}", "no JSON", '[{"Id": "abc"}, {"Id": "sha256:1"}]'])
def test_an_unreadable_answer_is_an_error(
    service: DockerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """An answer that Docker never gives is a DockerError, not a crash."""
    stand_in(tmp_path, monkeypatch, f"echo '{answer}'")
    with pytest.raises(DockerError, match="looking at a container and its image"):
        service.state_and_image("abc", "image:latest")


class TestDockerHealth:
    def test_an_answer_is_reported(self) -> None:
        """An engine that answers is ok, with its version."""
        assert DockerHealth(lambda: "20.10").report() == {"ok": True, "version": "20.10", "reason": None}

    def test_a_refusal_is_the_reason(self) -> None:
        """An unreachable engine is reported with Docker's words."""

        def away() -> str:
            raise DockerUnavailable("not there")

        assert DockerHealth(away).report()["reason"] == "not there"

    def test_a_hung_engine_delays_no_report(self) -> None:
        """While Docker hangs each report takes less than 500 ms, and says for how long Docker has not answered."""
        now = [0.0]
        gate = threading.Event()

        def hang() -> str:
            gate.wait(HANG_S)
            return "late"

        health = DockerHealth(hang, monotonic=lambda: now[0])
        started_at = time.monotonic()
        assert health.report()["ok"] is False
        now[0] += 10
        assert health.report()["reason"] == "Docker has not answered for 10 s"
        assert time.monotonic() - started_at < 2 * 0.5
        gate.set()

    def test_answers_are_cached_for_a_moment(self) -> None:
        """Many requests for /health in a row ask Docker once."""
        questions: list[int] = []

        def version() -> str:
            questions.append(1)
            return "1"

        health = DockerHealth(version, monotonic=lambda: 0.0)
        for _ in range(5):
            health.report()
        assert len(questions) == 1
