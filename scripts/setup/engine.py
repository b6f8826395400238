"""A Docker engine of this machine answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.dockerd import start_dockerd
from scripts.setup.failure import SetupError
from scripts.setup.packages import install_packages
from scripts.setup.steps import Site

OLDEST = (20, 10)
INSTALL_HINT = (
    "install Docker 20.10 or newer as your distribution documents it "
    "(Debian and Ubuntu: sudo apt-get install docker.io) and run this again"
)


@dataclass(frozen=True)
class EngineView:
    """The state of the engine: `state` is "answers", "no_cli", "denied", "hung" or "not_running"."""

    state: str
    version: str = ""
    complaint: str = ""


def look_at_engine(site: Site) -> EngineView:
    """Ask the engine for its version; raises SetupError for Podman, a remote engine and one that is too old."""
    if site.shell.which("docker") is None:
        return EngineView("no_cli")
    _refuse_remote(site)
    answer = site.shell.ask("docker", "version", "--format", "{{json .}}", timeout_s=20)
    if "podman" in (answer.out + answer.err).lower():
        raise SetupError(
            "this `docker` is Podman, which is not supported: its containers differ in networks, limits and events; "
            + INSTALL_HINT
        )
    server = _server(answer.out)
    if answer.code == 0 and server:
        version = str(server.get("Version", ""))
        _refuse_old(version)
        return EngineView("answers", version=version)
    complaint = answer.err.strip()
    if "permission denied" in complaint.lower():
        return EngineView("denied", complaint=complaint)
    return EngineView("hung" if answer.code == 124 else "not_running", complaint=complaint)


def _server(text: str) -> dict[str, object]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    server = document.get("Server") if isinstance(document, dict) else None
    return server if isinstance(server, dict) else {}


def _refuse_remote(site: Site) -> None:
    endpoint = site.environ.get("DOCKER_HOST") or ""
    if not endpoint:
        answer = site.shell.ask("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        endpoint = answer.out.strip() if answer.code == 0 else ""
    if endpoint and not endpoint.startswith("unix://"):
        raise SetupError(
            f"Docker is set to the remote engine {endpoint}, which is not supported: models are reached on this "
            "machine's loopback address and read its files; unset DOCKER_HOST (or: docker context use default) "
            "and run this again"
        )


def _refuse_old(version: str) -> None:
    match = re.match(r"(\d+)\.(\d+)", version)
    if match and (int(match[1]), int(match[2])) < OLDEST:
        raise SetupError(f"the Docker engine is version {version}, too old; {INSTALL_HINT}")


@dataclass(frozen=True)
class EngineStep:
    """Find the engine, start it, or, as root on Debian and Ubuntu, install it."""

    site: Site
    name: str = "Docker engine"
    slug: str = "engine"
    dockerd_log: Path = Path("/var/log/orchestrar-dockerd.log")
    pid_file: Path = Path("/var/run/docker.pid")

    def already_there(self) -> str | None:
        view = look_at_engine(self.site)
        return f"version {view.version} answers" if view.state == "answers" else None

    def do(self) -> None:
        site, view = self.site, look_at_engine(self.site)
        if view.state == "denied":
            raise SetupError(
                f"the user {site.host.user} may not use Docker; allow it: sudo usermod -aG docker {site.host.user}, "
                "then log in again and run this again"
            )
        if view.state == "hung":
            raise SetupError("the Docker engine does not answer; restart it and run this again")
        if site.environ.get("DOCKER_HOST"):
            raise SetupError(
                f"no Docker engine answers at DOCKER_HOST={site.environ['DOCKER_HOST']} ({view.complaint}); "
                "start that one, or unset DOCKER_HOST, and run this again"
            )
        if view.state == "no_cli" or site.shell.which("dockerd") is None:
            self._install()
        self._start()

    def _install(self) -> None:
        site = self.site
        if not site.host.installs_packages:
            why = (
                "this set-up installs one on Debian and Ubuntu only"
                if site.host.is_root
                else "only root may install one"
            )
            raise SetupError(f"there is no Docker engine on this machine, and {why}; {INSTALL_HINT}")
        site.say("installing the distribution's docker.io, since there is no engine on this machine and you are root")
        install_packages(site, "docker.io")
        if site.shell.which("docker") is None:
            # Newer releases keep the client in a separate package, which docker.io only recommends.
            install_packages(site, "docker-cli")

    def _start(self) -> None:
        site = self.site
        view = look_at_engine(site)
        if view.state == "answers":
            site.say(f"Docker {view.version} answers")
            return
        if not site.host.is_root:
            raise SetupError(
                "the Docker engine is not running; start it (sudo systemctl start docker) and run this again"
            )
        start_dockerd(
            site,
            answers=lambda: look_at_engine(site).state == "answers",
            log=self.dockerd_log,
            pid_file=self.pid_file,
        )
