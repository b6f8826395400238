"""The paths of a checkout, and the names that it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.errors import ConfigInvalid
from controller.settings import ROOT, Settings
from scripts.setup.failure import SetupError

PULLED_BASE = "python:3.11-slim-bookworm"
LOCAL_BASE = "orchestrar-base:bookworm"
PULLED_COMPILER = "gcc:12-bookworm"
LOCAL_COMPILER = "orchestrar-compiler:bookworm"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Folders are absolute; `base_override` and `compiler_override` are the user's own images, if named."""

    root: Path = ROOT
    data: Path = Settings.data_dir
    compose_dir: Path = Settings.compose_dir
    templates: Path = Settings.templates_dir
    project: str = Settings.project
    host: str = Settings.host
    port: int = Settings.port
    stop_grace_s: int = Settings.stop_grace_s
    base_override: str | None = None
    compiler_override: str | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Layout:
        """Read the variables as the controller will. Raises SetupError with every one that is wrong."""
        try:
            settings = Settings.from_environ(environ)
        except ConfigInvalid as error:
            raise SetupError("\n".join(error.problems), exit_code=2) from error
        return cls(
            data=settings.data_dir,
            compose_dir=settings.compose_dir,
            templates=settings.templates_dir,
            project=settings.project,
            host=settings.host,
            port=settings.port,
            stop_grace_s=settings.stop_grace_s,
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
    def servers(self) -> Path:
        return self.root / "servers"

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
