"""`make up` for a user who is not root but may use Docker."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.settings import ROOT
from scripts.setup.__main__ import make_site
from scripts.setup.base_image import find_image
from scripts.setup.console import Console
from scripts.setup.inference_engines import runner_engines
from scripts.setup.layout import Layout
from scripts.setup.runner_image import runners_are_current

PATH = "/usr/local/bin:/usr/bin:/bin"
PYTHON = "/usr/bin/python3"
# The variables with this machine's network: pip's settings, certificates, proxies.
NETWORK = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
IMAGES = ("BASE_IMAGE",)
PIP_CONFIGS = (".config/pip/pip.conf", ".pip/pip.conf")


@dataclass(frozen=True)
class PlainUser:
    """A user in the group that may use Docker, with its own checkout."""

    name: str
    uid: int
    checkout: Path
    environ: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.environ["ORCHESTRAR_PORT"])

    @property
    def project(self) -> str:
        return self.environ["ORCHESTRAR_PROJECT"]

    def make(self, target: str) -> str:
        """Run `make TARGET` in the checkout as this user; returns what it printed, fails on a non-zero exit."""
        words = ["env", "-i", *(f"{k}={v}" for k, v in self.environ.items()), "make", target, f"PYTHON={PYTHON}"]
        result = subprocess.run(
            ["runuser", "--user", self.name, "--", *words],
            cwd=self.checkout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=540,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout


def run(*argv: str) -> str:
    """Run something that must succeed; returns what it printed."""
    result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    assert result.returncode == 0, f"{' '.join(argv)}: {result.stdout}"
    return result.stdout


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def copy_tree(target: Path) -> None:
    """Copy the files that a clone of the working tree would have."""
    listing = run("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def need_system_python() -> None:
    """Install Debian's Python with ensurepip if it is missing: another user cannot read root's own Python."""
    if shutil.which(PYTHON) is None or subprocess.run([PYTHON, "-c", "import ensurepip"]).returncode:
        print("installing python3 and python3-venv: the plain user needs a Python that everyone can read")
        run("apt-get", "update")
        run("apt-get", "install", "--yes", "--no-install-recommends", "python3", "python3-venv")


def make_environ(home: Path) -> dict[str, str]:
    """Return a login's environment, with this machine's network settings and its own name and ports."""
    for name in PIP_CONFIGS:
        if (Path.home() / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path.home() / name, home / name)
    port, first_model_port = free_ports(2)
    return {
        **{key: value for key, value in os.environ.items() if key.upper().startswith((*NETWORK, *IMAGES))},
        "HOME": str(home),
        "PATH": PATH,
        "ORCHESTRAR_PORT": str(port),
        "ORCHESTRAR_PROJECT": f"plain-{secrets.token_hex(4)}",
        "ORCHESTRAR_FIRST_MODEL_PORT": str(min(first_model_port, 64900)),
    }


def is_alive(pid: int) -> bool:
    """Tell whether the process runs: a zombie, which init has not yet reaped, has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


@pytest.fixture
def user() -> Iterator[PlainUser]:
    """Make a user for one test, and afterwards remove its processes, containers, volumes and files."""
    if os.geteuid() != 0:
        pytest.fail("only root can create the plain user of this test; run it as root")
    need_system_python()
    name = f"orch-{secrets.token_hex(4)}"
    run("useradd", "--create-home", "--shell", "/bin/sh", "--groups", "docker", name)
    account = pwd.getpwnam(name)
    home = Path(account.pw_dir)
    environ = make_environ(home)
    try:
        copy_tree(home / "orchestrar")
        run("chown", "--recursive", f"{name}:", str(home))
        yield PlainUser(name, account.pw_uid, home / "orchestrar", environ)
    finally:
        remove_docker_objects(environ["ORCHESTRAR_PROJECT"])
        end_processes(account.pw_uid)
        run("userdel", "--force", "--remove", name)


def remove_docker_objects(project: str) -> None:
    """Remove the containers, volumes and networks of one project."""
    label = f"label=com.docker.compose.project={project}"
    for listing, removal in (
        (("ps", "--all", "--quiet"), ("rm", "--force", "--volumes")),
        (("volume", "ls", "--quiet"), ("volume", "rm", "--force")),
        (("network", "ls", "--quiet"), ("network", "rm")),
    ):
        for item in run("docker", *listing, "--filter", label).split():
            run("docker", *removal, item)


def end_processes(uid: int) -> None:
    """End every process of that user, which exists only for this test."""
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and folder.stat().st_uid == uid:
                os.kill(int(folder.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.mark.docker
@pytest.mark.real_model
@pytest.mark.timeout(900)
def test_make_up_and_down_as_a_plain_user(user: PlainUser) -> None:
    """A user who may use Docker gets a running controller; existing images are used, and nothing needs root."""
    site = make_site(Layout.from_environ(os.environ), Console(), "plain-user", None)
    if not runners_are_current(site):
        pytest.fail("the runner images are not current; run: python3 -m scripts.setup test-env")
    engines = runner_engines(site.layout.templates)
    images_before = [find_image(site, engine.image) for engine in engines.values()]

    output = user.make("up")
    print(output)
    for engine in engines:
        assert f"{engine} wheels: already there (not needed" in output
        assert f"{engine} image: already there" in output
    assert images_before == [find_image(site, engine.image) for engine in engines.values()]
    with urllib.request.urlopen(f"http://127.0.0.1:{user.port}/health", timeout=5) as answer:
        assert json.load(answer)["status"] == "ok"
    pid = int((user.checkout / "data" / "run" / "controller.pid").read_text())
    assert Path(f"/proc/{pid}").stat().st_uid == user.uid

    assert f"controller: already there (pid {pid} answers)" in user.make("up")

    assert "stopped" in user.make("down")
    assert not is_alive(pid)
    assert run("docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={user.project}") == ""
