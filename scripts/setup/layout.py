"""Where everything of a checkout lies, and the names it goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.failure import SetupError

ROOT = Path(__file__).resolve().parent.parent.parent
PULLED_BASE = "python:3.11-slim-bookworm"
LOCAL_BASE = "orchestrar-base:bookworm"
PULLED_COMPILER = "gcc:12-bookworm"
LOCAL_COMPILER = "orchestrar-compiler:bookworm"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Folders are absolute; `base_override` and `compiler_override` are the user's own images, when named."""

    root: Path = ROOT
    data: Path = ROOT / "data"
    compose_dir: Path = ROOT / "compose"
    templates: Path = ROOT / "templates"
    project: str = "orchestrar"
    host: str = "127.0.0.1"
    port: int = 8000
    stop_grace_s: int = 30
    base_override: str | None = None
    compiler_override: str | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Layout:
        """Read what the set-up needs; the controller checks every variable again, and more strictly."""
        return cls(
            data=_folder(environ, "ORCHESTRAR_DATA", cls.data),
            compose_dir=_folder(environ, "ORCHESTRAR_COMPOSE_DIR", cls.compose_dir),
            templates=_folder(environ, "ORCHESTRAR_TEMPLATES", cls.templates),
            project=environ.get("ORCHESTRAR_PROJECT") or cls.project,
            host=environ.get("ORCHESTRAR_HOST") or cls.host,
            port=_number(environ, "ORCHESTRAR_PORT", cls.port, 1, 65535),
            stop_grace_s=_number(environ, "ORCHESTRAR_STOP_GRACE_S", cls.stop_grace_s, 0, 3600),
            base_override=environ.get("BASE_IMAGE") or None,
            compiler_override=environ.get("COMPILER_IMAGE") or None,
        )

    @property
    def base_image(self) -> str:
        return self.base_override or LOCAL_BASE

    @property
    def compiler_image(self) -> str:
        return self.compiler_override or LOCAL_COMPILER

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def runner(self) -> Path:
        return self.root / "runner"

    @property
    def wheelhouse(self) -> Path:
        return self.runner / "wheelhouse"

    @property
    def setup_logs(self) -> Path:
        return self.data / "logs" / "setup"

    @property
    def scratch(self) -> Path:
        return self.data / "tmp"

    @property
    def controller_log(self) -> Path:
        return self.data / "logs" / "controller.log"

    @property
    def pid_file(self) -> Path:
        return self.data / "run" / "controller.pid"

    @property
    def started_stamp(self) -> Path:
        return self.data / "run" / "controller.started"

    @property
    def url_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def address(self) -> str:
        return f"{self.url_host}:{self.port}"


def _folder(environ: Mapping[str, str], name: str, default: Path) -> Path:
    value = environ.get(name)
    return Path(value).expanduser().absolute() if value else default


def _number(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    value = environ.get(name)
    if not value:
        return default
    if value.isascii() and value.isdigit() and len(value) <= 12 and low <= int(value) <= high:
        return int(value)
    raise SetupError(f"{name}: {value!r} is not usable; write a whole number from {low} to {high}", exit_code=2)
