"""The environment, read once into one frozen value."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controller.errors import ConfigInvalid

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of the controller outside `models.yaml`; folders are absolute."""

    host: str = "127.0.0.1"
    port: int = 8000
    project: str = "orchestrar"
    config_file: Path = ROOT / "config" / "models.yaml"
    data_dir: Path = ROOT / "data"
    compose_dir: Path = ROOT / "compose"
    templates_dir: Path = ROOT / "templates"
    first_model_port: int = 8001
    max_body_bytes: int = 10 * 1024 * 1024
    max_in_flight: int = 256
    stop_grace_s: int = 30
    stop_models_on_exit: bool = False
    allowed_hosts: tuple[str, ...] = ()
    log_level: str = "info"
    hub_endpoint: str | None = None
    hub_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the ORCHESTRAR_* variables (docs/operations.md lists them).

        Raises ConfigInvalid with every variable that is wrong, not only the first.
        """
        reader = _Reader(environ)
        settings = cls(
            host=reader.host("ORCHESTRAR_HOST", cls.host),
            port=reader.integer("ORCHESTRAR_PORT", cls.port, 1, 65535),
            project=reader.project("ORCHESTRAR_PROJECT", cls.project),
            config_file=reader.path("ORCHESTRAR_CONFIG", cls.config_file),
            data_dir=reader.path("ORCHESTRAR_DATA", cls.data_dir),
            compose_dir=reader.path("ORCHESTRAR_COMPOSE_DIR", cls.compose_dir),
            templates_dir=reader.path("ORCHESTRAR_TEMPLATES", cls.templates_dir),
            first_model_port=reader.integer("ORCHESTRAR_FIRST_MODEL_PORT", cls.first_model_port, 1024, 65000),
            max_body_bytes=reader.integer("ORCHESTRAR_MAX_BODY_BYTES", cls.max_body_bytes, 1024, 1 << 30),
            max_in_flight=reader.integer("ORCHESTRAR_MAX_IN_FLIGHT", cls.max_in_flight, 1, 4096),
            stop_grace_s=reader.integer("ORCHESTRAR_STOP_GRACE_S", cls.stop_grace_s, 0, 3600),
            stop_models_on_exit=reader.flag("ORCHESTRAR_STOP_MODELS_ON_EXIT", cls.stop_models_on_exit),
            allowed_hosts=reader.names("ORCHESTRAR_ALLOWED_HOSTS"),
            log_level=reader.choice("ORCHESTRAR_LOG_LEVEL", cls.log_level, ("debug", "info", "warning", "error")),
            hub_endpoint=environ.get("HF_ENDPOINT") or None,
            hub_token=environ.get("HF_TOKEN") or None,
        )
        if reader.problems:
            raise ConfigInvalid(reader.problems)
        return settings


class _Reader:
    """Reads variables by type and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self._environ.get(name) or default

    def names(self, name: str) -> tuple[str, ...]:
        """Return the entries of a comma-separated list, in lower case and without blank ones."""
        entries = (entry.strip().lower() for entry in self.text(name, "").split(","))
        return tuple(entry for entry in entries if entry)

    def path(self, name: str, default: Path) -> Path:
        value = self._environ.get(name)
        return Path(value).expanduser().absolute() if value else default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._environ.get(name)
        if not value:
            return default
        if value.isascii() and value.isdigit() and len(value) <= 12 and low <= int(value) <= high:
            return int(value)
        self.problems.append(f"environment: {name}: {value!r} is not usable; write a whole number from {low} to {high}")
        return default

    def flag(self, name: str, default: bool) -> bool:
        value = self.text(name, str(int(default)))
        if value not in ("0", "1"):
            self.problems.append(f"environment: {name}: {value!r} is not usable; write 0 or 1")
        return value == "1"

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default).lower()
        if value not in choices:
            self.problems.append(f"environment: {name}: {value!r} is not known; write one of {', '.join(choices)}")
            return default
        return value

    def project(self, name: str, default: str) -> str:
        """Return a Compose project name, by Compose's own rule."""
        value = self.text(name, default)
        if not (value[0].isalnum() and value.isascii() and all(c.islower() or c.isdigit() or c in "-_" for c in value)):
            self.problems.append(
                f"environment: {name}: {value!r} is not a Compose project name; "
                "write lower-case letters, digits, '-' and '_', beginning with a letter or digit"
            )
            return default
        return value

    def host(self, name: str, default: str) -> str:
        """Return a loopback address; without API keys the controller may serve no other machine."""
        value = self.text(name, default)
        try:
            loopback = value == "localhost" or ipaddress.ip_address(value).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            self.problems.append(
                f"environment: {name}: {value!r} is not a loopback address, and the API has no keys yet; "
                "write 127.0.0.1, and put a reverse proxy with authentication in front of it to serve other machines"
            )
            return default
        return value
