"""The virtual environment `.venv` with the pinned requirements."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.failure import SetupError
from scripts.setup.packages import install_packages
from scripts.setup.stamps import read_stamp, text_hash, write_stamp
from scripts.setup.steps import Site

PIP_ENVIRONMENT = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def interpreter() -> str:
    """Return the Python below any environment: we may ourselves run in the one that is to be rebuilt."""
    return os.path.realpath(sys.executable)


@dataclass(frozen=True)
class VenvStep:
    """`.venv` holds what one requirements file pins."""

    site: Site
    name: str = "Python environment"
    slug: str = "venv"
    requirements: str = "requirements.txt"

    def already_there(self) -> str | None:
        if read_stamp(self._stamp) != self._expected_stamp() or not self._works():
            return None
        return f"{self.site.layout.venv.name} matches {self.requirements}"

    def do(self) -> None:
        layout, run = self.site.layout, self.site.shell.run
        # pip leaves half a package behind if it is killed, and cannot repair it: start over then.
        if self._unfinished.exists() or not self._works():
            self._need_ensurepip()
            self.site.say(f"creating {layout.venv.name} with Python {'.'.join(map(str, sys.version_info[:3]))}")
            run(interpreter(), "-m", "venv", "--clear", str(layout.venv))
        elif self.site.shell.ask(str(layout.python), "-m", "pip", "--version").code:
            run(str(layout.python), "-m", "ensurepip", "--upgrade")
        write_stamp(self._unfinished, self.requirements)
        self.site.say(f"installing {self.requirements}")
        run(
            str(layout.python), "-m", "pip", "install", "--progress-bar", "off", "-r",
            str(layout.root / self.requirements), env=PIP_ENVIRONMENT,
        )  # fmt: skip
        write_stamp(self._stamp, self._expected_stamp())
        self._unfinished.unlink(missing_ok=True)

    @property
    def _stamp(self) -> Path:
        return self.site.layout.venv / f".{self.requirements}.stamp"

    @property
    def _unfinished(self) -> Path:
        return self.site.layout.venv / ".unfinished"

    def _expected_stamp(self) -> str:
        """Return a finished install's stamp; with the folder, since a moved checkout's scripts name the old one."""
        layout = self.site.layout
        return text_hash(str(layout.venv), (layout.root / self.requirements).read_text(encoding="utf-8"))

    def _works(self) -> bool:
        probe = "import sys; sys.exit(sys.version_info < (3, 11))"
        return self.site.shell.ask(str(self.site.layout.python), "-c", probe).code == 0

    def _need_ensurepip(self) -> None:
        """Install ensurepip if it is missing: Debian keeps it in a separate package."""
        site = self.site
        if site.shell.ask(interpreter(), "-c", "import ensurepip").code == 0:
            return
        package = f"python3.{sys.version_info.minor}-venv"
        if not site.host.installs_packages:
            raise SetupError(
                f"Python's ensurepip is missing, so no virtual environment can be made; "
                f"install it (Debian and Ubuntu: sudo apt-get install {package}) and run this again"
            )
        site.say(f"installing {package}: Python's ensurepip is missing, and you are root")
        install_packages(site, package)
