"""The lock against a second controller: who holds it, for how long, and where its file is."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from controller.errors import InstanceRuns
from controller.server.instance_lock import docker_host, take

URL = "http://127.0.0.1:8000"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path), "DOCKER_HOST": "unix:///somewhere/docker.sock"}


def test_a_second_controller_learns_the_holder(environ: dict[str, str]) -> None:
    """The refusal names the holder's pid and address, and what to do."""
    lock = take("mine", URL, environ)
    with pytest.raises(InstanceRuns) as exc_info:
        take("mine", URL, environ)
    for words in (f"pid {os.getpid()} ({URL})", f"kill {os.getpid()}", "ORCHESTRAR_PROJECT=mine-2"):
        assert words in exc_info.value.message
    lock.release()


def test_a_released_lock_is_free_and_leaves_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    """After a release the next one gets it, and no file is left behind."""
    take("mine", URL, environ).release()
    take("mine", URL, environ).release()
    assert list((tmp_path / "orchestrar").iterdir()) == []


def test_a_file_without_holder_is_no_lock(environ: dict[str, str]) -> None:
    """The file of a killed holder does not keep the next one out."""
    lock = take("mine", URL, environ)
    os.close(lock.descriptor)
    second = take("mine", URL, environ)
    assert second.path == lock.path
    second.release()


def test_a_child_that_drops_its_copy_holds_nothing(environ: dict[str, str]) -> None:
    """A forked child inherits the lock; after it has dropped its copy, the lock ends with the parent."""
    lock = take("mine", URL, environ)
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        lock.drop()
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"x"
    with pytest.raises(InstanceRuns):
        take("mine", URL, environ)
    os.close(lock.descriptor)
    take("mine", URL, environ).release()
    os.write(go_on[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*ready, *go_on):
        os.close(end)


@pytest.mark.parametrize("other", [{"DOCKER_HOST": "unix:///elsewhere/docker.sock"}, {}])
def test_other_projects_and_hosts_have_their_own_lock(environ: dict[str, str], other: dict[str, str]) -> None:
    """Another project, or the same project on another Docker host, has another lock."""
    first = take("mine", URL, environ)
    second = take("mine" if other else "yours", URL, {**environ, **other})
    first.release()
    second.release()


def test_a_folder_that_cannot_be_written_is_skipped(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a state folder the lock is in the system's temporary folder, in a folder that only this user can use."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lock = take("mine", URL, {**environ, "XDG_STATE_HOME": str(tmp_path / "file")})
    assert lock.path.parent == tmp_path / f"orchestrar-{os.geteuid()}"
    assert lock.path.parent.stat().st_mode & 0o777 == 0o700
    lock.release()


def test_one_engine_has_one_name(tmp_path: Path) -> None:
    """The same socket by a link, by a docker context or by default is the same engine."""
    (tmp_path / "real.sock").touch()
    (tmp_path / "link.sock").symlink_to(tmp_path / "real.sock")
    expected = f"unix://{tmp_path}/real.sock"
    assert docker_host({"DOCKER_HOST": f"unix://{tmp_path}/link.sock"}) == expected
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"here").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": f"unix://{tmp_path}/link.sock"}}}))
    assert docker_host({"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "here"}) == expected
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "here"}))
    assert docker_host({"DOCKER_CONFIG": str(tmp_path)}) == expected
    usual = f"unix://{os.path.realpath('/var/run/docker.sock')}"
    assert docker_host({"DOCKER_CONFIG": str(tmp_path / "none")}) == usual
