"""A machine that exists in memory only, for the tests of the set-up."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.setup.console import Console
from scripts.setup.failure import SetupError
from scripts.setup.host import Host
from scripts.setup.layout import Layout
from scripts.setup.shell import USUAL, Answer, Environ, RunOptions
from scripts.setup.steps import Site

ENGINE_ANSWERS = Answer(0, json.dumps({"Client": {}, "Server": {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41"}}))
ENGINE_DOWN = Answer(1, '{"Server":null}', "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
LOCAL_CONTEXT = Answer(0, "unix:///var/run/docker.sock\n")
NO_SUCH_IMAGE = Answer(1, "", "No such image")


class FakeProcess:
    """A process that never ends."""

    pid = 4242

    def poll(self) -> int | None:
        return None


class FakeShell:
    """Answers by the longest matching prefix of a command line, and keeps the commands.

    `effects` are called when a command with such a prefix is run; an effect may change `answers` or raise.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.programs: set[str] = {"docker", "dockerd"}
        self.answers: dict[str, Answer] = {"docker context inspect": LOCAL_CONTEXT}
        self.effects: dict[str, Callable[[], None]] = {}
        self.ran: list[str] = []
        self.environments: list[Mapping[str, str]] = []

    def which(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if program in self.programs else None

    def ask(self, *argv: str, timeout_s: float = 30) -> Answer:
        return self.answers.get(longest_prefix(self.answers, " ".join(argv)), Answer(127, err="not scripted"))

    def run(self, *argv: str, env: Environ = None, options: RunOptions = USUAL) -> None:
        line = " ".join(argv)
        self.ran.append(line)
        self.environments.append(env or {})
        self.effects.get(longest_prefix(self.effects, line), lambda: None)()

    def spawn(self, *argv: str, log: Path, env: Environ = None, cwd: Path | None = None) -> FakeProcess:
        self.run(*argv, env=env)
        return FakeProcess()

    def ran_like(self, text: str) -> list[str]:
        """Return the commands run so far that contain the text."""
        return [line for line in self.ran if text in line]


def longest_prefix(table: Mapping[str, object], line: str) -> str:
    return max((key for key in table if line.startswith(key)), key=len, default="")


def fails(message: str = "it failed", exit_code: int = 1) -> Callable[[], None]:
    """Return an effect: the command fails."""

    def effect() -> None:
        raise SetupError(message, exit_code=exit_code)

    return effect


def make_host(*, root: bool = True, distribution: str = "debian", init: str = "") -> Host:
    return Host(is_root=root, distributions=frozenset({distribution}), init=init, user="root" if root else "ada")


def make_site(root: Path, *, host: Host | None = None, environ: Mapping[str, str] | None = None) -> Site:
    """Return a site below `root` with a fake shell and a console that writes to memory."""
    layout = Layout(
        root=root, data=root / "data", compose_dir=root / "compose", base_override=(environ or {}).get("BASE_IMAGE")
    )
    return Site(
        layout=layout,
        host=host or make_host(),
        shell=FakeShell(root / "data" / "step.log"),
        console=Console(io.StringIO()),
        environ=environ or {},
    )


def shell_of(site: Site) -> FakeShell:
    assert isinstance(site.shell, FakeShell)
    return site.shell


def image_answer(image_id: str, **labels: str) -> Answer:
    """Return what `docker image inspect` prints; `__` in a label's name stands for a dot."""
    dotted = {name.replace("__", "."): value for name, value in labels.items()}
    return Answer(0, json.dumps({"Id": image_id, "Config": {"Labels": dotted}}))
